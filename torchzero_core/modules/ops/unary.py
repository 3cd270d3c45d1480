"""Functions of each element of the update."""

from __future__ import annotations

from ...core import Context, Target, Transform
from ...lang import Operand, Value


class Sqrt(Transform):
    """u ← √u; NaN where u is negative.

    Args:
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([9.0])
        >>> tz.Modular([p], tz.m.Sqrt()).step()
        >>> p.item()
        -3.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u.sqrt()


class Sign(Transform):
    """u ← sign(u), which is -1, 0 or 1.

    Args:
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-9.0])
        >>> tz.Modular([p], tz.m.Sign()).step()
        >>> p.item()
        1.0
    """

    size_effect = "own"
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u.sign()


class Abs(Transform):
    """``u ← |u|``.

    Args:
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-9.0])
        >>> tz.Modular([p], tz.m.Abs()).step()
        >>> p.item()
        -9.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u.abs()


class Negate(Transform):
    """u ← −u.

    Args:
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-9.0])
        >>> tz.Modular([p], tz.m.Negate()).step()
        >>> p.item()
        -9.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return -u


class Exp(Transform):
    """u ← eᵘ.

    Args:
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([0.0])
        >>> tz.Modular([p], tz.m.Exp()).step()
        >>> p.item()
        -1.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u.exp()


class Reciprocal(Transform):
    """u ← 1/(u + eps).

    Args:
        eps: is added first.
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.Reciprocal()).step()
        >>> p.item()
        -0.25
    """

    eps: float = 0
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        eps = ctx.settings.eps
        return u.reciprocal() if eps == 0 else 1 / (u + eps)


class NanToNum(Transform):
    """Replaces what is no finite number, as ``torch.nan_to_num`` does.

    Args:
        nan: what NaN becomes; None is 0.
        posinf: what infinity becomes; None is the largest number of the dtype.
        neginf: what negative infinity becomes; None is the least number of the dtype.
        target: what it is applied to.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(3, requires_grad=True)
        >>> p.grad = torch.tensor([float("nan"), float("inf"), 2.0])
        >>> tz.Modular([p], tz.m.NanToNum(posinf=5)).step()
        >>> p.detach()
        tensor([ 0., -5., -2.])
    """

    nan: float | None = None
    posinf: float | None = None
    neginf: float | None = None
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h, largest = ctx.settings, ctx.finfo("max")
        above = largest if h.posinf is None else h.posinf
        below = -largest if h.neginf is None else h.neginf
        finite = (u > largest).where(above, (u < -largest).where(below, u))
        return u.isnan().where(0.0 if h.nan is None else h.nan, finite)
