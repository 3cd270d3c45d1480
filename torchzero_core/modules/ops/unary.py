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
