"""Polyak's step size (Polyak 1969)."""

from __future__ import annotations

from ...core import Context, Finite, Positive, Transform
from ...lang import Operand, Value


class PolyakStepSize(Transform):
    r"""The step after which a linear model of the loss reaches its least value.

    .. math:: u ← α·\min\left(\frac{f(x) - f_{min}}{⟨u, g⟩}, max\right)·u

    It needs the loss, so the step needs a closure. Where the product is 0, u becomes 0.

    Args:
        max: the largest step size; None for no limit.
        min_obj_value: the least value f_min that the loss can have, or a guess.
        use_grad: divide by the product of update and gradient, as the model says; False takes ⟨u, u⟩, which is never
            negative.
        parameterwise: a step size for each tensor, from its own product; otherwise one for all.
        alpha: a factor for the step size.

    Reference:
        Polyak, "Minimization of unsmooth functionals", 1969; for stochastic gradients Loizou et al., "Stochastic Polyak
        Step-size for SGD", AISTATS 2021, arXiv:2002.10542.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([4.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.PolyakStepSize())
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(2):  # halves it
        ...     _ = optimizer.step(closure)
        >>> p.item()
        1.0
    """

    max: Positive | None = None
    min_obj_value: Finite = 0
    use_grad: bool = True
    parameterwise: bool = False
    alpha: Finite = 1
    requires_closure = True

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        if h.parameterwise:
            product = u.dot(ctx.grads if h.use_grad else u)
        else:
            product = u.global_dot(ctx.grads if ctx.whole.settings.use_grad else u)
        size = (ctx.loss - h.min_obj_value) / product
        if h.max is not None:
            size = size.minimum(h.max)
        return u * (h.alpha * product.ne(0.0).where(size, 0.0))
