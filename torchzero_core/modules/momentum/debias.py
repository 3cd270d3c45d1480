"""Corrections for averages that start at zero."""

from __future__ import annotations

from ...core import Beta, Context, Finite, Positive, Target, Transform
from ...lang import Operand, Value


class Debias(Transform):
    r"""Multiplies the update by Adam's bias correction.

    .. math:: u ← α \frac{(1-β_2^t)^{1/pow}}{1-β_1^t} u

    Args:
        beta1: decay of the average in the numerator; None leaves its correction out.
        beta2: decay of the average of powers in the denominator; None leaves its correction out.
        alpha: a factor.
        pow: the power.
        target: what is corrected.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.ones(1)
        >>> tz.Modular([p], tz.m.EMA(0.75), tz.m.Debias(beta1=0.75)).step()
        >>> p.item()
        -1.0
    """

    beta1: Beta | None = None
    beta2: Beta | None = None
    alpha: Finite = 1
    pow: Positive = 2
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        factor = h.alpha
        if h.beta2 is not None:
            factor = factor * (1 - h.beta2**ctx.step) ** (1 / h.pow)
        if h.beta1 is not None:
            factor = factor / (1 - h.beta1**ctx.step)
        return factor * u


class Debias2(Transform):
    r"""Divides the update by the bias correction of a root of averaged powers.

    .. math:: u ← u / (1-β^t)^{1/pow}

    Args:
        beta: decay of the average, in [0, 1).
        pow: the power of which the root was taken.
        target: what is corrected.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.ones(1)
        >>> tz.Modular([p], tz.m.Debias2(0.75)).step()
        >>> p.item()
        -2.0
    """

    beta: Beta = 0.999
    pow: Positive = 2
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        return u * (1 - h.beta**ctx.step) ** (-1 / h.pow)
