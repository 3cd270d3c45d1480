"""Updates between two numbers."""

from __future__ import annotations

from typing import Any

from ...core import Context, Input, NonNegative
from ...lang import Operand, Value
from .base import BinaryOperation


class Rescale(BinaryOperation):
    r"""Stretches and shifts the update so that its least element becomes min and its largest max.

    .. math:: u ← min + (max - min) \frac{u - u_{min}}{\max(u_{max} - u_{min}, ε)}

    Where all elements are equal they become min.

    Args:
        min: a number, a module that gets the update, or a list of modules.
        max: the same.
        tensorwise: the least and the largest of each tensor; otherwise those of all.
        eps: the least spread to divide by.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(3, requires_grad=True)
        >>> p.grad = torch.tensor([5.0, 7.0, 9.0])
        >>> tz.Modular([p], tz.m.Rescale(-1, 1)).step()
        >>> p.detach()
        tensor([ 1.,  0., -1.])
    """

    min: Input
    max: Input
    tensorwise: bool = True
    eps: NonNegative = 1e-8

    def transform(self, ctx: Context, update: Value, min: Any, max: Any) -> Operand:  # type: ignore[override]
        h = ctx.settings
        largest, negative = update.amax(), (-update).amax()
        if not h.tensorwise:
            largest, negative = largest.global_max(), negative.global_max()
        share = (update + negative) / (largest + negative).maximum(h.eps)
        return min.lerp(max, share)
