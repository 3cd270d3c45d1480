"""Running aggregates of the update."""

from __future__ import annotations

from ...core import Context, Fraction, Slot, Target, Transform
from ...lang import Operand, Value


class AccumulateMaximum(Transform):
    """The largest value so far of each element: u ← max(u, (1 − decay)·previous), starting at the first update.

    Args:
        decay: how much of the stored value is lost before each new update, in [0, 1].
        target: what is accumulated.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AccumulateMaximum())
        >>> for grad in (1.0, 3.0, 2.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()  # -(1 + 3 + 3)
        -7.0
    """

    decay: Fraction = 0
    target: Target = "update"
    buffer = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, decay = ctx.state, ctx.settings.decay
        if ctx.first:
            s.buffer = u
        else:
            s.buffer = u.maximum(s.buffer if decay == 0 else (1 - decay) * s.buffer)
        return s.buffer
