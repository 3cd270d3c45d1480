"""The update beside those before it."""

from __future__ import annotations

from typing import Literal

from ...core import Context, Length, NonNegative, Slot, Target, Transform
from ...lang import Operand, Value


class Previous(Transform):
    """The update from n steps ago, or the oldest there is: u ← u_{t−n}, where t − n is at least 1.

    Args:
        n: how many steps ago.
        target: what is delayed.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Previous(2))
        >>> for grad in (1.0, 10.0, 100.0, 1000.0):  # 1, 1, 1, 10
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -13.0
    """

    n: Length = 1
    target: Target = "update"
    history = Slot(history="n")

    def rule(self, u: Value, ctx: Context) -> Operand:
        ring, n, t = ctx.state.history, ctx.settings.n, ctx.step
        place = (t - 1) % n
        if ctx.first:
            ring[place] = u
            return u
        if t > n:
            oldest, ring[place] = ring[place], u
        else:
            oldest, ring[place] = ring[0], u
        return oldest


class LastDifference(Transform):
    """The difference of the last two updates: u ← u − u_prev, where the one before the first is 0.

    Args:
        target: what differences are taken of.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LastDifference())
        >>> for grad in (1.0, 4.0):  # 1, 3
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -4.0
    """

    target: Target = "update"
    prev = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        previous, ctx.state.prev = ctx.state.prev, u
        return u - previous


class LastProduct(Transform):
    """The product of the last two updates: u ← u·u_prev, where the one before the first is 1.

    Args:
        target: what products are taken of.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LastProduct())
        >>> for grad in (2.0, 3.0):  # 2, 6
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -8.0
    """

    target: Target = "update"
    prev = Slot(init=1.0)

    def rule(self, u: Value, ctx: Context) -> Operand:
        previous, ctx.state.prev = ctx.state.prev, u
        return u * previous


class LastRatio(Transform):
    """The ratio of the last two updates: u ← u/u_prev, where the one before the first is 1.

    A division by 0 gives an infinity, or NaN for 0/0; :class:`LastAbsoluteRatio` has none.

    Args:
        numerator: what is divided by the other, the current update ("cur") or the previous one ("prev").
        target: what ratios are taken of.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LastRatio())
        >>> for grad in (2.0, 3.0):  # 2, 1.5
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -3.5
    """

    numerator: Literal["cur", "prev"] = "cur"
    target: Target = "update"
    prev = Slot(init=1.0)

    def rule(self, u: Value, ctx: Context) -> Operand:
        previous, ctx.state.prev = ctx.state.prev, u
        return u / previous if ctx.settings.numerator == "cur" else previous / u


class LastAbsoluteRatio(Transform):
    r"""The ratio of the sizes of the last two updates, where the one before the first is 1.

    .. math:: u ← \frac{|u|}{\max(|u_{prev}|, ε)}

    Args:
        numerator: what is divided by the other, the current update ("cur") or the previous one ("prev").
        eps: the least size to divide by.
        target: what ratios are taken of.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LastAbsoluteRatio())
        >>> for grad in (-2.0, 3.0):  # 2, 1.5
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -3.5
    """

    numerator: Literal["cur", "prev"] = "cur"
    eps: NonNegative = 1e-8
    target: Target = "update"
    prev = Slot(init=1.0)

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        previous, ctx.state.prev = ctx.state.prev.abs(), u
        if h.numerator == "cur":
            return u.abs() / previous.maximum(h.eps)
        return previous / u.abs().maximum(h.eps)
