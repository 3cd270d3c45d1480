"""RAdam (Liu et al. 2020)."""

from __future__ import annotations

from ...core import Beta, Context, NonNegative, Slot, Transform
from ...lang import Operand, Value


class RAdam(Transform):
    r"""Adam that starts without its denominator and rectifies it as long as it has seen few squares.

    .. math::
        ρ_∞ = \frac{2}{1-β_2} - 1, \quad ρ_t = ρ_∞ - \frac{2 t β_2^t}{1-β_2^t}, \quad
        r_t = \sqrt{\frac{(ρ_t-4)(ρ_t-2) ρ_∞}{(ρ_∞-4)(ρ_∞-2) ρ_t}}

        u ← \frac{m_t}{1-β_1^t} \begin{cases} r_t \sqrt{1-β_2^t} / (\sqrt{v_t} + ε) & ρ_t > 5 \\ 1 & \text{else}
        \end{cases}

    with Adam's averages m and v. With a learning rate behind it, it equals ``torch.optim.RAdam``.

    Args:
        beta1: decay of the average of updates, in [0, 1).
        beta2: decay of the average of squares, in [0, 1).
        eps: added to the root, before the bias correction.

    Reference:
        Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020, arXiv:1908.03265.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> tz.Modular([p], tz.m.RAdam(), tz.m.LR(0.5)).step()
        >>> p.detach()
        tensor([-1.5000,  0.0500])
    """

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: NonNegative = 1e-8
    exp_avg = Slot()
    exp_avg_sq = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, t = ctx.state, ctx.settings, ctx.step
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.beta1)
        s.exp_avg_sq = v = h.beta2 * s.exp_avg_sq + (1 - h.beta2) * u * u
        seen, correction = h.beta2**t, 1 - h.beta1**t
        longest = 2 / (1 - h.beta2) - 1
        length = longest - 2 * t * seen / (1 - seen)
        if length <= 5:
            return m / correction
        rect = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
        return m * (rect * (1 - seen) ** 0.5 / correction) / (v.sqrt() + h.eps)
