"""Weight decay."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeAlias

from ...core import Context, NonNegative, Range, Target, Transform
from ...lang import Operand, Value

#: The order of a norm whose gradient is finite everywhere.
NormOrder: TypeAlias = Annotated[float, Range(1, math.inf, "[)")]


def penalty(p: Value, ord: Any) -> Value:
    """sign(p)·abs(p)^(ord−1), the direction of the gradient of a norm."""
    if ord == 2:
        return p
    return p.sign() if ord == 1 else p.sign() * p.abs() ** (ord - 1)


class WeightDecay(Transform):
    r"""Adds the gradient of a norm penalty to the update: u ← u + wd·sign(p)·abs(p)^(ord−1).

    Placed before an adaptive method it is L2 regularisation; after it, decoupled decay as in AdamW. In front of a line
    search or a trust region it is neither: these look at the loss, which has no penalty in it, and find no step where
    the two pull against each other. There the penalty belongs into the loss.

    Args:
        weight_decay: the strength wd.
        ord: the norm: 2 gives wd·p, 1 gives wd·sign(p).
        target: what the penalty is added to.

    Reference:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([2.0], requires_grad=True)
        >>> p.grad = torch.tensor([1.0])
        >>> tz.Modular([p], tz.m.WeightDecay(0.1), tz.m.LR(1.0)).step()
        >>> round(p.item(), 4)
        0.8
    """

    size_effect = "adds"
    weight_decay: NonNegative
    ord: NormOrder = 2
    target: Target = "update"
    kernel = "weight_decay"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        return u + h.weight_decay * penalty(ctx.params, h.ord)
