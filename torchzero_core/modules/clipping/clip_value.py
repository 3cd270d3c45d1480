"""Clipping by value."""

from __future__ import annotations

from ...core import Context, NonNegative, Target, Transform
from ...lang import Operand, Value


class ClipValue(Transform):
    """Limits every element: u ← min(max(u, −value), value).

    Args:
        value: the largest magnitude.
        target: what is clipped.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(3, requires_grad=True)
        >>> p.grad = torch.tensor([5.0, -0.5, -7.0])
        >>> tz.Modular([p], tz.m.ClipValue(1)).step()
        >>> p.detach()
        tensor([-1.0000,  0.5000,  1.0000])
    """

    size_effect = "limit"
    value: NonNegative
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        value = ctx.settings.value
        return u.clamp(-value, value)
