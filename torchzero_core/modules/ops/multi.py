"""Operations between two and more modules, each with a part of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core import Context, Finite, Input
from ...lang import Operand
from .base import MultiOperation


class DivModules(MultiOperation):
    """u ← input/other, where both get the update.

    Args:
        input: a module, a list of modules, or a number.
        other: the same, for the denominator.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.DivModules(tz.m.Identity(), [tz.m.Sqrt(), tz.m.Mul(4)])).step()
        >>> p.item()
        -0.5
    """

    input: Input
    other: Input

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        if settings.get("other") == 0:
            raise ValueError("DivModules(other=0): a division by zero.")

    def transform(self, ctx: Context, input: Any, other: Any) -> Operand:  # type: ignore[override]
        return input / other


class SubModules(MultiOperation):
    """u ← input − alpha·other, where both get the update.

    Args:
        input: a module that gets the update, a list of modules, or a number.
        other: the same.
        alpha: factor of ``other``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.SubModules(tz.m.Identity(), tz.m.Sign())).step()
        >>> p.item()
        -2.0
    """

    input: Input
    other: Input
    alpha: Finite = 1

    def transform(self, ctx: Context, input: Any, other: Any) -> Operand:  # type: ignore[override]
        alpha = ctx.settings.alpha
        return input - (other if alpha == 1 else alpha * other)


class PowModules(MultiOperation):
    """u ← input to the power of exponent, where both get the update.

    Args:
        input: a module that gets the update, a list of modules, or a number.
        exponent: the same.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.PowModules(tz.m.Identity(), 2)).step()
        >>> p.item()
        -9.0
    """

    input: Input
    exponent: Input

    def transform(self, ctx: Context, input: Any, exponent: Any) -> Operand:  # type: ignore[override]
        return input**exponent


class LerpModules(MultiOperation):
    """u ← input + weight·(end − input), where all get the update.

    Args:
        input: a module that gets the update, a list of modules, or a number.
        end: the same.
        weight: the same.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], tz.m.LerpModules(tz.m.Identity(), tz.m.Sign(), 0.5)).step()
        >>> p.item()
        -2.0
    """

    input: Input
    end: Input
    weight: Input

    def transform(self, ctx: Context, input: Any, end: Any, weight: Any) -> Operand:  # type: ignore[override]
        return input.lerp(end, weight)


class ClipModules(MultiOperation):
    """u ← min(max(input, min), max), where all get the update.

    Args:
        input: a module that gets the update, a list of modules, or a number.
        min: the same, for the least value; None for no bound.
        max: the same, for the largest value, which also counts where it is smaller than ``min``.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 0.5])
        >>> tz.Modular([p], tz.m.ClipModules(tz.m.Identity(), tz.m.Sign(), 2)).step()
        >>> p.detach()
        tensor([-2., -1.])
    """

    input: Input
    min: Input | None = None
    max: Input | None = None

    def transform(self, ctx: Context, input: Any, min: Any, max: Any) -> Operand:  # type: ignore[override]
        return input.clamp(min, max)
