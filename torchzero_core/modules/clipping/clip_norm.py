"""Clipping by norm."""

from __future__ import annotations

from ...core import Context, Natural, Order, Positive, Target, Transform
from ...lang import Operand, Value
from .slices import Dim, dims_of, large_enough


class ClipNorm(Transform):
    r"""Limits the norm of the update: u ← u·min(1, max_norm/‖u‖).

    Args:
        max_norm: the largest norm.
        ord: order of the norm, over the elements.
        dim: None takes the norm of each tensor, "global" one norm of all tensors together, ints norms of slices that
            run along these dimensions of each tensor. A tensor that has none of them is left alone.
        inverse_dims: slices run along all dimensions but ``dim``.
        min_size: slices with fewer elements are left alone.
        target: what is clipped.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> tz.Modular([p], tz.m.ClipNorm(1, dim=1)).step()
        >>> p.detach()
        tensor([[-0.6000, -0.8000],
                [-0.3000, -0.4000]])
    """

    size_effect = "limit"
    max_norm: Positive
    ord: Order = 2
    dim: Dim = None
    inverse_dims: bool = False
    min_size: Natural = 1
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        norm = u.global_norm(ctx.whole.settings.ord) if h.dim == "global" else u.norm(h.ord, dims_of(ctx))
        return large_enough(ctx, u, u * (h.max_norm / norm.maximum(h.max_norm)))  # exactly 1 below max_norm
