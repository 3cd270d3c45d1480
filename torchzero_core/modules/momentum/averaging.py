"""Averages of the last few updates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core import Context, Count, Slot, Target, Transform
from ...lang import Operand, Value

#: Up to how many values a median is chosen by comparing pairs in one pass over memory.
NETWORK_UP_TO = 16


class Averaging(Transform):
    r"""The mean of the last updates, of as many as there are at first.

    The sum is kept from step to step, so that a step costs the same whatever their number. An update that is not
    finite stays in it.

    Args:
        history_size: how many updates.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Averaging(2))
        >>> for grad in (1.0, 3.0, 5.0):  # 1, 2, 4
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -7.0
    """

    size_effect = "keeps"
    history_size: Count
    target: Target = "update"
    history = Slot(history="history_size")
    total = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, n, t = ctx.state, ctx.settings.history_size, ctx.step
        place = (t - 1) % n
        total = s.total + (u - s.history[place])  # of a place that was never written, zero
        s.history[place], s.total = u, total
        return total / t.minimum(n)


class MedianAveraging(Transform):
    r"""The elementwise median of the last updates, of as many as there are at first.

    Of an even number it is the mean of the two in the middle (the 0.5-quantile). NaN where one of them is.

    Args:
        history_size: how many updates. Up to 16 the median fuses with the neighbouring modules, once there are so many.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.MedianAveraging(3))
        >>> for grad in (1.0, 3.0, 100.0):  # 1, 2, 3
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -6.0
    """

    size_effect = "keeps"
    history_size: Count
    target: Target = "update"
    history = Slot(history="history_size")

    def rule(self, u: Value, ctx: Context) -> Operand:
        n, t = ctx.settings.history_size, ctx.step
        place = (t - 1) % n
        if n > NETWORK_UP_TO or t < n:
            return ctx.call(_note_and_take_median, u, place, t.minimum(n), state=("history",))
        history = ctx.state.history
        values = [history[(place + k) % n] for k in range(1, int(n))]  # all places but the one that is written
        history[place] = u
        return _middle(_sorted([*values, u]))


Medianveraging = MedianAveraging  #: a spelling of the reference


def _note_and_take_median(us: list[Tensor], place: float, known: float, history: list[Tensor]) -> list[Tensor]:
    """Put the updates into the ring and take the medians of what it has."""
    medians = []
    for u, ring in zip(us, history, strict=True):
        ring[int(place)] = u
        ordered = torch.sort(ring[: int(known)], dim=0).values
        last = ordered[-1]  # NaN comes last, and then there is no median
        medians.append(torch.where(last.isnan(), last, _middle(list(ordered))))
    return medians


def _middle(ordered: list[Any]) -> Any:
    """The median of ordered values or tensors."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def _sorted(values: list[Value]) -> list[Value]:
    """Order values element by element, by Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M)."""
    values, n = list(values), len(values)
    top = 1 << (n - 1).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if i & p == r:
                    a, b = values[i], values[i + d]
                    values[i], values[i + d] = a.minimum(b), a.maximum(b)
            if q == p:
                break
            q, r, d = q >> 1, p, q - p
        p >>= 1
    return values
