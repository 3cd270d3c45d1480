"""Symmetric matrices by what is known of them: their products, themselves, their inverse, or a factor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from .dense import solve_symmetric


class SymmetricOperator:
    """A symmetric matrix B that is known by its products, ``operator @ v``.

    Args:
        product: multiplies a vector.
        like: a vector, whose length, dtype and device are those of the matrix.
        inverse: multiplies a vector by B⁻¹, where that is known and B is positive definite.

    Example:
        >>> B = SymmetricOperator(lambda v: 2 * v, torch.ones(2))
        >>> B @ torch.tensor([1.0, 2.0]), B.solve(torch.ones(2), torch.ones(2))
        (tensor([2., 4.]), tensor([0.3333, 0.3333]))
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], like: Tensor, inverse: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._product, self._inverse, self._like = product, inverse, like

    def __matmul__(self, v: Tensor) -> Tensor:
        return self._product(v)

    @cached_property
    def dense(self) -> Tensor:
        """The matrix; by its products with the unit vectors where nothing better is known."""
        like = self._like
        rows = torch.eye(like.numel(), dtype=like.dtype, device=like.device)
        matrix = torch.stack([self @ row for row in rows]) if len(rows) else rows
        return (matrix + matrix.mT) / 2

    def definite_solve(self, x: Tensor) -> Tensor | None:
        """B⁻¹x where B is positive definite, else None.

        Args:
            x: a vector.
        """
        if self._inverse is not None:
            return self._inverse(x)
        factor, info = torch.linalg.cholesky_ex(self.dense)
        return None if int(info) else torch.cholesky_solve(x.unsqueeze(1), factor).squeeze(1)

    def solve(self, x: Tensor, shift: Tensor) -> Tensor:
        """The solution d of (B + diag(shift)) d = x.

        Args:
            x: a vector.
            shift: what is added to the diagonal.
        """
        return solve_symmetric(self.dense + torch.diag(shift), x)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues, ascending, and the eigenvectors in the columns of a matrix."""
        values, vectors = torch.linalg.eigh(self.dense)
        return values, vectors


class DenseOperator(SymmetricOperator):
    """A symmetric matrix.

    Args:
        matrix: B.

    Example:
        >>> DenseOperator(torch.tensor([[4.0, 0.0], [0.0, 1.0]])).definite_solve(torch.tensor([4.0, 3.0]))
        tensor([1., 3.])
    """

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(lambda v: matrix @ v, matrix[0] if len(matrix) else matrix.reshape(-1))
        self.dense = matrix


class InverseOperator(SymmetricOperator):
    """A symmetric matrix that is known by its inverse H; what is not symmetric in H is left out.

    Args:
        inverse: H.

    Example:
        >>> InverseOperator(torch.diag(torch.tensor([0.5, 0.25]))) @ torch.ones(2)
        tensor([2., 4.])
    """

    def __init__(self, inverse: Tensor) -> None:
        self._H = (inverse + inverse.mT) / 2
        super().__init__(lambda v: self.dense @ v, inverse[0] if len(inverse) else inverse.reshape(-1))

    @cached_property
    def dense(self) -> Tensor:
        """The inverse of H, or its pseudoinverse where H is singular."""
        matrix, info = torch.linalg.inv_ex(self._H)
        if int(info) or not bool(matrix.isfinite().all()):
            matrix = torch.linalg.pinv(self._H, hermitian=True)
        return (matrix + matrix.mT) / 2

    def definite_solve(self, x: Tensor) -> Tensor | None:
        """Hx where H is positive definite, else None.

        Args:
            x: a vector.
        """
        return None if int(torch.linalg.cholesky_ex(self._H).info) else self._H @ x


class GramOperator(SymmetricOperator):
    """The matrix F'F, which is made only where somebody asks for it; systems are solved by factors of F itself.

    That keeps the digits which squaring the condition of F would lose.

    Args:
        factor: F, of any number of rows.

    Example:
        >>> B = GramOperator(torch.tensor([[1.0, 2.0]]))
        >>> B @ torch.ones(2), B.dense
        (tensor([3., 6.]), tensor([[1., 2.],
                [2., 4.]]))
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__(lambda v: factor.mT @ (factor @ v), factor.new_zeros(factor.shape[1]))
        self._factor = torch.linalg.qr(factor, mode="r").R if len(factor) > factor.shape[1] else factor

    @cached_property
    def dense(self) -> Tensor:
        """F'F."""
        return self._factor.mT @ self._factor

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues, ascending, and the eigenvectors in the columns of a matrix."""
        _, roots, vectors = torch.linalg.svd(self._factor, full_matrices=True)
        values = roots.new_zeros(len(vectors))
        values[: len(roots)] = roots.square()
        return values.flip(0), vectors.flip(0).mT

    def solve(self, x: Tensor, shift: Tensor) -> Tensor:
        """The solution d of (F'F + diag(shift)) d = x.

        Args:
            x: a vector.
            shift: what is added to the diagonal; positive.
        """
        if bool((shift <= 0).any()):
            return super().solve(x, shift)
        R = torch.linalg.qr(torch.cat([self._factor, torch.diag(shift.sqrt())]), mode="r").R
        half = torch.linalg.solve_triangular(R.mT, x.unsqueeze(1), upper=False)
        return torch.linalg.solve_triangular(R, half, upper=True).squeeze(1)
