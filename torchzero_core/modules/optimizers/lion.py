"""Lion (Chen et al. 2023)."""

from __future__ import annotations

from ...core import Beta, Context, Slot, Transform
from ...lang import Value


class Lion(Transform):
    r"""The sign of an average of updates.

    .. math:: u ← sign(β_1 m_{t-1} + (1-β_1) u_t), \quad m_t = β_2 m_{t-1} + (1-β_2) u_t

    Args:
        beta1: decay of the average that gives the sign, in [0, 1).
        beta2: decay of the average that is kept, in [0, 1).

    Reference:
        Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, arXiv:2302.06675.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> tz.Modular([p], tz.m.Lion(), tz.m.LR(0.5)).step()
        >>> p.detach()
        tensor([-0.5000,  0.5000])
    """

    size_effect = "unit"

    beta1: Beta = 0.9
    beta2: Beta = 0.99
    ema = Slot()

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        m = s.ema
        s.ema = m.lerp(u, 1 - h.beta2)
        return m.lerp(u, 1 - h.beta1).sign()
