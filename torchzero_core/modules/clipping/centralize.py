"""Centralisation (Yong et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from ...core import Context, Target, Transform
from ...lang import Operand, Value
from .slices import check_dims, dims_of, large_enough


class Centralize(Transform):
    r"""Subtracts the mean: u ← u − mean(u).

    Args:
        dim: None takes the mean of each tensor, ints the means of slices that run along these dimensions. A tensor
            that has none of them is left alone.
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

    def __init__(
        self,
        dim: int | Sequence[int] | None = None,
        inverse_dims: bool = False,
        min_size: int = 2,
        target: Target = "update",
    ) -> None:
        check_dims("Centralize", dim, allow_global=False)
        super().__init__(dict(dim=dim, inverse_dims=inverse_dims, min_size=min_size), target=target)

    def rule(self, u: Value, ctx: Context) -> Operand:
        return large_enough(ctx, u, u - u.mean(dims_of(ctx)))
