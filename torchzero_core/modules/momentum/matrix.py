"""Momentum with a matrix in the place of a number (Orr 1995)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ...core import Child, Context, Finite, NonNegative, Positive, Slot, Transform, Var
from ...core.evaluate import uniform_settings
from ...core.point import StepPoint
from ...lang import Operand, Value
from ...linalg import hvp


class _MatrixMomentum(Transform):
    """What the two share: the product with the Hessian and the recursion."""

    prev_update = Slot()
    requires_closure = True
    one_piece = True

    def product(self, var: Var) -> Sequence[Tensor]:
        """H·v of the update v."""
        h = uniform_settings(self, var.params, ("hvp_method", "h"))
        return hvp(StepPoint(var, self.path), var.peek_update(), h["hvp_method"], h["h"])

    def recur(self, u: Value, mu: Operand, ctx: Context) -> Operand:
        """The update with what is left of the last one; nothing of it where the product is not finite."""
        prev = ctx.state.prev_update
        new = u + prev - mu * ctx.child("hvp_tfm", ctx.evaluate(self.product, prev))
        new = new.isfinite().where(new, u)
        ctx.state.prev_update = ctx.settings.beta * new
        return new


class MatrixMomentum(_MatrixMomentum):
    r"""Momentum that decays fast where the loss is curved: u_t ← u_t + β(I − μH) u_{t−1}.

    .. math:: u ← u_t + v - μHv, \quad v ← βu, \quad v_0 = 0

    One product with the Hessian a step, from the second on.

    Args:
        mu: μ. The momentum is stable where μ times the largest curvature is below 2.
        beta: β, the decay of the momentum.
        hvp_method: how Hv is computed. "forward": from one further gradient; "central": from two, with an error of
            order h²; "autograd": exactly, from a closure(backward=False) whose loss can be differentiated.
        h: the distance of the further gradients.
        hvp_tfm: a module that Hv goes through.

    Reference:
        Orr, "Dynamics and Algorithms for Stochastic Search", 1995; Orr & Leen, "Using Curvature Information for Fast
        Stochastic Search", NIPS 1996.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.MatrixMomentum(mu=0.25, hvp_method="autograd"), tz.m.LR(0.25))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(2):  # 2, then 1 + (1 - 0.25·2)·2
        ...     _ = optimizer.step(closure)
        >>> p.item()
        0.0
    """

    mu: Finite = 0.1
    beta: Finite = 1
    hvp_method: Literal["forward", "central", "autograd"] = "forward"
    h: Positive = 1e-3
    hvp_tfm: Child | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        if ctx.first:
            ctx.state.prev_update = ctx.settings.beta * u
            return u
        return self.recur(u, ctx.settings.mu, ctx)


class AdaptiveMatrixMomentum(_MatrixMomentum):
    r""":class:`MatrixMomentum` that takes μ from the last step: one over the curvature along it.

    .. math:: u ← u_t + v - μHv, \quad v ← βu, \quad μ = mu\_mul \frac{‖x_t - x_{t-1}‖}{‖g_t - g_{t-1}‖ + ε}

    with norms over all parameters.

    Args:
        mu_mul: a factor for μ.
        beta: β, the decay of the momentum.
        eps: ε, added to the denominator.
        hvp_method: how Hv is computed; see :class:`MatrixMomentum`.
        h: the distance of the further gradients.
        hvp_tfm: a module that Hv goes through.

    Reference:
        Orr & Leen, "Using Curvature Information for Fast Stochastic Search", NIPS 1996, for a given μ.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AdaptiveMatrixMomentum(eps=0, hvp_method="autograd"), tz.m.LR(0.25))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(2):  # μ = 1/2 and H = 2: nothing is left of the last step
        ...     _ = optimizer.step(closure)
        >>> p.item()
        0.25
    """

    mu_mul: Finite = 1
    beta: Finite = 1
    eps: NonNegative = 1e-4
    hvp_method: Literal["forward", "central", "autograd"] = "forward"
    h: Positive = 1e-3
    hvp_tfm: Child | None = None
    prev_params = Slot()
    prev_grad = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, p, g = ctx.state, ctx.settings, ctx.params, ctx.grads
        change = 0.0 if ctx.first else 1.0  # a parameter that comes later has no step behind it
        before, grad_before = s.prev_params, s.prev_grad
        s.prev_params, s.prev_grad = p, g
        if ctx.whole.first:
            s.prev_update = h.beta * u
            return u
        moved = (change * (p - before)).global_norm()
        return self.recur(u, h.mu_mul * moved / ((change * (g - grad_before)).global_norm() + h.eps), ctx)
