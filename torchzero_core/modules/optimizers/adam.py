"""Adam (Kingma & Ba 2015)."""

from __future__ import annotations

from ...core import Beta, Context, Finite, NonNegative, Positive, Slot, Transform
from ...lang import Value


class Adam(Transform):
    r"""Divides an average of the updates by the root of an average of their squares.

    .. math::
        m_t = β_1 m_{t-1} + (1-β_1) u_t, \quad v_t = β_2 v_{t-1} + (1-β_2) |u_t|^{pow}

        u ← α \frac{m_t / (1-β_1^t)}{(v_t / (1-β_2^t))^{1/pow} + ε}

    Args:
        beta1: decay of the average of updates, in [0, 1).
        beta2: decay of the average of powers, in [0, 1).
        eps: added to the root, after the bias correction.
        amsgrad: divide by the root of the largest average so far.
        alpha: factor on the result.
        pow: the power; 2 is Adam.
        debiased: correct the averages for their start at zero.

    Equals ``torch.optim.Adam`` for pow=2. t counts each parameter's own steps.

    Reference:
        Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -0.01])
        >>> tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1)).step()
        >>> p.detach()
        tensor([0.9000, 1.1000])
    """

    size_effect = "unit"

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    eps: NonNegative = 1e-8
    amsgrad: bool = False
    alpha: Finite = 1.0
    pow: Positive = 2
    debiased: bool = True
    exp_avg = Slot()
    exp_avg_sq = Slot()
    max_exp_avg_sq = Slot()
    kernel = "adam"
    kernel_needs = {"alpha": 1, "pow": 2, "debiased": True}

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.beta1)
        s.exp_avg_sq = v = h.beta2 * s.exp_avg_sq + (1 - h.beta2) * u.abs() ** h.pow
        if h.amsgrad:
            s.max_exp_avg_sq = v = s.max_exp_avg_sq.maximum(v)
        root, eps = v ** (1 / h.pow), h.eps
        if h.debiased:  # both corrections in the denominator, where they cost one multiplication
            correction = 1 - h.beta1**ctx.step
            root, eps = root * (correction * (1 - h.beta2**ctx.step) ** (-1 / h.pow)), eps * correction
        out = m / (root + eps)
        return out if h.alpha == 1 else h.alpha * out
