"""Sophia with Hutchinson's estimator (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Context, Count, NonNegative, Positive, Seed, Slot, Transform, Var
from ...core.evaluate import uniform_settings
from ...core.point import StepPoint
from ...lang import Operand, Value
from ...linalg import hvp


class SophiaH(Transform):
    r"""Divides an average of the updates by an average of the Hessian's diagonal, and clips each element.

    .. math::
        m_t = β_1 m_{t-1} + (1-β_1) inner(u_t), \quad
        u ← clamp\left(\frac{m_t}{\max(precond\_scale·h_t, ε)}, -clip, clip\right)

    Every update_freq steps, from the first on, h learns from the mean of products of random signs v:

    .. math:: h_t = β_2 h_{t-1} + (1-β_2) \frac{1}{n} \sum_{i=1}^n v_i ⊙ H v_i

    Args:
        beta1: decay of the average of updates, in [0, 1).
        beta2: decay of the average of the diagonal, in [0, 1).
        update_freq: how many steps an estimate of the diagonal serves.
        precond_scale: a factor for the diagonal; the paper's γ times the batch size.
        clip: the largest magnitude of an element.
        eps: the least number to divide by, so that elements of negative curvature are clipped.
        hvp_method: how Hv is computed. "forward": from one further gradient; "central": from two; "autograd": exactly,
            from a closure(backward=False) whose loss can be differentiated.
        fd_h: the distance of the further gradients.
        n_samples: how many products an estimate is the mean of.
        seed: of the random signs; None draws one from torch's generator.
        inner: a module that gives what is averaged.

    Reference:
        Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", ICLR 2024,
        arXiv:2305.14342.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.SophiaH(beta1=0, beta2=0, clip=2), tz.m.LR(1.0))
        >>> def closure(backward=True):
        ...     loss = 5 * p[0] ** 2 + 0.5 * p[1] ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(2):  # both elements take Newton's step of 3, clipped to 2, and then the rest
        ...     _ = optimizer.step(closure)
        >>> p.detach()
        tensor([0., 0.])
    """

    beta1: Beta = 0.96
    beta2: Beta = 0.99
    update_freq: Count = 10
    precond_scale: Positive = 1
    clip: Positive = 1
    eps: NonNegative = 1e-12
    hvp_method: Literal["forward", "central", "autograd"] = "autograd"
    fd_h: Positive = 1e-3
    n_samples: Count = 1
    seed: Seed | None = None
    inner: Child | None = None
    exp_avg = Slot()
    h_exp_avg = Slot()
    requires_closure = True

    @property
    def one_piece(self) -> bool:  # type: ignore[override]
        """Whether it moves the parameters on the way."""
        return bool(self.defaults["hvp_method"] != "autograd")

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        s.exp_avg = m = s.exp_avg.lerp(ctx.child("inner", u), 1 - h.beta1)
        diagonal = s.h_exp_avg
        if (ctx.step - 1) % h.update_freq == 0:
            found = ctx.evaluate(self.estimate, u)
            s.h_exp_avg = diagonal = found.isfinite().where(diagonal.lerp(found, 1 - h.beta2), diagonal)
        return (m / (h.precond_scale * diagonal).maximum(h.eps)).clamp(-h.clip, h.clip)

    def estimate(self, var: Var) -> Sequence[Tensor]:
        """An estimate of the Hessian's diagonal."""
        h = uniform_settings(self, var.params, ("hvp_method", "fd_h", "n_samples", "seed"))
        point = StepPoint(var, self.path)
        total = [torch.zeros_like(p) for p in var.params]
        for _ in range(h["n_samples"]):
            signs = [
                torch.empty_like(p).bernoulli_(0.5, generator=self.generator(p.device)).mul_(2).sub_(1)
                for p in var.params
            ]
            torch._foreach_addcmul_(total, signs, hvp(point, signs, h["hvp_method"], h["fd_h"]))
        torch._foreach_div_(total, h["n_samples"])
        return total
