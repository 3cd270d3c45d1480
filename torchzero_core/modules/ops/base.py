"""Bases of operations on the update and on the results of other modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from types import NoneType
from typing import Any, ClassVar, get_args

from torch import Tensor

from ...core import Context, Input, Transform
from ...core.declare import fields_of
from ...core.module import as_module
from ...lang import Operand, Value


class _Operation(Transform):
    """Keeps the numbers among the operands as settings and the modules as children."""

    operands: ClassVar[tuple[str, ...]] = ()

    def __init__(self, defaults: Mapping[str, Any] | None, operands: Mapping[str, Input | None]) -> None:
        kinds = {name: self._kinds(name) for name in operands}
        numbers = {k: v for k, v in operands.items() if _fits(v, kinds[k])}
        self.operands = tuple(operands)  # type: ignore[misc]
        super().__init__({**(defaults or {}), **numbers})
        for name, operand in operands.items():
            if name not in numbers:
                allowed = ("a number, " if float in kinds[name] else "") + "a module or a list of modules"
                self.set_child(name, as_module(operand, f"{type(self).__name__}.{name}", allowed))  # type: ignore[arg-type]

    def _kinds(self, name: str) -> Sequence[Any]:
        """What an operand may be."""
        field = fields_of(type(self)).get(name)
        return (float,) if field is None else get_args(field.hint)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse operands that are no numbers; a module among them cannot differ between groups."""
        for name in self.operands:
            if name in settings and not _fits(settings[name], self._kinds(name)):
                raise ValueError(f"{type(self).__name__}: {name}={settings[name]!r} must be a number.")

    def values(self, u: Value, ctx: Context) -> dict[str, Any]:
        """The operands: numbers, and the results of the children on the update."""
        return {k: ctx.child(k, u) if k in self.children else getattr(ctx.settings, k) for k in self.operands}


def _fits(value: Any, kinds: Sequence[Any]) -> bool:
    """Whether a value is one of the kinds that make it a setting: a number, or nothing."""
    number = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    return (number and float in kinds) or (value is None and NoneType in kinds)


class BinaryOperation(_Operation):
    """Base of operations between the update and other operands.

    A subclass declares its operands, as ``other: Input``, and defines :meth:`transform`.

    Args:
        defaults: settings that are no operands.
        **operands: each a number, a module, or a list of modules that becomes a chain. A module gets the update.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core import Input
        >>> class Hypot(tz.m.BinaryOperation):
        ...     other: Input
        ...
        ...     def transform(self, ctx, update, other):
        ...         return (update**2 + other**2) ** 0.5
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], Hypot(4.0)).step()
        >>> p.item()
        -5.0
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None, **operands: Input | None) -> None:
        super().__init__(defaults, operands)

    def transform(self, ctx: Context, update: Value, **operands: Any) -> Operand:
        """The new update.

        Args:
            ctx: parameters, gradients, settings and state.
            update: the update.
            **operands: the value of each operand.
        """
        raise NotImplementedError(f"{type(self).__name__} has no transform(ctx, update, **operands).")

    def rule(self, u: Value, ctx: Context) -> Operand:
        return self.transform(ctx, u, **self.values(u, ctx))


class MultiOperation(_Operation):
    """Base of operations between several modules.

    A subclass declares its operands, as ``other: Input``, and defines :meth:`transform`.

    Args:
        defaults: settings that are no operands.
        **operands: each a number, a module, or a list of modules that becomes a chain. A module gets the update.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core import Input
        >>> class Middle(tz.m.MultiOperation):
        ...     first: Input
        ...     second: Input
        ...
        ...     def transform(self, ctx, first, second):
        ...         return 0.5 * (first + second)
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], Middle(tz.m.Sign(), tz.m.Identity())).step()
        >>> p.item()
        -2.0
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None, **operands: Input | None) -> None:
        super().__init__(defaults, operands)

    def transform(self, ctx: Context, **operands: Any) -> Operand:
        """The new update.

        Args:
            ctx: parameters, gradients, settings and state.
            **operands: the value of each operand.
        """
        raise NotImplementedError(f"{type(self).__name__} has no transform(ctx, **operands).")

    def rule(self, u: Value, ctx: Context) -> Operand:
        return self.transform(ctx, **self.values(u, ctx))


class ReduceOperation(_Operation):
    """Base of operations that make one update of any number of operands.

    A subclass passes its operands to the constructor and defines :meth:`transform`.

    Args:
        defaults: settings that are no operands.
        *operands: each a number, a module, or a list of modules that becomes a chain. A module gets the update.

    Raises:
        ValueError: no operands.

    Example:
        >>> import torch, torchzero_core as tz
        >>> class Last(tz.m.ReduceOperation):
        ...     def __init__(self, *inputs):
        ...         super().__init__({}, *inputs)
        ...
        ...     def transform(self, ctx, *operands):
        ...         return operands[-1]
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([3.0])
        >>> tz.Modular([p], Last(2.0, tz.m.Identity(), tz.m.Sign())).step()
        >>> p.item()
        -1.0
    """

    def __init__(self, defaults: Mapping[str, Any] | None = None, *operands: Input) -> None:
        if not operands:
            raise ValueError(f"{type(self).__name__} needs at least one operand.")
        super().__init__(defaults, {str(i): operand for i, operand in enumerate(operands)})

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        """The new update.

        Args:
            ctx: parameters, gradients, settings and state.
            *operands: the value of each operand.
        """
        raise NotImplementedError(f"{type(self).__name__} has no transform(ctx, *operands).")

    def rule(self, u: Value, ctx: Context) -> Operand:
        return self.transform(ctx, *self.values(u, ctx).values())
