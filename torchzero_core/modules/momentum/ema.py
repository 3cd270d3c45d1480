"""Averages of past updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...core import Context, Finite, Fraction, Slot, Target, Transform
from ...lang import Value


class EMA(Transform):
    r"""Exponential moving average of the update.

    .. math:: m_t = β m_{t-1} + (1-β)(1-damp) u_t

    Args:
        momentum: decay β of the average, in [0, 1].
        dampening: damp, how much of each new update is left out.
        debiased: divide by 1 − βᵗ, which corrects the start at zero.
        lerp: True for the average; False for the sum β·m + (1 − damp)·u.
        ema_init: start at "zeros", or let the first "update" be the first average.
        target: what is averaged.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.EMA(0.5))
        >>> for _ in range(2):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item()  # -(0.5 + 0.75)
        -1.25
    """

    size_effect = "keeps"
    momentum: Fraction = 0.9
    dampening: Finite = 0
    debiased: bool = False
    lerp: bool = True
    ema_init: Literal["zeros", "update"] = "zeros"
    target: Target = "update"
    exp_avg = Slot()

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        if settings["momentum"] == 1 and settings["debiased"]:
            name = type(self).__name__
            raise ValueError(f"{name}(momentum=1, debiased=True): an average that never moves cannot be corrected.")

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        if h.ema_init == "update" and ctx.first:
            s.exp_avg = m = u
        else:
            new = u if h.dampening == 0 else (1 - h.dampening) * u
            s.exp_avg = m = s.exp_avg.lerp(new, 1 - h.momentum) if h.lerp else h.momentum * s.exp_avg + new
        return m / (1 - h.momentum**ctx.step) if h.debiased else m


class HeavyBall(EMA):
    r"""Polyak's momentum.

    .. math:: v_1 = u_1, \quad v_t = momentum·v_{t-1} + (1-damp) u_t

    Equals ``torch.optim.SGD(momentum=momentum, dampening=dampening)``.

    Args:
        momentum: in [0, 1].
        dampening: damp, how much of each new update but the first is left out.
        debiased: divide by 1 − momentumᵗ.
        lerp: True for an exponential moving average instead of the sum; see :class:`EMA`.
        ema_init: start at the first "update" or at "zeros".
        target: what is accumulated.

    Reference:
        Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.HeavyBall(0.5), tz.m.LR(1.0))
        >>> for _ in range(2):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item()  # -(1 + 1.5)
        -2.5
    """

    lerp: bool = False
    ema_init: Literal["zeros", "update"] = "update"
    kernel = "heavyball"
    kernel_needs = {"debiased": False, "lerp": False, "ema_init": "update"}
