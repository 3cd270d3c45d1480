"""Clipping and normalisation by the norm of an average of past updates."""

from __future__ import annotations

from typing import Literal

from ...core import Beta, Child, Context, NonNegative, Order, Positive, Slot, Transform
from ...lang import Operand, Value


class _ByEMA(Transform):
    """What the two share: the average, held to a growth, and its norm N."""

    beta: Beta = 0.99
    ord: Order = 2
    eps: NonNegative = 1e-6
    tensorwise: bool = True
    max_ema_growth: Positive | None = 1.5
    ema_init: Literal["zeros", "update"] = "zeros"
    ema = Slot()
    ema_scale = Slot(scalar=True, init=1.0)  # the average is ema·ema_scale: scaling it down needs no pass over memory
    prev_ema_norm = Slot(scalar=True)
    prev_total_norm = Slot(scalar=True)

    def norms(self, u: Value, ctx: Context) -> tuple[Value, Value]:
        """N, floored at eps, and the norm of u: per tensor or over all."""
        s, own = ctx.state, ctx.settings
        average = s.ema * s.ema_scale
        s.ema = ema = u if own.ema_init == "update" and ctx.first else average.lerp(u, 1 - own.beta)
        if own.tensorwise:
            h, first = own, ctx.first
            n, norm, previous = ema.norm(h.ord), u.norm(h.ord), s.prev_ema_norm
        else:
            h, first = ctx.whole.settings, ctx.whole.first
            n, norm, previous = ema.global_norm(h.ord), u.global_norm(h.ord), ctx.global_state.prev_total_norm
        scale: Operand = 1.0
        if h.max_ema_growth is not None:
            if not first:
                bound = (h.max_ema_growth * previous).maximum(h.eps)
                scale = (n > bound).where(bound / n, 1.0)
                n = n.minimum(bound)
            if own.tensorwise:
                s.prev_ema_norm = n
            else:
                ctx.global_state.prev_total_norm = n
        s.ema_scale = scale
        return n.maximum(h.eps), norm


class NormalizeByEMA(_ByEMA):
    r"""Gives the update the norm of an average of past updates: u ← u·N/max(‖u‖, ε).

    .. math:: e ← βe + (1-β)u, \quad e ← e·\min(1, \max(growth·N_{prev}, ε)/‖e‖), \quad N = \max(‖e‖, ε)

    Args:
        beta: decay of the average, in [0, 1).
        ord: order of the norm.
        eps: the least norm.
        tensorwise: norms of each tensor; otherwise one over all.
        max_ema_growth: where the norm of the average would grow by more than this factor in a step, the average is
            scaled down to it, so that a burst is forgotten; None for no limit.
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
        ratio = n / norm.maximum(ctx.settings.eps)
        return u * ratio.isfinite().where(ratio, 0.0)  # squares may overflow


class ClipNormByEMA(_ByEMA):
    r"""Clips the update to the norm of an average of past updates: u ← u·min(1, N/‖u‖).

    .. math:: e ← βe + (1-β)u, \quad e ← e·\min(1, \max(growth·N_{prev}, ε)/‖e‖), \quad N = \max(‖e‖, ε)

    Args:
        beta: decay of the average, in [0, 1).
        ord: order of the norm.
        eps: the least norm to clip to.
        tensorwise: norms of each tensor; otherwise one over all.
        max_ema_growth: where the norm of the average would grow by more than this factor in a step, the average is
            scaled down to it, so that a burst is forgotten; None for no limit.
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
        return u * (n < norm).where(n / norm, 1.0)


class ClipValueByEMA(Transform):
    r"""Clips each element of the update to the average of its past magnitudes: u ← clamp(u, −e, e).

    .. math:: e ← βe + (1-β)|u|

    Args:
        beta: decay of the average, in [0, 1).
        ema_init: start the average at "zeros" or at the first "update".
        ema_tfm: a module that makes the bound from the average; without one it is the average.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipValueByEMA(0.5, ema_init="update", ema_tfm=tz.m.Mul(2)))
        >>> for grad in ([1.0, -1.0], [9.0, -2.0]):  # the bounds are then 10 and 3
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-10.,   3.])
    """

    beta: Beta = 0.99
    ema_init: Literal["zeros", "update"] = "zeros"
    ema_tfm: Child | None = None
    ema = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, size = ctx.state, ctx.settings, u.abs()
        s.ema = ema = size if h.ema_init == "update" and ctx.first else s.ema.lerp(size, 1 - h.beta)
        bound = ctx.child("ema_tfm", ema)
        return u.clamp(-bound, bound)
