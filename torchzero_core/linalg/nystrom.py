"""Low-rank approximation of a symmetric positive semidefinite operator from a sketch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def nystrom(operator: Callable[[Tensor], Tensor], test: Tensor) -> tuple[Tensor, Tensor, float] | None:
    r"""The Nyström approximation A + μ·I ≈ U diag(λ) U' of rank r, from r products with A.

    .. math:: A_r = (AΩ)(Ω'AΩ)^{-1}(AΩ)'

    μ is zero, unless A turns out not to be positive semidefinite: then it is twice the most negative eigenvalue that
    the sketch shows, which so becomes positive and keeps its size. A small multiple of I keeps the Cholesky factor of
    Ω'AΩ stable meanwhile.

    Args:
        operator: x ↦ Ax.
        test: Ω, random of shape (n, r) with r ≤ n, overwritten.

    Returns:
        U of shape (n, r) with orthonormal columns, λ ≥ 0 from the largest to the smallest, and μ; None where a product
        was not finite.

    Reference: Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Analysis and
    Applications 44, 2023, arXiv:2110.02820, algorithm 2.1.

    Example:
        >>> a = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
        >>> basis, values, shift = nystrom(a.mv, torch.randn(3, 2))
        >>> values.round(decimals=3), shift
        (tensor([4., 1.]), 0.0)
    """
    q = torch.linalg.qr(test).Q
    y = torch.stack([operator(column) for column in q.unbind(1)], 1)
    if not bool(y.isfinite().all()):
        return None
    core = q.mT @ y
    core = (core + core.mT) / 2
    rounding = torch.finfo(y.dtype).eps * math.sqrt(y.shape[0]) * float(y.norm())
    negative = max(0.0, -2 * float(torch.linalg.eigvalsh(core)[0]))
    negative = negative if negative > rounding else 0.0
    shift = negative + rounding
    eye = torch.eye(len(core), dtype=y.dtype, device=y.device)
    while True:
        factor, info = torch.linalg.cholesky_ex(core + shift * eye, upper=True)
        if int(info) == 0:
            break
        shift = 2 * shift if shift > 0 else torch.finfo(y.dtype).tiny  # an operator that is zero
    b = torch.linalg.solve_triangular(factor, y + shift * q, upper=True, left=False)
    u, s, _ = torch.linalg.svd(b, full_matrices=False)
    return u, (s * s - (shift - negative)).clamp_(min=0), negative
