"""Averages of powers of past updates."""

from __future__ import annotations

from ...core import Beta, Context, Positive, Slot, Target, Transform
from ...lang import Value


class _AverageOfPowers(Transform):
    """What the two share."""

    beta: Beta = 0.999
    amsgrad: bool = False
    exp_avg_sq = Slot()
    max_exp_avg_sq = Slot()

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        s.exp_avg_sq = v = s.exp_avg_sq.lerp(u.abs() ** h.pow, 1 - h.beta)
        if h.amsgrad:
            s.max_exp_avg_sq = v = s.max_exp_avg_sq.maximum(v)
        return v


class EMASquared(_AverageOfPowers):
    r"""Exponential moving average of powers of the update.

    .. math:: v_t = β v_{t-1} + (1-β) |u_t|^{pow}, \quad v_0 = 0

    Args:
        beta: decay of the average, in [0, 1).
        amsgrad: give the largest average so far.
        pow: the power.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-4.0])
        >>> tz.Modular([p], tz.m.EMASquared(0.5)).step()
        >>> p.item()
        -8.0
    """

    pow: Positive = 2
    target: Target = "update"


class SqrtEMASquared(_AverageOfPowers):
    r"""Root of an exponential moving average of powers of the update.

    .. math:: u ← (v_t / (1-β^t))^{1/pow}, \quad v_t = β v_{t-1} + (1-β) |u_t|^{pow}, \quad v_0 = 0

    Args:
        beta: decay of the average, in [0, 1).
        amsgrad: take the largest average so far.
        debiased: divide v by 1 − βᵗ; without it v is used as it is.
        pow: the power.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-4.0])
        >>> tz.Modular([p], tz.m.SqrtEMASquared(0.5, debiased=True)).step()
        >>> round(p.item(), 4)
        -4.0
    """

    debiased: bool = False
    pow: Positive = 2
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Value:
        h = ctx.settings
        root = super().rule(u, ctx) ** (1 / h.pow)
        return root * (1 - h.beta**ctx.step) ** (-1 / h.pow) if h.debiased else root
