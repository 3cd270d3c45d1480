"""The truncated conjugate gradients of Steihaug and Toint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Count, Positive
from ...core.point import StepPoint
from ...core.vector_method import Curvature, Unit
from ...linalg import SymmetricOperator, hvp
from .base import Model, Radius, to_boundary

#: How many products of a step are kept for another try.
KEPT = 10


class TrustCG(Radius):
    r"""Newton's method in a trust region by conjugate gradients: Hessian products only.

    .. math:: \min_s\; g's + \tfrac{1}{2} s'Bs \quad \text{with}\quad ‖s‖ ≤ Δ

    Conjugate gradients start from s = 0 and end when the residual is below min(½, √‖g‖)·‖g‖, at the boundary, or at a
    direction of negative curvature, along which the step goes on to the boundary.

    Args:
        hvp_method: how Hessian products are computed without ``hess``. "autograd": exactly, from a
            closure(backward=False) whose loss can be differentiated; "forward": from one further gradient; "central":
            from two, with an error of order h².
        h: the distance of the further gradients.
        maxiter: the largest number of products in a step. None: as many as there are parameters.

    Raises:
        ValueError: settings that differ between parameter groups.
        TypeError: a ``hess`` that has no Hessian.
        RuntimeError: with "autograd", a loss that has no graph.

    Reference: T. Steihaug, SIAM J. Numerical Analysis 20, 1983; Nocedal and Wright, Numerical Optimization, 2006,
    algorithms 4.1 and 7.2.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.TrustCG())
        >>> for _ in range(60):
        ...     loss = optimizer.step(lambda backward=True: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2)
        >>> loss.item() < 1e-8
        True
    """

    gathers = False
    without_graph = "hvp_method='forward'"

    _: KW_ONLY
    hvp_method: Literal["autograd", "forward", "central"] = "autograd"
    h: Positive = 1e-3
    maxiter: Count | None = None

    def curvature(self, unit: Unit, point: StepPoint, settings: Mapping[str, Any]) -> Curvature:
        """The true Hessian by its products."""
        method, h = settings["hvp_method"], settings["h"]
        return SymmetricOperator(
            lambda v: unit.vector(hvp(point, unit.tensors(v), method, h)), unit.vector(unit.pick(point.grads))
        )

    def from_graph(self, settings: Mapping[str, Any]) -> bool:
        return bool(settings["hvp_method"] == "autograd")

    def solve(self, model: Model) -> tuple[Tensor, float, bool]:
        """Steihaug's step. B·s is summed up on the way, so that no product is for the decrease alone."""
        g, radius, most = model.g, model.state["radius"], model.settings["maxiter"]
        s, Bs, d, r = torch.zeros_like(g), torch.zeros_like(g), -g, g.clone()
        norm = model.norm(g)
        tolerance, square, kept_short = min(0.5, math.sqrt(norm)) * norm, norm**2, False

        def decrease(t: float) -> float:
            step = s + t * d
            return -model.dot(step, g + 0.5 * (Bs + t * Bd))

        for i in range(model.unit.numel() if most is None else most):
            Bd = self._product(model, d, i)
            curvature = model.dot(d, Bd)
            alpha = square / curvature if curvature > 0 else math.inf
            if kept_short := not (alpha < math.inf and model.norm(s + alpha * d) < radius):
                ends = to_boundary(model, s, d, radius)
                alpha = ends[1] if curvature > 0 else max(ends, key=decrease)
            s, Bs = s + alpha * d, Bs + alpha * Bd
            if kept_short:
                break
            r = r + alpha * Bd
            before, square = square, model.dot(r, r)
            if math.sqrt(square) < tolerance:
                break
            d = (square / before) * d - r
        return s, -model.dot(s, g + 0.5 * Bs), kept_short

    def _product(self, model: Model, d: Tensor, i: int) -> Tensor:
        """B·d for the i-th direction, which is the same in every try of a step."""
        if i < len(model.products):
            return model.products[i]
        product = model.B @ d
        if i < KEPT:
            model.products.append(product)
        return product
