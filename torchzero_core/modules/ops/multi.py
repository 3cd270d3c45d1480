"""Operations between modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core import Context, Finite, Input, Modules, NonNegative, Order, Passed
from ...lang import Operand, Value
from .base import MultiOperation, ReduceOperation


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


class GraftModules(MultiOperation):
    r"""The direction of one module with the norm of another, where both get the update.

    .. math:: u ← d · \frac{(1-s)‖d‖ + s‖m‖}{\max(‖d‖, ε)}

    Args:
        direction: gives d.
        magnitude: gives m.
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.
        strength: s, how much of the norm of m is taken.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([4.0, -3.0])
        >>> tz.Modular([p], tz.m.GraftModules(tz.m.Identity(), tz.m.Normalize(10))).step()
        >>> p.detach()
        tensor([-8.,  6.])
    """

    direction: Passed[Modules]
    magnitude: Passed[Modules]
    tensorwise: bool = True
    ord: Order = 2
    eps: NonNegative = 1e-6
    strength: Finite = 1

    def transform(self, ctx: Context, direction: Value, magnitude: Value) -> Operand:  # type: ignore[override]
        h = ctx.settings
        own, wanted = ((x.norm(h.ord) if h.tensorwise else x.global_norm(h.ord)) for x in (direction, magnitude))
        if h.strength != 1:
            wanted = own.lerp(wanted, h.strength)
        return direction * (wanted / own.maximum(h.eps))


class Sum(ReduceOperation):
    """u ← the sum of the inputs, each of which gets the update.

    Args:
        *inputs: modules, lists of modules, or numbers.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.Sum(tz.m.Identity(), tz.m.Sqrt(), 0.5)).step()
        >>> p.item()
        -6.5
    """

    def __init__(self, *inputs: Input) -> None:
        super().__init__({}, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand
        return total
