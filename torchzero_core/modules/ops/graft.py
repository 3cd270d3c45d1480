"""Directions with lengths and parts of other updates."""

from __future__ import annotations

from dataclasses import KW_ONLY

from ...core import Context, Finite, Input, Modules, NonNegative, Order, Passed
from ...lang import Number, Operand, Value
from .base import BinaryOperation, MultiOperation


def grafted(ctx: Context, direction: Value, magnitude: Value, strength: float | Number = 1) -> Value:
    """The direction of one value with the norm of another.

    Args:
        ctx: of a module with the settings tensorwise, ord and eps.
        direction: gives the direction.
        magnitude: gives the norm.
        strength: how much of that norm is taken.
    """
    h, ord = ctx.settings, ctx.settings.ord if ctx.settings.tensorwise else ctx.whole.settings.ord
    own, wanted = ((x.norm(ord) if h.tensorwise else x.global_norm(ord)) for x in (direction, magnitude))
    if strength != 1:
        wanted = own.lerp(wanted, strength)
    return direction * (wanted / own.maximum(h.eps))


class GraftModules(MultiOperation):
    r"""The direction of one module with the norm of another, where both get the update.

    .. math:: u ← d · \frac{(1-s)‖d‖ + s‖m‖}{\max(‖d‖, ε)}

    Args:
        direction: gives d.
        magnitude: gives m.
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.
        strength: s, how much of the norm of m is taken.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([4.0, -3.0])
        >>> tz.Modular([p], tz.m.GraftModules(tz.m.Identity(), tz.m.Normalize(10))).step()
        >>> p.detach()
        tensor([-8.,  6.])
    """

    direction: Passed[Modules]
    magnitude: Passed[Modules]
    tensorwise: bool = True
    ord: Order = 2
    eps: NonNegative = 1e-6
    strength: Finite = 1

    def transform(self, ctx: Context, direction: Value, magnitude: Value) -> Operand:  # type: ignore[override]
        return grafted(ctx, direction, magnitude, ctx.settings.strength)


class Graft(BinaryOperation):
    r"""The direction of the update with the norm of a module that gets it.

    .. math:: u ← u · \frac{‖m‖}{\max(‖u‖, ε)}

    Args:
        magnitude: a module, or a list of modules, that gives m.
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([4.0, -3.0])
        >>> tz.Modular([p], tz.m.Graft(tz.m.Normalize(10))).step()
        >>> p.detach()
        tensor([-8.,  6.])
    """

    magnitude: Passed[Modules]
    tensorwise: bool = True
    ord: Order = 2
    eps: NonNegative = 1e-6

    def transform(self, ctx: Context, update: Value, magnitude: Value) -> Operand:  # type: ignore[override]
        return grafted(ctx, update, magnitude)


class RGraft(BinaryOperation):
    r"""The norm of the update with the direction of a module that gets it. ``GraftToUpdate`` is another name of it.

    .. math:: u ← d · \frac{‖u‖}{\max(‖d‖, ε)}

    Args:
        direction: a module, or a list of modules, that gives d.
        tensorwise: norms of each tensor; otherwise one over all.
        ord: order of the norm.
        eps: the least norm to divide by.

    Reference:
        Agarwal et al., "Disentangling Adaptive Gradient Methods from Learning Rates", 2020, arXiv:2002.11803.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([4.0, -3.0])
        >>> tz.Modular([p], tz.m.RGraft([tz.m.Negate(), tz.m.Mul(3)])).step()
        >>> p.detach()
        tensor([ 4., -3.])
    """

    direction: Passed[Modules]
    tensorwise: bool = True
    ord: Order = 2
    eps: NonNegative = 1e-6

    def transform(self, ctx: Context, update: Value, direction: Value) -> Operand:  # type: ignore[override]
        return grafted(ctx, direction, update)


GraftToUpdate = RGraft  #: a spelling of the reference


class GramSchmidt(BinaryOperation):
    r"""Takes out of the update what is along another one.

    .. math:: u ← u - \frac{⟨o, u⟩}{⟨o, o⟩} o

    Where o is 0 the update stays as it is.

    Args:
        other: gives o: a module that gets the update, a list of modules, or a number, the same for each element.
        tensorwise: products of each tensor; otherwise one over all.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([4.0, -2.0])
        >>> tz.Modular([p], tz.m.GramSchmidt(1)).step()
        >>> p.detach()
        tensor([-3.,  3.])
    """

    other: Input
    _: KW_ONLY
    tensorwise: bool = False

    def transform(self, ctx: Context, update: Value, other: Value | Number) -> Operand:  # type: ignore[override]
        o = ctx.full(other)
        product, square = (x.dot(o) if ctx.settings.tensorwise else x.global_dot(o) for x in (update, o))
        return update - square.ne(0.0).where(product / square, 0.0) * o


GramSchimdt = GramSchmidt  #: a spelling of the reference
