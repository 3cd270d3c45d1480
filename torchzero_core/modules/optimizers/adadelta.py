"""Adadelta (Zeiler 2012)."""

from __future__ import annotations

from ...core import Context, Fraction, NonNegative, Slot, Transform
from ...lang import Operand, Value


class Adadelta(Transform):
    r"""Scales the update by the root of averages of squares: of past results over past updates.

    .. math::
        v_t = ρ v_{t-1} + (1-ρ) u_t^2, \quad Δ_t = \frac{\sqrt{a_{t-1} + ε}}{\sqrt{v_t + ε}} u_t, \quad
        a_t = ρ a_{t-1} + (1-ρ) Δ_t^2, \quad u ← Δ_t

    With a learning rate behind it, it equals ``torch.optim.Adadelta``.

    Args:
        rho: decay of the averages, in [0, 1].
        eps: added to the squares.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.ones(1)
        >>> tz.Modular([p], tz.m.Adadelta(rho=0.75, eps=0.25), tz.m.LR(1.0)).step()
        >>> round(p.item(), 4)  # √0.25 / √(0.25 + 0.25)
        -0.7071
    """

    rho: Fraction = 0.9
    eps: NonNegative = 1e-6
    square_avg = Slot()
    acc_delta = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        s.square_avg = v = h.rho * s.square_avg + (1 - h.rho) * u * u
        delta = (s.acc_delta + h.eps).sqrt() / (v + h.eps).sqrt() * u
        s.acc_delta = h.rho * s.acc_delta + (1 - h.rho) * delta * delta
        return delta
