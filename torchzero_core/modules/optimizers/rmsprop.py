"""RMSprop (Tieleman & Hinton 2012)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core import Child, Context, Fraction, NonNegative, Positive, Slot, Transform
from ...lang import Value


class RMSprop(Transform):
    r"""Divides the update by the root of an average of its squares.

    .. math::
        v_t = β v_{t-1} + (1-β) |u_t|^{pow}, \quad u ← \frac{inner(u_t)}{v_t^{1/pow} + ε}

    With ``init="zeros"`` it equals ``torch.optim.RMSprop``; with an average as ``inner`` it is Adam:
    ``RMSprop(0.999, debiased=True, init="zeros", inner=EMA(0.9, debiased=True))``.

    Args:
        smoothing: decay β of the averages, in [0, 1].
        eps: added to the root.
        centered: subtract the power of the average update from v, which makes it a variance. With ``init="update"``
            nothing is subtracted at the first step, whose variance is zero.
        debiased: divide v by 1 − βᵗ.
        amsgrad: take the largest v so far.
        pow: the power; 2 is RMSprop.
        init: averages start at the first "update" or at "zeros".
        inner: a module that gives the numerator; v sees the plain update.

    Reference:
        Tieleman & Hinton, "Lecture 6.5 – RMSprop", 2012; centered: Graves, 2013, arXiv:1308.0850.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> tz.Modular([p], tz.m.RMSprop(), tz.m.LR(0.5)).step()
        >>> p.detach()
        tensor([-0.5000,  0.5000])
    """

    size_effect = "unit"
    smoothing: Fraction = 0.99
    eps: NonNegative = 1e-8
    centered: bool = False
    debiased: bool = False
    amsgrad: bool = False
    pow: Positive = 2
    init: Literal["zeros", "update"] = "update"
    inner: Child | None = None
    exp_avg_sq = Slot()
    exp_avg = Slot()
    max_exp_avg_sq = Slot()

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        if settings["smoothing"] == 1 and settings["debiased"]:
            raise ValueError("RMSprop(smoothing=1, debiased=True): an average that never moves cannot be corrected.")

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        starts = h.init == "update" and ctx.first
        power = u.abs() ** h.pow
        s.exp_avg_sq = v = power if starts else h.smoothing * s.exp_avg_sq + (1 - h.smoothing) * power
        if h.centered:
            s.exp_avg = m = u if starts else s.exp_avg.lerp(u, 1 - h.smoothing)
            if not starts:
                v = (v - m.abs() ** h.pow).maximum(0.0)  # rounding may leave it below zero
        if h.amsgrad:
            s.max_exp_avg_sq = v = s.max_exp_avg_sq.maximum(v)
        root = v ** (1 / h.pow)
        if h.debiased:
            root = root * (1 - h.smoothing**ctx.step) ** (-1 / h.pow)
        return ctx.child("inner", u) / (root + h.eps)
