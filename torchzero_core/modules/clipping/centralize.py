"""Centralisation (Yong et al. 2020)."""

from __future__ import annotations

from ...core import Context, Natural, Target, Transform
from ...lang import Operand, Value
from .slices import Dim, dims_of, large_enough


class Centralize(Transform):
    r"""Subtracts the mean: u ← u − mean(u).

    Args:
        dim: None takes the mean of each tensor, "global" one mean of all tensors together, ints the means of slices
            that run along these dimensions of each tensor. A tensor that has none of them is left alone.
        inverse_dims: slices run along all dimensions but ``dim``; ``dim=0, inverse_dims=True`` is the paper's choice.
        min_size: slices with fewer elements are left alone.
        target: what is centralised.

    Reference:
        Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", ECCV 2020,
        arXiv:2004.01461.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(3, requires_grad=True)
        >>> p.grad = torch.tensor([1.0, 2.0, 6.0])
        >>> tz.Modular([p], tz.m.Centralize()).step()
        >>> p.detach()
        tensor([ 2.,  1., -3.])
    """

    dim: Dim = None
    inverse_dims: bool = False
    min_size: Natural = 2
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        if ctx.settings.dim == "global":
            mean = u.global_sum() / u.global_numel().maximum(1.0)
        else:
            mean = u.mean(dims_of(ctx))
        return large_enough(ctx, u, u - mean)
