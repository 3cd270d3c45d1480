"""Running aggregates of the update."""

from __future__ import annotations

from ...core import Context, Fraction, Slot, Target, Transform
from ...lang import Operand, Value


def kept(ctx: Context) -> Value:
    """What is left of the stored value."""
    decay, buffer = ctx.settings.decay, ctx.state.buffer
    return buffer if decay == 0 else (1 - decay) * buffer


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
        s = ctx.state
        s.buffer = u if ctx.first else u.maximum(kept(ctx))
        return s.buffer


class AccumulateMinimum(Transform):
    """The smallest value so far of each element: u ← min(u, (1 − decay)·previous), starting at the first update.

    Args:
        decay: how much of the stored value is lost before each new update, in [0, 1].
        target: what is accumulated.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AccumulateMinimum())
        >>> for grad in (1.0, 3.0, 2.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()  # -(1 + 1 + 1)
        -3.0
    """

    decay: Fraction = 0
    target: Target = "update"
    buffer = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s = ctx.state
        s.buffer = u if ctx.first else u.minimum(kept(ctx))
        return s.buffer


class AccumulateSum(Transform):
    """The sum so far of each element: u ← u + (1 − decay)·previous.

    Args:
        decay: how much of the stored value is lost before each new update, in [0, 1].
        target: what is accumulated.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AccumulateSum())
        >>> for grad in (1.0, 3.0, 2.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()  # -(1 + 4 + 6)
        -11.0
    """

    decay: Fraction = 0
    target: Target = "update"
    buffer = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s = ctx.state
        s.buffer = u + kept(ctx)
        return s.buffer


class AccumulateProduct(Transform):
    """The product so far of each element: u ← u·(1 − decay)·previous, where the first previous one is 1.

    Args:
        decay: how much of the stored value is lost before each new update, in [0, 1].
        target: what is accumulated.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AccumulateProduct())
        >>> for grad in (1.0, 3.0, 2.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()  # -(1 + 3 + 6)
        -10.0
    """

    decay: Fraction = 0
    target: Target = "update"
    buffer = Slot(1.0)

    def rule(self, u: Value, ctx: Context) -> Operand:
        s = ctx.state
        s.buffer = u * kept(ctx)
        return s.buffer


class AccumulateMean(Transform):
    """The mean so far of each element: with k = (1 − decay)·previous, u ← k + (u − k)/t at step t.

    Args:
        decay: how much of the stored value is lost before each new update, in [0, 1].
        target: what is accumulated.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.AccumulateMean())
        >>> for grad in (1.0, 3.0, 2.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()  # -(1 + 2 + 2)
        -5.0
    """

    decay: Fraction = 0
    target: Target = "update"
    buffer = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s = ctx.state
        s.buffer = kept(ctx).lerp(u, 1 / ctx.step)
        return s.buffer
