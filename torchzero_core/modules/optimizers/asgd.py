"""Averaged stochastic gradient descent (Polyak & Juditsky 1992)."""

from __future__ import annotations

from ...core import Context, NonNegative, Slot, Transform
from ...lang import Operand, Value


class ASGD(Transform):
    r"""Gradient descent whose step size decays, with an average of the parameters on the side.

    .. math::
        u ← η_t (u_t + λ p), \quad η_1 = lr, \quad η_{t+1} = \frac{lr}{(1 + λ·lr·t)^α}, \quad
        \bar p_t = \bar p_{t-1} + \frac{p_t - \bar p_{t-1}}{\max(1, t - 1 - t_0)}

    It stands at the end of a chain, without a learning rate behind it; p_t are the parameters after the step. It equals
    ``torch.optim.ASGD``, whose ``ax`` is ``optimizer.state[p]["ASGD.average"]``. As there, a learning rate that a
    scheduler changes counts from the next step on.

    Args:
        lr: the learning rate, which is that of the parameter groups.
        lambd: λ, the decay of the parameters and of the step size.
        alpha: the power of the decay of the step size.
        t0: the step from which on p̄ is an average; before, it is p.

    Reference:
        Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control and Optimization 30,
        1992; Bottou, "Stochastic Gradient Descent Tricks", 2012.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ASGD(lr=1.0, t0=0))
        >>> for _ in range(3):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> round(p.item(), 3), round(optimizer.state[p]["ASGD.average"].item(), 3)
        (-2.999, -2.5)
    """

    lr: NonNegative = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6
    average = Slot()
    eta = Slot(init="lr", scalar=True)

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, p, t = ctx.state, ctx.settings, ctx.params, ctx.step
        step = (u + h.lambd * p) * s.eta
        s.eta = h.lr / (1 + h.lambd * h.lr * t) ** h.alpha
        s.average = s.average.lerp(p - step, 1 / (t - 1 - h.t0).maximum(1))
        return step
