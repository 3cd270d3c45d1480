"""Orthonormal columns by Householder reflections."""

from __future__ import annotations

import torch
from torch import Tensor

#: Reflections that are applied together.
PANEL = 96
#: On a CPU, matrices from this size on are faster by products of panels than by LAPACK.
LARGE = 512


def orthonormal_columns(matrices: Tensor) -> Tensor:
    """Q of A = QR, with the signs that make diag(R) positive, for every matrix of a batch.

    By Householder reflections, so that Q is orthogonal to rounding whatever A is, singular or zero too. Large matrices
    on a CPU go by panels of columns: the reflections of a panel are one matrix I − VTV', and all that is done to the
    other columns is matrix products. That takes two thirds of the time of LAPACK's QR for n = 2048.

    Args:
        matrices: A, square, of shape (…, n, n).

    Returns:
        Q, of the same shape. Where A is not finite it means nothing.

    Reference: R. Schreiber and C. Van Loan, "A storage-efficient WY representation for products of Householder
    transformations", 1989; C. Puglisi, "Modification of the Householder method based on the compact WY
    representation", 1992.

    Example:
        >>> orthonormal_columns(torch.tensor([[0.0, 1.0], [-2.0, 5.0]])) + 0.0
        tensor([[ 0.,  1.],
                [-1.,  0.]])
    """
    if matrices.device.type != "cpu" or matrices.shape[-1] < LARGE:
        reflections, factors = torch.geqrf(matrices)
        return torch.linalg.householder_product(reflections, factors) * _signs(reflections).unsqueeze(-2)
    out = matrices.mT.clone(memory_format=torch.contiguous_format)  # columns stand together, as LAPACK wants them
    for matrix in out.view(-1, *out.shape[-2:]):
        _by_panels(matrix)
    return out


def _by_panels(matrix: Tensor) -> None:
    """The same for one matrix: it is A' before and Q afterwards."""
    rest, panels = matrix.mT, []
    for start in range(0, len(rest), PANEL):
        end = min(start + PANEL, len(rest))
        v, tau = torch.geqrf(rest[start:, start:end])
        signs = _signs(v)
        v.tril_(-1).diagonal().fill_(1)
        # T⁻¹ = diag(1/τ) + the part of V'V above the diagonal, where a reflection with τ = 0 is none
        t = torch.linalg.solve_triangular(tau[:, None] * (v.mT @ v), tau.diag(), upper=True, unitriangular=True)
        others = rest[start:, end:]
        others.addmm_(v, t.mT @ (v.mT @ others), alpha=-1)
        panels.append((start, v, t, signs))
    torch.eye(len(matrix), out=matrix)
    for start, v, t, _ in reversed(panels):
        corner = matrix[start:, start:]
        corner.addmm_(v, t @ (v.mT @ corner), alpha=-1)
    matrix.mul_(torch.cat([signs for *_, signs in panels]))


def _signs(r: Tensor) -> Tensor:
    """−1 where the diagonal is negative, else 1."""
    return torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r.dtype)
