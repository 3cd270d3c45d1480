"""NAdam (Dozat 2016)."""

from __future__ import annotations

from ...core import Beta, Context, NonNegative, Slot, Transform
from ...lang import Operand, Value


class NAdam(Transform):
    r"""Adam with Nesterov's momentum, which rises over the steps.

    .. math::
        μ_t = β_1 (1 - \tfrac12 0.96^{tψ}), \quad m_t = β_1 m_{t-1} + (1-β_1) u_t, \quad
        v_t = β_2 v_{t-1} + (1-β_2) u_t^2

        u ← \left(\frac{μ_{t+1} m_t}{1 - \prod_{i=1}^{t+1} μ_i} + \frac{(1-μ_t) u_t}{1 - \prod_{i=1}^t μ_i}\right)
        \Big/ \left(\sqrt{v_t / (1-β_2^t)} + ε\right)

    With a learning rate behind it, it equals ``torch.optim.NAdam``.

    Args:
        beta1: decay of the average of updates, in [0, 1).
        beta2: decay of the average of squares, in [0, 1).
        eps: added to the root.
        momentum_decay: ψ, how fast the momentum rises to β₁.

    Reference:
        Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> tz.Modular([p], tz.m.NAdam(beta1=0), tz.m.LR(0.5)).step()
        >>> p.detach()
        tensor([-0.5000,  0.5000])
    """

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: NonNegative = 1e-8
    momentum_decay: NonNegative = 4e-3
    exp_avg = Slot()
    exp_avg_sq = Slot()
    mu_product = Slot(init=1.0, scalar=True)

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, t = ctx.state, ctx.settings, ctx.step
        mu, mu_next = (h.beta1 * (1 - 0.5 * 0.96 ** (k * h.momentum_decay)) for k in (t, t + 1))
        s.mu_product = product = s.mu_product * mu
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.beta1)
        s.exp_avg_sq = v = h.beta2 * s.exp_avg_sq + (1 - h.beta2) * u * u
        root = v.sqrt() * (1 - h.beta2**t) ** -0.5 + h.eps
        return (u * ((1 - mu) / (1 - product)) + m * (mu_next / (1 - product * mu_next))) / root
