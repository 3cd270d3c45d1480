"""Updates that are something else, or the same."""

from __future__ import annotations

from typing import Any

from ...core import Context, Finite, Module, Transform, Var
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


Update = Clone  #: a spelling of the reference


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


class Params(Transform):
    """u ← p, the parameters.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.full((1,), 8.0, requires_grad=True)
        >>> p.grad = torch.zeros(1)
        >>> tz.Modular([p], tz.m.Params(), tz.m.LR(0.25)).step()
        >>> p.item()
        6.0
    """

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.params


class Fill(Transform):
    """u ← value, the same for each element.

    Args:
        value: the number.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Fill(2)).step()
        >>> p.item()
        -2.0
    """

    value: Finite

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.settings.value


class Zeros(Transform):
    """u ← 0.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Zeros()).step()
        >>> p.item()
        0.0
    """

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return 0.0


class Ones(Transform):
    """u ← 1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Ones()).step()
        >>> p.item()
        -1.0
    """

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        return 1.0


class GradToNone(Module):
    """Forgets the gradient: modules after it that ask for it evaluate it again.

    What was made of it before, such as by ``target="grad"``, is forgotten with it. A step without a closure takes it
    from ``p.grad`` again.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Mul(2), tz.m.GradToNone(), tz.m.Sub(tz.m.Grad())).step()
        >>> p.item()  # -(18 - 9)
        -9.0
    """

    needs_gradient = False

    def step(self, var: Var) -> Var:
        """Forget it."""
        var.grad = None
        return var


class UpdateToNone(Module):
    """Forgets the update: modules after it start from the gradient.

    Unlike :class:`Grad` it does not evaluate the gradient if nobody has done so.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Sign(), tz.m.UpdateToNone()).step()
        >>> p.item()
        -9.0
    """

    needs_gradient = False

    def step(self, var: Var) -> Var:
        """Forget it."""
        var.update = None
        return var
