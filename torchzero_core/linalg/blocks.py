"""Tensors as matrices, one dimension at a time: merging, splitting, unfolding, products along a dimension.

The functions that compute take a batch of tensors of one shape, stacked along a first dimension that is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Blocks of this size are multiplied at full speed.
BLOCK = 128


def merge_dims(shape: Sequence[int], max_dim: int) -> tuple[int, ...]:
    """The shape with neighbouring dimensions merged as long as their product is at most ``max_dim``.

    The elements keep their order, so ``tensor.reshape(merge_dims(tensor.shape, n))`` is a view of a contiguous tensor.
    Dimensions of size 1 vanish.

    Args:
        shape: the shape.
        max_dim: the largest size that merging may make.

    Reference: Anil et al., Scalable second order optimization for deep learning, 2020, arXiv:2002.09018.

    Example:
        >>> merge_dims((1, 2, 512, 1, 2048, 1, 3, 4), 1024)
        (1024, 2048, 12)
        >>> merge_dims((64, 3, 3, 3), 27), merge_dims((), 8)
        ((64, 27), (1,))
    """
    out: list[int] = []
    for size in shape:
        if size == 1:
            continue
        if out and out[-1] * size <= max_dim:
            out[-1] *= size
        else:
            out.append(size)
    return tuple(out) or (1,)


def split_blocks(tensor: Tensor, max_dim: int) -> list[Tensor]:
    """Cut a tensor into blocks that are at most ``max_dim`` long in every dimension; they are views.

    Args:
        tensor: any tensor.
        max_dim: the largest size of a block.

    Example:
        >>> [tuple(b.shape) for b in split_blocks(torch.zeros(5, 2), 3)]
        [(3, 2), (2, 2)]
    """
    blocks = [tensor]
    for dim in range(tensor.dim()):
        blocks = [piece for block in blocks for piece in block.split(max_dim, dim)]
    return blocks


def unfold(x: Tensor, dim: int) -> Tensor:
    """The unfoldings mat_dim(x): the given dimension in the rows, all others, in order, in the columns.

    Args:
        x: tensors of one shape, (batch, d_0, …, d_k).
        dim: a dimension of that shape; 0 is the first after the batch.

    Returns:
        Matrices of shape (batch, d_dim, numel/d_dim); a view of a contiguous batch for the first dimension, and for
        the last one of matrices.

    Reference: Kolda and Bader, Tensor decompositions and applications, 2009.

    Example:
        >>> unfold(torch.arange(6.0).view(1, 2, 3), 1)
        tensor([[[0., 3.],
                 [1., 4.],
                 [2., 5.]]])
    """
    size = x.shape[dim + 1]
    return x.movedim(dim + 1, 1).reshape(x.shape[0], size, _others(x, dim))


def gram(x: Tensor, dim: int) -> Tensor:
    """mat_dim(x) mat_dim(x)' for every tensor of a batch.

    Args:
        x: tensors of one shape, (batch, d_0, …, d_k).
        dim: a dimension of that shape.

    Returns:
        Matrices of shape (batch, d_dim, d_dim).

    Example:
        >>> gram(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), 0)
        tensor([[[5., 2.],
                 [2., 1.]]])
    """
    matrices = unfold(x, dim)
    return matrices @ matrices.mT


def add_gram_(matrix: Tensor, rows: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """A ← beta·A + alpha·XX', in place, of which only the lower triangle is right: :func:`symmetric` gives the rest.

    On a CPU one block of rows after the other, each as far as the diagonal, which saves up to half of the product; of
    what is above the diagonal only the blocks on it are written.

    Args:
        matrix: A, symmetric, of shape (n, n); only its lower triangle counts.
        rows: X, of shape (n, k).
        beta: factor of A.
        alpha: factor of the product.

    Example:
        >>> add_gram_(torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), beta=0.5)
        tensor([[5.5000, 2.0000],
                [2.0000, 1.5000]])
    """
    n = len(matrix)
    size = BLOCK if matrix.device.type == "cpu" else n
    for start in range(0, n, max(size, 1)):
        end = min(start + size, n)
        matrix[start:end, :end].addmm_(rows[start:end], rows[:end].mT, beta=beta, alpha=alpha)
    return matrix


def symmetric(matrices: Tensor) -> Tensor:
    """The symmetric matrices that have these lower triangles; what is above the diagonal is not read.

    Args:
        matrices: of shape (…, n, n).

    Example:
        >>> symmetric(torch.tensor([[1.0, 9.0], [2.0, 3.0]]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    out = matrices.clone(memory_format=torch.contiguous_format)
    for start in range(0, out.shape[-1], BLOCK):
        rows = out[..., start : start + BLOCK, :]
        block = rows[..., start : start + BLOCK]
        block.copy_(block.tril() + block.tril(-1).mT)
        out[..., :start, start : start + BLOCK].copy_(rows[..., :start].mT)
    return out


def multiply_along(x: Tensor, matrices: Tensor, dim: int) -> Tensor:
    """x ×_dim M for every tensor of a batch: its unfolding becomes M·mat_dim(x), every other dimension stays.

    Args:
        x: tensors of one shape, (batch, d_0, …, d_k).
        matrices: M, of shape (batch, m, d_dim), or (m, d_dim) for all.
        dim: a dimension of that shape.

    Returns:
        Tensors with m instead of d_dim.

    Reference: Kolda and Bader, Tensor decompositions and applications, 2009.

    Example:
        >>> x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
        >>> multiply_along(x, torch.tensor([[0.0, 1.0]]), 0)
        tensor([[[3., 4.]]])
    """
    before, after = math.prod(x.shape[1 : dim + 1]), math.prod(x.shape[dim + 2 :])
    size, shape = x.shape[dim + 1], list(x.shape)
    shape[dim + 1] = matrices.shape[-2]
    if after == 1:  # rows: one product instead of as many as there are rows
        return (x.reshape(x.shape[0], before, size) @ matrices.mT).reshape(shape)
    stacked = matrices.unsqueeze(-3) if matrices.dim() == 3 else matrices
    return (stacked @ x.reshape(x.shape[0], before, size, after)).reshape(shape)


def _others(x: Tensor, dim: int) -> int:
    return math.prod(size for i, size in enumerate(x.shape[1:]) if i != dim)
