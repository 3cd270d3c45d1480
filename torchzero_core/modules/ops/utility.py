"""Updates that are something else, or the same."""

from __future__ import annotations

from typing import Any

from ...core import Context, Transform
from ...lang import Operand, Value


class Clone(Transform):
    """A copy of the update.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Clone()).step()
        >>> p.item()
        -9.0
    """

    size_effect = "same"

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u


class Identity(Transform):
    """Leaves the update as it is; takes and ignores any arguments, so that it can stand in for another module.

    Args:
        *args: ignored.
        **kwargs: ignored.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Identity()).step()
        >>> p.item()
        -9.0
    """

    size_effect = "same"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u


NoOp = Identity


class Grad(Transform):
    """u ← g, the gradient.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Sign(), tz.m.Grad()).step()
        >>> p.item()
        -9.0
    """

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.grads
