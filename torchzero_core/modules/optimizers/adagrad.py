"""Adagrad (Duchi et al. 2011)."""

from __future__ import annotations

from ...core import Child, Context, Finite, NonNegative, Positive, Slot, Transform
from ...lang import Operand, Value


class Adagrad(Transform):
    r"""Divides the update by the root of the sum of its squares.

    .. math::
        S_t = S_{t-1} + |u_t|^{pow}, \quad
        u ← \frac{α}{1 + (t-1)·lr\_decay} · \frac{inner(u_t)}{S_t^{1/pow} + ε}

    Equals ``torch.optim.Adagrad`` for pow=2.

    Args:
        lr_decay: how fast the step shrinks.
        initial_accumulator_value: S before the first step.
        eps: added to the root.
        alpha: a factor.
        pow: the power; 2 is Adagrad.
        use_sqrt: take the root; otherwise divide by S + ε.
        inner: a module that gives the numerator; S sees the plain update.

    Reference:
        Duchi, Hazan & Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
        JMLR 12, 2011.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Adagrad(), tz.m.LR(1.0))
        >>> p.grad = torch.tensor([3.0, -0.1])
        >>> optimizer.step()
        >>> p.detach()
        tensor([-1.,  1.])
    """

    size_effect = "unit"
    lr_decay: NonNegative = 0
    initial_accumulator_value: NonNegative = 0
    eps: NonNegative = 1e-10
    alpha: Finite = 1
    pow: Positive = 2
    use_sqrt: bool = True
    inner: Child | None = None
    sq_sum = Slot(init="initial_accumulator_value")
    kernel = "adagrad"
    kernel_needs = {"alpha": 1, "pow": 2, "use_sqrt": True}

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, t = ctx.state, ctx.settings, ctx.step
        s.sq_sum = total = s.sq_sum + u.abs() ** h.pow
        root = total ** (1 / h.pow) if h.use_sqrt else total
        out = ctx.child("inner", u) / (root + h.eps)
        if h.lr_decay == 0:
            return out if h.alpha == 1 else h.alpha * out
        return h.alpha / (1 + (t - 1) * h.lr_decay) * out
