"""Forward gradients (Baydin et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Beta, Count, Positive, Seed, Var
from ...core.evaluate import gradient
from ...linalg import total_dot
from .base import ApproximationTarget
from .directions import Distribution
from .formulas import formula
from .randomized import RandomDirections, average, differences_along


class ForwardGradient(RandomDirections):
    """Gradient from directional derivatives along random directions: g = mean of u·⟨∇f, u⟩, an unbiased estimate.

    Args:
        n_samples: number of directions.
        distribution: of the directions: "gaussian", "rademacher", "uniform" or "sphere", all with variance 1.
        beta: each direction is β times that of the last step plus 1 − β times a new one.
        pre_generate: draw the directions once per step. False: anew at each evaluation of the gradient.
        jvp_method: how derivatives are computed. "autograd": exactly, all from one backward pass; "forward": from one
            further loss each; "central": from two, with an error of order h².
        h: length of the finite differences.
        target: what is replaced; see :class:`GradApproximator`.
        seed: of the directions; by default drawn from torch's global generator.

    Raises:
        ValueError: ``n_samples``, ``jvp_method``, ``h`` or ``pre_generate`` that differ between parameter groups.

    Reference: Baydin et al., "Gradients without Backpropagation", 2022, arXiv:2202.08587.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.ForwardGradient(n_samples=8, seed=0), tz.m.LR(0.05))
        >>> for _ in range(200):
        ...     loss = optimizer.step(closure)
        >>> loss.item() < 1e-4
        True
    """

    n_samples: Count = 1
    distribution: Distribution = "gaussian"
    beta: Beta = 0
    pre_generate: bool = True
    jvp_method: Literal["autograd", "forward", "central"] = "autograd"
    h: Positive = 1e-3
    target: ApproximationTarget = "closure"
    seed: Seed | None = None
    uniform = ("n_samples", "jvp_method", "h", "pre_generate", "seed")

    @torch.no_grad()
    def approximate(
        self, closure: Callable[..., Any], params: list[Tensor], loss: Tensor | None, var: Var
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """One derivative for each direction."""
        common = self.common(params)
        directions = self.directions(params, common)
        out = [torch.empty_like(p, requires_grad=False) for p in params]
        if common["jvp_method"] == "autograd":
            with torch.enable_grad():
                found, grads = gradient(closure, params)
            if var.modular is not None:
                grads = var.modular.distributed.mean_grads(grads)
            loss = found if loss is None else loss
            slopes = []
            for i in range(len(directions)):
                directions.write(i, out)
                slopes.append(total_dot(grads, out))
        else:
            points = formula("forward2" if common["jvp_method"] == "forward" else "central2")
            start, lengths = [p.detach().clone() for p in params], [common["h"]] * len(params)
            differences, _, loss = differences_along(directions, params, start, lengths, points, closure, loss, var)
            slopes = [d / common["h"] for d in differences]
        average(directions, out, [[slope] * len(params) for slope in slopes])
        return out, loss, None
