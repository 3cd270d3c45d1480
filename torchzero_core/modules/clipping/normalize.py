"""Normalisation by norm."""

from __future__ import annotations

from ...core import Context, Natural, NonNegative, Order, Target, Transform
from ...lang import Operand, Value
from .slices import Dim, dims_of, large_enough


class Normalize(Transform):
    r"""Gives the update a norm: u ← u·norm_value/‖u‖. What is zero stays zero.

    Args:
        norm_value: the norm that comes out.
        ord: order of the norm, over the elements.
        dim: None takes the norm of each tensor, "global" one norm of all tensors together, ints norms of slices that
            run along these dimensions of each tensor. A tensor that has none of them is left alone.
        inverse_dims: slices run along all dimensions but ``dim``.
        min_size: slices with fewer elements are left alone.
        target: what is normalised.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> tz.Modular([p], tz.m.Normalize(10)).step()
        >>> p.detach()
        tensor([-6., -8.])
    """

    size_effect = "own"
    norm_value: NonNegative = 1
    ord: Order = 2
    dim: Dim = None
    inverse_dims: bool = False
    min_size: Natural = 1
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        norm = u.global_norm(ctx.whole.settings.ord) if h.dim == "global" else u.norm(h.ord, dims_of(ctx))
        return large_enough(ctx, u, u * (norm > 0).where(h.norm_value / norm, 1.0))
