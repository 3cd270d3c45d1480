"""Functions of the user, applied to the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...core import Context, Target, Transform, Var
from ...lang import Operand, Value, is_function


class CustomUnaryOperation(Transform):
    """u ← the function of torch, or the method of its tensors, that is called so.

    What the language of rules knows under this name runs together with its neighbours.

    Args:
        name: of the function or method, which gets nothing but each tensor of the update.
        target: what it is applied to.

    Raises:
        ValueError: torch knows neither.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([1.25, -2.0])
        >>> tz.Modular([p], tz.m.CustomUnaryOperation("floor")).step()
        >>> p.detach()
        tensor([-1.,  2.])
    """

    def __init__(self, name: str, target: Target = "update") -> None:
        if not callable(getattr(Tensor, name, None)) and not callable(getattr(torch, name, None)):
            raise ValueError(f"CustomUnaryOperation(name={name!r}): torch has no function or method of this name.")
        super().__init__(target=target)
        self.name = name

    def rule(self, u: Value, ctx: Context) -> Operand:
        if is_function(self.name):
            return getattr(u, self.name)()
        return ctx.call(partial(_each, partial(_named, self.name)), u)

    def extra_repr(self) -> str:
        return f"name={self.name!r}"


class UnaryLambda(Transform):
    """u ← fn(u), a function of the list of all tensors.

    Args:
        fn: gets the update as a list of tensors, which it may overwrite, and returns the new one.
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -1.0])
        >>> tz.Modular([p], tz.m.UnaryLambda(lambda us: [u.flip(0) for u in us])).step()
        >>> p.detach()
        tensor([ 1., -3.])
    """

    def __init__(self, fn: Callable[[list[Tensor]], Sequence[Tensor]], target: Target = "update") -> None:
        super().__init__(target=target)
        self.fn = fn

    @property
    def is_rule(self) -> bool:  # type: ignore[override]
        """It is none: a rule sees the tensors of each dtype and group by themselves."""
        return False

    def apply_rule(self, var: Var, tensors: list[Tensor], *, writable: bool = False) -> list[Tensor]:
        out = self.fn([t.clone() for t in tensors])
        if not isinstance(out, (list, tuple)) or [getattr(t, "shape", None) for t in out] != [t.shape for t in tensors]:
            raise ValueError(
                f"{self.path}: fn must return a list with a tensor for each of {len(tensors)} parameters, of its shape."
            )
        return [t.to(like.dtype) for t, like in zip(out, tensors, strict=True)]

    def extra_repr(self) -> str:
        return f"fn={getattr(self.fn, '__name__', self.fn)}"


class UnaryParameterwiseLambda(Transform):
    """u ← fn(u), a function of each tensor.

    Args:
        fn: gets a tensor of the update, which it may overwrite, and returns the new one.
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -1.0])
        >>> tz.Modular([p], tz.m.UnaryParameterwiseLambda(lambda u: u.flip(0))).step()
        >>> p.detach()
        tensor([ 1., -3.])
    """

    def __init__(self, fn: Callable[[Tensor], Tensor], target: Target = "update") -> None:
        super().__init__(target=target)
        self.fn = fn

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.call(partial(_each, self.fn), u)

    def extra_repr(self) -> str:
        return f"fn={getattr(self.fn, '__name__', self.fn)}"


def _each(fn: Callable[[Tensor], Tensor], tensors: list[Tensor]) -> list[Tensor]:
    return [fn(t.clone()) for t in tensors]


def _named(name: str, tensor: Tensor) -> Tensor:
    method = getattr(tensor, name, None)
    return method() if method is not None else getattr(torch, name)(tensor)
