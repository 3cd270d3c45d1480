"""Eigenvalues and eigenbases of batches of symmetric matrices; what does not decompose is reported, not raised."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import symmetric
from .qr import orthonormal_columns
from .vector import all_finite, at_least_float32


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A = V diag(λ) V' for every matrix of a batch, all in one call.

    Computed in float32 at least. A batch of which some matrix does not converge is decomposed one by one, and such a
    matrix in float64, before it is given up.

    Args:
        matrices: symmetric, of shape (…, n, n); only the lower triangles are read.

    Returns:
        λ of shape (…, n), ascending; V of shape (…, n, n), the eigenvectors in its columns; and of shape (…) whether
        it worked. Where it did not, because of a value that is not finite or without convergence, λ = 1 and V = I.

    Reference: Golub and Van Loan, Matrix Computations, 2013, chapter 8.

    Example:
        >>> a = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[torch.nan, 0.0], [0.0, 1.0]]])
        >>> values, vectors, ok = eigh(a)
        >>> values, ok
        (tensor([[1., 2.],
                [1., 1.]]), tensor([ True, False]))
    """
    a = at_least_float32(matrices)
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    ok = all_finite(a.tril())
    a = torch.where(ok[..., None, None], a, identity)
    try:
        values, vectors = torch.linalg.eigh(a)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if a.dim() > 2:
            parts = [eigh(matrix) for matrix in a]
            return torch.stack([v for v, _, _ in parts]), torch.stack([q for _, q, _ in parts]), _all_of(parts, ok)
        if a.dtype == torch.float32:
            values, vectors, ok = eigh(a.double())
            return values.float(), vectors.float(), ok
        return torch.ones_like(a[0]), identity, torch.zeros_like(ok)
    return values, vectors, ok


def _all_of(parts: list[tuple[Tensor, Tensor, Tensor]], ok: Tensor) -> Tensor:
    return torch.stack([fine for _, _, fine in parts]) & ok


def eigenbasis(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal eigenvectors of every matrix of a batch, those of the largest eigenvalues first.

    Args:
        matrices: symmetric, of shape (…, n, n).

    Returns:
        Q of shape (…, n, n), in float32 at least, with A = Q diag(λ) Q', and of shape (…) whether it worked; Q = I
        where it did not.

    Example:
        >>> q, ok = eigenbasis(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> q.abs(), bool(ok)
        (tensor([[0., 1.],
                [1., 0.]]), True)
    """
    _, vectors, ok = eigh(matrices)
    return torch.where(ok[..., None, None], vectors.flip(-1), vectors), ok


def refresh_eigenbasis(matrices: Tensor, bases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of orthogonal iteration: bases that were right a while ago follow matrices that have changed since.

    The columns of Q are sorted by their Rayleigh quotients diag(Q'AQ), the largest first, and then QR = AQ gives the
    new Q, with the signs that make diag(R) positive. It costs two products and a QR decomposition, much less than the
    eigenvectors, which it converges to when it is repeated.

    Args:
        matrices: A, symmetric and positive semidefinite, of shape (…, n, n); only the lower triangles are read.
        bases: Q, orthogonal, of the same shape.

    Returns:
        The new Q; of shape (…, n) the old columns in their new order, so that what is kept for each column can be put
        into it; and of shape (…) whether it worked. Where it did not, Q is the old one in the old order.

    Reference: Vyas et al., SOAP, 2024, arXiv:2409.11321, algorithm 4.

    Example:
        >>> a = torch.tensor([[1.0, 0.1], [0.1, 2.0]])
        >>> q = torch.eye(2)
        >>> for _ in range(20):
        ...     q, order, ok = refresh_eigenbasis(a, q)
        >>> (q.T @ a @ q).round(decimals=3) + 0.0
        tensor([[2.0100, 0.0000],
                [0.0000, 0.9900]])
    """
    q = at_least_float32(bases)
    a = symmetric(at_least_float32(matrices).to(q.dtype))
    product = a @ q
    order = (q * product).sum(-2).argsort(-1, descending=True)
    new = orthonormal_columns(product.gather(-1, order.unsqueeze(-2).expand_as(product)))
    ok = all_finite(product) & all_finite(new)
    old = torch.arange(q.shape[-1], device=q.device).expand_as(order)
    return torch.where(ok[..., None, None], new, q), torch.where(ok[..., None], order, old), ok
