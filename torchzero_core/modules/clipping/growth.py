"""Clipping by what the update was at the step before."""

from __future__ import annotations

from typing import Any

from ...core import Context, NonNegative, Order, Positive, Slot, Target, Transform
from ...lang import Operand, Value


def _limited(size: Value, prev: Value, h: Any) -> tuple[Value, Value]:
    """A size that grows no more than allowed, and what the next step takes for the previous one."""
    if h.add is not None:
        size = size.minimum(prev + h.add)
    if h.mul is not None:
        size = size.minimum(h.mul * (prev if h.min_value is None else prev.maximum(h.min_value)))
    return size, size if h.max_decay is None else size.maximum(prev / h.max_decay)


class ClipValueGrowth(Transform):
    r"""Limits how much the magnitude of each element grows from step to step.

    .. math:: |u| ≤ \min(prev + add,\; mul·\max(prev, min\_value)), \quad prev ← \max(|u|, prev/max\_decay)

    The first update passes as it is.

    Args:
        add: how much may be added in a step; None for no such limit.
        mul: by what factor it may grow in a step; None for no such limit.
        min_value: the factor is counted from this at least, so that elements may leave zero; None for no such floor.
        max_decay: the limit falls by at most this factor in a step, whatever the update does; None lets it fall to
            the update.
        target: what is clipped.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipValueGrowth(mul=2))
        >>> for grad in ([1.0, 1.0], [5.0, -0.5]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-3.0000, -0.5000])
    """

    add: NonNegative | None = None
    mul: Positive | None = 1.5
    min_value: NonNegative | None = 1e-4
    max_decay: Positive | None = 2
    target: Target = "update"
    prev = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        size = kept = u.abs()
        if not ctx.first:
            size, kept = _limited(size, ctx.state.prev, ctx.settings)
        ctx.state.prev = kept
        return size.copysign(u)


class ClipNormGrowth(Transform):
    r"""Limits how much the norm of the update grows from step to step.

    .. math:: ‖u‖ ≤ \min(prev + add,\; mul·\max(prev, min\_value)), \quad prev ← \max(‖u‖, prev/max\_decay)

    The first update passes as it is.

    Args:
        add: how much may be added in a step; None for no such limit.
        mul: by what factor it may grow in a step; None for no such limit.
        min_value: the factor is counted from this at least, so that the norm may leave zero; None for no such floor.
        max_decay: the limit falls by at most this factor in a step, whatever the update does; None lets it fall to
            the update's norm.
        ord: order of the norm, over the elements.
        parameterwise: the norm of each tensor; otherwise one of all tensors together.
        target: what is clipped.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipNormGrowth(mul=2))
        >>> for scale in (1.0, 100.0):
        ...     p.grad = torch.tensor([3.0, 4.0]) * scale
        ...     optimizer.step()
        >>> p.detach()
        tensor([ -9., -12.])
    """

    add: NonNegative | None = None
    mul: Positive | None = 1.5
    min_value: NonNegative | None = 1e-4
    max_decay: Positive | None = 2
    ord: Order = 2
    parameterwise: bool = True
    target: Target = "update"
    prev_norm = Slot(scalar=True)
    prev_total_norm = Slot(scalar=True)

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        if h.parameterwise:
            norm = size = u.norm(h.ord)
            kept = norm
            if not ctx.first:
                size, kept = _limited(norm, s.prev_norm, h)
            s.prev_norm = kept
        else:
            s, h = ctx.global_state, ctx.whole.settings
            norm = size = u.global_norm(h.ord)
            kept = norm
            if not ctx.whole.first:
                size, kept = _limited(norm, s.prev_total_norm, h)
            s.prev_total_norm = kept
        return u * (size < norm).where(size / norm, 1.0)
