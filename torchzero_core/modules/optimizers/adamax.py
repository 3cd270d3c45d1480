"""Adamax (Kingma & Ba 2015)."""

from __future__ import annotations

from ...core import Beta, Context, NonNegative, Slot, Transform
from ...lang import Operand, Value


class Adamax(Transform):
    r"""Adam with a decaying maximum in the place of the root of an average of squares.

    .. math::
        m_t = β_1 m_{t-1} + (1-β_1) u_t, \quad v_t = \max(β_2 v_{t-1}, |u_t| + ε), \quad
        u ← \frac{m_t}{(1-β_1^t) v_t}

    With a learning rate behind it, it equals ``torch.optim.Adamax``.

    Args:
        beta1: decay of the average of updates, in [0, 1).
        beta2: decay of the maximum, in [0, 1).
        eps: added to each magnitude.

    Reference:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, section 7.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> tz.Modular([p], tz.m.Adamax(), tz.m.LR(0.5)).step()
        >>> p.detach()
        tensor([-0.5000,  0.5000])
    """

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: NonNegative = 1e-8
    exp_avg = Slot()
    exp_inf = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.beta1)
        s.exp_inf = v = (h.beta2 * s.exp_inf).maximum(u.abs() + h.eps)
        return m / (v * (1 - h.beta1**ctx.step))
