"""Merging, splitting, unfolding and products along a dimension, against tensordot."""

import math

import pytest
import torch

from torchzero_core.linalg import add_gram_, gram, merge_dims, multiply_along, split_blocks, symmetric, unfold

SHAPES = [(4,), (3, 5), (2, 3, 4), (2, 3, 2, 2), (1, 3, 1)]


def batch(*shape, n=3):
    return torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("shape", "max_dim", "merged"),
    [
        ((), 10, (1,)),
        ((1, 1), 10, (1,)),
        ((3, 4), 12, (12,)),
        ((3, 4), 11, (3, 4)),
        ((64, 3, 7, 7), 100, (64, 21, 7)),
        ((64, 3, 7, 7), 200, (192, 49)),
        ((5000, 1, 2), 100, (5000, 2)),
        ((2, 0), 10, (0,)),
    ],
)
def test_merge_dims(shape, max_dim, merged):
    assert merge_dims(shape, max_dim) == merged
    tensor = torch.arange(float(math.prod(shape))).view(shape)
    view = tensor.reshape(merged)
    assert view.data_ptr() == tensor.data_ptr() and torch.equal(view.flatten(), tensor.flatten())


@pytest.mark.parametrize("shape", [(), (7,), (5, 4), (2, 3, 7)])
def test_blocks_are_views_that_cover_the_tensor(shape):
    tensor = torch.zeros(shape)
    blocks = split_blocks(tensor, 3)
    assert all(size <= 3 for b in blocks for size in b.shape)
    assert len(blocks) == math.prod(math.ceil(size / 3) for size in shape)
    for block in blocks:
        block.add_(1)
    assert torch.equal(tensor, torch.ones(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_unfoldings_and_gram_matrices(shape):
    x = batch(*shape)
    for dim in range(len(shape)):
        for one, matrix, product in zip(x, unfold(x, dim), gram(x, dim), strict=True):
            assert torch.equal(matrix, torch.stack([piece.flatten() for piece in one.unbind(dim)]))
            others = [i for i in range(len(shape)) if i != dim]
            assert torch.allclose(product, torch.tensordot(one, one, dims=(others, others)), atol=1e-13)


@pytest.mark.parametrize("n", [0, 1, 5, 128, 129, 300])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_lower_triangle_of_a_product_with_its_transpose(n, transposed):
    rows, start = batch(n, 4, n=1)[0], symmetric(batch(n, n, n=1)[0])
    given = rows.mT.contiguous().mT if transposed else rows
    expected = 0.5 * start + 2 * rows @ rows.mT
    matrix = start.clone()
    assert add_gram_(matrix, given, beta=0.5, alpha=2) is matrix
    assert torch.allclose(matrix.tril(), expected.tril(), rtol=0, atol=1e-13)
    assert torch.equal(matrix[:128, 128:], start[:128, 128:])  # what is above is left alone
    broken = start.masked_fill(torch.ones(n, n).triu(1).bool(), torch.nan)
    assert torch.allclose(symmetric(add_gram_(broken, given, beta=0.5, alpha=2)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [0, 1, 5, 128, 129, 300])
def test_symmetric_matrices_have_the_lower_triangles(n):
    x = batch(2, n, n)
    before = x.clone()
    found = symmetric(x)
    assert torch.equal(x, before) and torch.equal(found, x.tril() + x.tril(-1).mT)
    assert torch.equal(symmetric(x.mT), x.triu() + x.triu(1).mT)


def test_unfoldings_of_matrices_are_views():
    x = batch(3, 5)
    assert unfold(x, 0).data_ptr() == unfold(x, 1).data_ptr() == x.data_ptr()
    assert unfold(batch(2, 3, 4), 0).is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
def test_products_along_a_dimension(shape, shared):
    x = batch(*shape)
    for dim, size in enumerate(shape):
        matrices = batch(6, size)
        given = matrices[0] if shared else matrices
        out = multiply_along(x, given, dim)
        for i, one in enumerate(x):
            matrix = given if shared else given[i]
            expected = torch.tensordot(matrix, one, dims=([1], [dim])).movedim(0, dim)
            assert torch.allclose(out[i], expected, atol=1e-13)


def test_kronecker_product_is_the_product_along_both():
    x, a, b = batch(3, 4, n=1), batch(3, 3, n=1), batch(4, 4, n=1)
    out = multiply_along(multiply_along(x, a, 0), b, 1)
    assert torch.allclose(out.flatten(), torch.kron(a[0], b[0]) @ x.flatten(), atol=1e-13)
