"""Averages of powers of past updates."""

from __future__ import annotations

from ...core import Beta, Context, Positive, Slot, Target, Transform
from ...lang import Operand, Value


class _AverageOfPowers(Transform):
    """What the two share."""

    beta: Beta = 0.999
    amsgrad: bool = False
    exp_avg_sq = Slot()
    max_exp_avg_sq = Slot()

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        s.exp_avg_sq = v = h.beta * s.exp_avg_sq + (1 - h.beta) * u.abs() ** h.pow
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


class _CenteredAverageOfPowers(Transform):
    """What the two share: the average of powers without the power of the average."""

    beta: Beta = 0.99
    amsgrad: bool = False
    exp_avg = Slot()
    exp_avg_sq = Slot()
    max_exp_avg_sq = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.beta)
        s.exp_avg_sq = v = h.beta * s.exp_avg_sq + (1 - h.beta) * u.abs() ** h.pow
        v = (v - m.abs() ** h.pow).maximum(0.0)  # rounding may leave it below zero
        if h.amsgrad:
            s.max_exp_avg_sq = v = s.max_exp_avg_sq.maximum(v)
        return v


class CenteredEMASquared(_CenteredAverageOfPowers):
    r"""Exponential moving average of powers of the update, without the power of its average: for squares, a variance.

    .. math::
        m_t = β m_{t-1} + (1-β) u_t, \quad v_t = β v_{t-1} + (1-β) |u_t|^{pow}, \quad u ← v_t - |m_t|^{pow}

    Args:
        beta: decay of the averages, in [0, 1).
        amsgrad: give the largest result so far.
        pow: the power.
        target: what is averaged.

    Reference:
        Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-4.0])
        >>> tz.Modular([p], tz.m.CenteredEMASquared(0.5)).step()
        >>> p.item()  # 8 - 2²
        -4.0
    """

    pow: Positive = 2
    target: Target = "update"


class CenteredSqrtEMASquared(_CenteredAverageOfPowers):
    r"""Root of an average of powers of the update without the power of its average: for squares, a deviation.

    .. math::
        u ← \left(\frac{v_t - |m_t|^{pow}}{1-β^t}\right)^{1/pow}, \quad
        m_t = β m_{t-1} + (1-β) u_t, \quad v_t = β v_{t-1} + (1-β) |u_t|^{pow}

    Args:
        beta: decay of the averages, in [0, 1).
        amsgrad: take the largest difference so far.
        debiased: divide the difference by 1 − βᵗ; without it it is used as it is.
        pow: the power.
        target: what is averaged.

    Reference:
        Graves, "Generating Sequences With Recurrent Neural Networks", 2013, arXiv:1308.0850.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-4.0])
        >>> tz.Modular([p], tz.m.CenteredSqrtEMASquared(0.5)).step()
        >>> p.item()  # √(8 - 2²)
        -2.0
    """

    debiased: bool = False
    pow: Positive = 2
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        root = super().rule(u, ctx) ** (1 / h.pow)
        return root * (1 - h.beta**ctx.step) ** (-1 / h.pow) if h.debiased else root
