"""Inverse roots of batches of symmetric positive semidefinite matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from .eigen import eigh
from .vector import all_finite


def inverse_root(matrices: Tensor, p: float = 2.0, *, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """A^(−1/p) for every matrix of a batch, by one batched eigendecomposition: V diag(max(λ, floor)^(−1/p)) V'.

    The floor is ``eps``, or n·λ_max times the rounding of the dtype where that is larger: eigenvalues below it are
    rounding errors. Computed in float32 at least.

    Args:
        matrices: A, symmetric, of shape (…, n, n).
        p: which root; 1 gives the inverse.
        eps: smallest eigenvalue that is used.

    Returns:
        The roots, in float32 at least, and of shape (…) whether they are right. Where a decomposition failed or a root
        is not finite they are not, and the values mean nothing.

    Reference: Higham, Functions of Matrices, 2008; Gupta et al., Shampoo, 2018, arXiv:1802.09568.

    Example:
        >>> root, ok = inverse_root(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        >>> root, bool(ok)
        (tensor([[0.5000, 0.0000],
                [0.0000, 0.2500]]), True)
    """
    values, vectors, ok = eigh(matrices)
    if not values.numel():
        return vectors, ok
    rounding = torch.finfo(values.dtype).eps * values.shape[-1]
    floors = (rounding * values.abs().amax(-1, keepdim=True)).clamp(min=eps)
    powers = values.maximum(floors).pow(-1 / p)
    roots = (vectors * powers.unsqueeze(-2)) @ vectors.mT
    return roots, ok & all_finite(roots)
