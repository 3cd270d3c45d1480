"""Clipping and normalisation by the norm of an average of past updates."""

from __future__ import annotations

from typing import Literal

from ...core import Beta, Context, NonNegative, Order, Positive, Slot, Transform
from ...lang import Operand, Value


class _ByEMA(Transform):
    """What the two share: the average and its limited norm N."""

    beta: Beta = 0.99
    ord: Order = 2
    eps: NonNegative = 1e-6
    tensorwise: bool = True
    max_ema_growth: Positive | None = 1.5
    ema_init: Literal["zeros", "update"] = "zeros"
    ema = Slot()
    prev_ema_norm = Slot(scalar=True)
    prev_total_norm = Slot(scalar=True)

    def norms(self, u: Value, ctx: Context) -> tuple[Value, Value]:
        """N, floored at eps, and the norm of u: per tensor or over all."""
        s, own = ctx.state, ctx.settings
        s.ema = ema = u if own.ema_init == "update" and ctx.first else s.ema.lerp(u, 1 - own.beta)
        if own.tensorwise:
            h, n, norm, previous = own, ema.norm(own.ord), u.norm(own.ord), s.prev_ema_norm
        else:
            h = ctx.whole.settings
            n, norm, previous = ema.global_norm(h.ord), u.global_norm(h.ord), ctx.global_state.prev_total_norm
        n = n.maximum(h.eps)
        if h.max_ema_growth is not None:
            # the previous norm is 0 before the first step, which has nothing to grow from
            n = (previous > 0).where(n.minimum(h.max_ema_growth * previous), n)
            if own.tensorwise:
                s.prev_ema_norm = n
            else:
                ctx.global_state.prev_total_norm = n
        return n, norm


class NormalizeByEMA(_ByEMA):
    r"""Gives the update the norm of an average of past updates: u ← u·N/max(‖u‖, ε).

    .. math:: e ← βe + (1-β)u, \quad N = \max(\min(‖e‖, growth·N_{prev}), ε)

    Args:
        beta: decay of the average, in [0, 1).
        ord: order of the norm.
        eps: the least norm.
        tensorwise: norms of each tensor; otherwise one over all.
        max_ema_growth: N grows by at most this factor a step; None for no limit.
        ema_init: start the average at "zeros" or at the first "update".

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.NormalizeByEMA(ema_init="update"))
        >>> for scale in (1.0, 100.0):  # a burst a hundred times as large moves little further
        ...     p.grad = torch.tensor([3.0, 4.0]) * scale
        ...     optimizer.step()
        >>> p.detach()
        tensor([ -7.5000, -10.0000])
    """

    def rule(self, u: Value, ctx: Context) -> Operand:
        n, norm = self.norms(u, ctx)
        return u * (n / norm.maximum(ctx.settings.eps))


class ClipNormByEMA(_ByEMA):
    r"""Clips the update to the norm of an average of past updates: u ← u·min(1, N/‖u‖).

    .. math:: e ← βe + (1-β)u, \quad N = \max(\min(‖e‖, growth·N_{prev}), ε)

    Args:
        beta: decay of the average, in [0, 1).
        ord: order of the norm.
        eps: the least norm to clip to.
        tensorwise: norms of each tensor; otherwise one over all.
        max_ema_growth: N grows by at most this factor a step; None for no limit.
        ema_init: start the average at "zeros" or at the first "update".

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipNormByEMA(ema_init="update"))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> optimizer.step()
        >>> p.detach()
        tensor([-3., -4.])
    """

    def rule(self, u: Value, ctx: Context) -> Operand:
        n, norm = self.norms(u, ctx)
        return u * (n / norm.maximum(ctx.settings.eps)).minimum(1.0)
