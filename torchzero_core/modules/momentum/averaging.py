"""Averages of the last few updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Annotated, Any

import torch
from torch import Tensor

from ...core import Check, Context, Length, Slot, Target, Transform
from ...lang import Operand, Value, median, middle

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
    history_size: Length
    target: Target = "update"
    history = Slot(history="history_size")
    total = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, n, t = ctx.state, ctx.settings.history_size, ctx.step
        place = (t - 1) % n
        total = s.total + (u - s.history[place])  # of a place that was never written, zero
        s.history[place], s.total = u, total
        return total / t.minimum(n)


def _refuse_weights(name: str, weights: Any) -> None:
    """Refuses what is no list of finite numbers with a sum that is not zero."""
    if not isinstance(weights, (list, tuple)) or not weights:
        raise ValueError(f"{name}={weights!r} must be a list of numbers, the last for the newest update.")
    if not all(isinstance(w, Real) and math.isfinite(w) for w in weights) or sum(weights) == 0:
        raise ValueError(f"{name}={weights!r} must be finite numbers whose sum is not 0.")


class WeightedAveraging(Transform):
    r"""The weighted mean of the last updates, of as many as there are at first.

    .. math:: u ← \sum_i w_i u_{t-n+i} / \sum_i w_i

    Before there are n updates, those that are there have the last weights. Where these add up to zero, the update
    stays as it is.

    Args:
        weights: one for each of the n updates, from the oldest to the newest.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.WeightedAveraging([1, 3]))
        >>> for grad in (1.0, 5.0):  # 1, 4
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -5.0
    """

    weights: Annotated[Sequence[float], Check(_refuse_weights)]
    target: Target = "update"
    history = Slot(history="weights")

    def rule(self, u: Value, ctx: Context) -> Operand:
        history, weights, t = ctx.state.history, list(ctx.settings.weights), ctx.step
        n, newest = len(weights), weights[-1]
        total: Operand = newest * u
        known: Any = newest
        for age in range(1, n):  # in the places that were never written, zeros
            weight = weights[-1 - age]
            total = total + weight * history[(t - 1 - age) % n]
            known = known + weight * (t > age)
        history[(t - 1) % n] = u
        return u if known == 0 else total / known


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
    history_size: Length
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
        return median([*values, u])


Medianveraging = MedianAveraging  #: a spelling of the reference


def _note_and_take_median(us: list[Tensor], place: float, known: float, history: list[Tensor]) -> list[Tensor]:
    """Put the updates into the ring and take the medians of what it has."""
    medians = []
    for u, ring in zip(us, history, strict=True):
        ring[int(place)] = u
        ordered = torch.sort(ring[: int(known)], dim=0).values
        last = ordered[-1]  # NaN comes last, and then there is no median
        medians.append(torch.where(last.isnan(), last, middle(list(ordered))))
    return medians
