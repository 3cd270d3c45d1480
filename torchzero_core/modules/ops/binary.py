"""Arithmetic between the update and a number or another module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core import Context, Finite, Input
from ...lang import Operand, Value
from .base import BinaryOperation


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
