"""The update beside the gradient and the parameters: signs, magnitudes and norms of one given to another."""

from __future__ import annotations

from ...core import Context, NonNegative, Order, Slot, Target, Transform
from ...lang import Operand, Value


class GradSign(Transform):
    """The sizes of the update with the signs of the gradient: u ← ``|u|·sign(g)``.

    Behind Adam it makes Grams.

    Args:
        target: what gets the signs.

    Reference:
        Cao et al., "Grams: Gradient Descent with Adaptive Momentum Scaling", 2024, arXiv:2412.17107.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-3.0])
        >>> tz.Modular([p], tz.m.Pow(2), tz.m.GradSign()).step()
        >>> p.item()
        9.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u.abs() * ctx.grads.sign()


class UpdateSign(Transform):
    """The sizes of the gradient with the signs of the update: u ← ``|g|·sign(u)``.

    Args:
        target: what gives the signs.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([-3.0])
        >>> tz.Modular([p], tz.m.Pow(2), tz.m.UpdateSign()).step()
        >>> p.item()
        -3.0
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.grads.abs() * u.sign()


class _Graft(Transform):
    """What the grafts share: norms of each tensor or over all."""

    def norm(self, x: Value, ctx: Context) -> Value:
        """The norm that is given from one to the other."""
        if ctx.settings.tensorwise:
            return x.norm(ctx.settings.ord)
        return x.global_norm(ctx.whole.settings.ord)


class GraftToGrad(_Graft):
    r"""Gives the update the norm of the gradient.

    .. math:: u ← u · \frac{‖g‖}{\max(‖u‖, ε)}

    Args:
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.
        target: what gets the norm.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> tz.Modular([p], tz.m.Mul(100), tz.m.GraftToGrad()).step()
        >>> p.detach()
        tensor([-3.,  4.])
    """

    tensorwise: bool = False
    ord: Order = 2
    eps: NonNegative = 1e-6
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u * (self.norm(ctx.grads, ctx) / self.norm(u, ctx).maximum(ctx.settings.eps))


class GraftGradToUpdate(_Graft):
    r"""The direction of the gradient with the norm of the update.

    .. math:: u ← g · \frac{‖u‖}{\max(‖g‖, ε)}

    Args:
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.
        target: what gives the norm.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> tz.Modular([p], tz.m.Normalize(10), tz.m.Sign(), tz.m.Mul(2), tz.m.GraftGradToUpdate(ord=1)).step()
        >>> p.detach().round(decimals=4)  # the sum of the sizes is 4
        tensor([-1.7143,  2.2857])
    """

    tensorwise: bool = False
    ord: Order = 2
    eps: NonNegative = 1e-6
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.grads * (self.norm(u, ctx) / self.norm(ctx.grads, ctx).maximum(ctx.settings.eps))


class GraftToParams(_Graft):
    r"""Gives the update the norm of the parameters, as LARS and LAMB do; the learning rate is then relative to it.

    .. math:: u ← u · \frac{\max(‖p‖, ε)}{‖u‖}

    An update of zeros stays.

    Args:
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm, so that parameters of zeros can leave.
        target: what gets the norm.

    Reference:
        You et al., "Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([6.0, 8.0], requires_grad=True)
        >>> p.grad = torch.tensor([0.0, 0.3])
        >>> tz.Modular([p], tz.m.GraftToParams(), tz.m.LR(0.1)).step()
        >>> p.detach()
        tensor([6., 7.])
    """

    tensorwise: bool = False
    ord: Order = 2
    eps: NonNegative = 1e-4
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        own = self.norm(u, ctx)
        return u * own.ne(0.0).where(self.norm(ctx.params, ctx).maximum(ctx.settings.eps) / own, 0.0)


class Relative(Transform):
    """Makes the update relative to the size of each parameter: u ← ``u·max(|p|, min_value)``.

    Args:
        min_value: the least size.
        target: what is multiplied.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([10.0, 0.0], requires_grad=True)
        >>> p.grad = torch.ones(2)
        >>> tz.Modular([p], tz.m.Relative(min_value=0.5), tz.m.LR(0.1)).step()
        >>> p.detach()
        tensor([ 9.0000, -0.0500])
    """

    min_value: NonNegative = 1e-4
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u * ctx.params.abs().maximum(ctx.settings.min_value)


class LastGradDifference(Transform):
    """The difference of the last two gradients: u ← g − g_prev, where the gradient before the first is 0.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LastGradDifference())
        >>> for grad in (1.0, 4.0):  # 1, 3
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        >>> p.item()
        -4.0
    """

    prev_grad = Slot()

    def __init__(self) -> None:
        super().__init__()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, g = ctx.state, ctx.grads
        previous, s.prev_grad = s.prev_grad, g
        return g - previous
