"""Arithmetic between the update and a number or another module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from ...core import Context, Finite, Input, Modules, Passed, Range
from ...lang import Operand, Value
from .base import BinaryOperation

#: Operands that bound; an infinite one does nothing.
LowerBound: TypeAlias = Passed[Annotated[Modules | float, Range(-math.inf, math.inf, "[)")]]
UpperBound: TypeAlias = Passed[Annotated[Modules | float, Range(-math.inf, math.inf, "(]")]]


class Add(BinaryOperation):
    """u ← u + alpha·other.

    Args:
        other: a number, a module that gets the update, or a list of modules.
        alpha: factor of ``other``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.Add(tz.m.Sign(), alpha=0.5)).step()
        >>> p.item()
        -3.5
    """

    other: Input
    alpha: Finite = 1

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        alpha = ctx.settings.alpha
        return update + (other if alpha == 1 else alpha * other)


class Sub(BinaryOperation):
    """u ← u − alpha·other.

    Args:
        other: a number, a module that gets the update, or a list of modules.
        alpha: factor of ``other``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.Sub(1)).step()
        >>> p.item()
        -2.0
    """

    other: Input
    alpha: Finite = 1

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        alpha = ctx.settings.alpha
        return update - (other if alpha == 1 else alpha * other)


class Mul(BinaryOperation):
    """u ← u·other.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.Mul(2)).step()
        >>> p.item()
        -6.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return update * other


class Div(BinaryOperation):
    """u ← u/other.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.Div(2)).step()
        >>> p.item()
        -1.5
    """

    other: Input

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        if settings.get("other") == 0:
            raise ValueError("Div(other=0): a division by zero.")

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return update / other


class Pow(BinaryOperation):
    """u ← u to the power of exponent.

    Args:
        exponent: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-3.0])
        >>> tz.Modular([p], tz.m.Pow(2)).step()
        >>> p.item()
        -9.0
    """

    exponent: Input

    def transform(self, ctx: Context, update: Value, exponent: Any) -> Operand:  # type: ignore[override]
        return update**exponent


class RSub(BinaryOperation):
    """u ← other − u.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.RSub(1)).step()
        >>> p.item()
        2.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return other - update


class RDiv(BinaryOperation):
    """u ← other/u.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.RDiv(6)).step()
        >>> p.item()
        -2.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return other / update


class RPow(BinaryOperation):
    """u ← other to the power of u.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.RPow(2)).step()
        >>> p.item()
        -8.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return other**update


class Maximum(BinaryOperation):
    """u ← max(u, other); NaN where either is.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -1.0])
        >>> tz.Modular([p], tz.m.Maximum(0)).step()
        >>> p.detach()
        tensor([-3., 0.])
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return update.maximum(other)


class Minimum(BinaryOperation):
    """u ← min(u, other); NaN where either is.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -1.0])
        >>> tz.Modular([p], tz.m.Minimum(0)).step()
        >>> p.detach()
        tensor([0., 1.])
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return update.minimum(other)


class Clip(BinaryOperation):
    """u ← min(max(u, min), max).

    Args:
        min: the least value: a number, a module that gets the update, or a list of modules; None for no bound.
        max: the same, for the largest value, which also counts where it is smaller than ``min``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> tz.Modular([p], tz.m.Clip(-1, 2)).step()
        >>> p.detach()
        tensor([-2.,  1.])
    """

    min: LowerBound | None = None
    max: UpperBound | None = None

    def transform(self, ctx: Context, update: Value, min: Any, max: Any) -> Operand:  # type: ignore[override]
        return update.clamp(min, max)


class MirroredClip(BinaryOperation):
    """Brings u between two bounds by reflection at them: with max = 1, 1.25 becomes 0.75.

    What is further away is reflected at both in turn until it is between them. Where max ≤ min everything becomes max.
    Between two bounds an infinite element becomes NaN.

    Args:
        min: the least value: a number, a module that gets the update, or a list of modules; None for no bound.
        max: the same, for the largest value, which also counts where it is smaller than ``min``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([1.25, -4.0])
        >>> tz.Modular([p], tz.m.MirroredClip(-1, 1)).step()
        >>> p.detach()
        tensor([-0.7500,  0.0000])
    """

    min: LowerBound | None = None
    max: UpperBound | None = None

    def transform(self, ctx: Context, update: Value, min: Any, max: Any) -> Operand:  # type: ignore[override]
        once = update if min is None else update.maximum(2 * min - update)
        once = once if max is None else once.minimum(2 * max - once)
        if min is None or max is None:
            return once
        width = max - min
        away = (width - (update - min) % (2 * width)).abs()  # from the upper bound, after any number of reflections
        folded = (width > 0).where((max - away).clamp(min, max), max)
        return ((once >= min) & (once <= max)).where(once, folded)


class Lerp(BinaryOperation):
    """u ← u + weight·(end − u).

    Args:
        end: a number, a module that gets the update, or a list of modules.
        weight: the same.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.Lerp(tz.m.Sign(), 0.5)).step()
        >>> p.item()
        -2.0
    """

    end: Input
    weight: Input

    def transform(self, ctx: Context, update: Value, end: Any, weight: Any) -> Operand:  # type: ignore[override]
        return update.lerp(end, weight)


class CopySign(BinaryOperation):
    """``u ← |u|·sign(other)``: 0 where other is 0.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.CopySign(-1)).step()
        >>> p.item()
        3.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return update.abs() * other.sign()


class RCopySign(BinaryOperation):
    """``u ← |other|·sign(u)``: 0 where u is 0. ``CopyMagnitude`` is another name of it.

    Args:
        other: a number, a module that gets the update, or a list of modules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-3.0])
        >>> tz.Modular([p], tz.m.RCopySign(2)).step()
        >>> p.item()
        2.0
    """

    other: Input

    def transform(self, ctx: Context, update: Value, other: Any) -> Operand:  # type: ignore[override]
        return other.abs() * update.sign()


CopyMagnitude = RCopySign  #: a spelling of the reference


class Threshold(BinaryOperation):
    """Replaces the elements on one side of a threshold, and those at it, by a value.

    Args:
        threshold: a number, a module that gets the update, or a list of modules.
        value: what they become: the same kinds.
        update_above: keep the update where it is above the threshold; False keeps it where it is below.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -1.0])
        >>> tz.Modular([p], tz.m.Threshold(1, value=0, update_above=True)).step()
        >>> p.detach()
        tensor([-3., 0.])
    """

    threshold: Input
    value: Input
    update_above: bool

    def transform(self, ctx: Context, update: Value, threshold: Any, value: Any) -> Operand:  # type: ignore[override]
        above = ctx.settings.update_above
        replaced = update <= threshold if above else update >= threshold
        return replaced.where(value, update)


class Where(BinaryOperation):
    """u ← input where the condition is not 0, and other elsewhere.

    Args:
        condition: a module that gets the update, a list of modules, or a number.
        input: the same; None is the update.
        other: the same.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -2.0])
        >>> tz.Modular([p], tz.m.Where([tz.m.Add(1), tz.m.Maximum(0)], other=5)).step()
        >>> p.detach()
        tensor([-3., -5.])
    """

    condition: Input
    input: Input | None = None
    other: Input = 0

    def transform(self, ctx: Context, update: Value, condition: Any, input: Any, other: Any) -> Operand:  # type: ignore[override]
        mask = condition != 0
        return mask.where(update if input is None else input, other)
