"""Inverse roots and eigenbases against closed forms; failures are reported."""

import pytest
import torch

from torchzero_core.linalg import all_finite, eigenbasis, eigh, inverse_root, orthonormal_columns, refresh_eigenbasis

F64 = torch.float64


def spd(values, seed=0, batch=()):
    """Matrices with the given eigenvalues, and their eigenvectors."""
    n = len(values)
    q, _ = torch.linalg.qr(torch.randn(*batch, n, n, dtype=F64, generator=torch.Generator().manual_seed(seed)))
    return (q * torch.tensor(values, dtype=F64)) @ q.mT, q


@pytest.mark.parametrize("p", [1, 2, 4, 6, 2.5])
def test_powers_of_the_root_give_the_inverse(p):
    values = [0.5, 1.0, 2.0, 7.0]
    a, q = spd(values, batch=(3, 2))
    root, ok = inverse_root(a, p)
    assert ok.shape == (3, 2) and ok.all()
    expected = (q * torch.tensor(values, dtype=F64).pow(-1 / p)) @ q.mT
    assert root.dtype == F64 and torch.allclose(root, expected, rtol=0, atol=1e-13)


def test_two_by_two_by_hand():
    # eigenvalues 1 and 9 on the diagonals: A^(-1/2) = (1/3)[[2, -1], [-1, 2]]
    root, _ = inverse_root(torch.tensor([[5.0, 4.0], [4.0, 5.0]], dtype=F64))
    assert torch.allclose(root, torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=F64) / 3, rtol=0, atol=1e-14)


def test_the_floor():
    a, q = spd([1e-12, 1.0, 4.0])
    root, ok = inverse_root(a, 2, eps=0.25)
    assert ok and torch.allclose(root, (q * torch.tensor([2.0, 1.0, 0.5], dtype=F64)) @ q.mT, atol=1e-13)
    singular, _ = spd([0.0, 0.0, 1.0])
    root, ok = inverse_root(singular.float(), 2)  # what is below rounding is at it
    assert ok and torch.linalg.eigvalsh(root)[-1].item() == pytest.approx((3 * 2**-23) ** -0.5, rel=1e-3)


def test_no_root_of_zero():
    root, ok = inverse_root(torch.stack([torch.zeros(2, 2), torch.eye(2)]))
    assert ok.tolist() == [False, True] and torch.equal(root[1], torch.eye(2))
    root, ok = inverse_root(torch.zeros(2, 2), eps=1e-4)
    assert ok and torch.allclose(root, 100 * torch.eye(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    a = spd([0.5, 1.0, 2.0])[0].to(dtype)
    root, ok = inverse_root(a)
    assert ok and root.dtype == torch.float32
    assert torch.equal(root, inverse_root(a.float())[0])
    assert eigenbasis(a)[0].dtype == torch.float32


def test_a_batch_is_its_matrices_one_by_one():
    a = torch.stack([spd([1.0, 2.0, 3.0], seed)[0] for seed in range(4)])
    together, _ = inverse_root(a, 4)
    assert torch.allclose(together, torch.stack([inverse_root(m, 4)[0] for m in a]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("function", [inverse_root, eigenbasis])
def test_what_is_not_finite_is_reported_and_harms_no_other(function):
    good, bad = spd([1.0, 2.0])[0], torch.full((2, 2), torch.inf, dtype=F64)
    out, ok = function(torch.stack([good, bad, bad * torch.nan]))
    assert ok.tolist() == [True, False, False]
    assert torch.allclose(out[0], function(good)[0])


def test_what_does_not_converge_is_reported(monkeypatch):
    matrices = torch.stack([m.float() for m in (spd([1.0, 2.0])[0], spd([3.0, 4.0])[0])])
    true, calls = torch.linalg.eigh, []

    def stubborn(a):
        calls.append((tuple(a.shape), a.dtype))
        if a.dim() > 2 or torch.allclose(a.float(), matrices[1]):
            raise torch.linalg.LinAlgError("failed to converge")
        return true(a)

    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    values, vectors, ok = eigh(matrices)
    assert ok.tolist() == [True, False]
    assert torch.allclose(values[0], torch.tensor([1.0, 2.0])) and values[1].tolist() == [1.0, 1.0]
    assert torch.equal(vectors[1], torch.eye(2)) and values.dtype == vectors.dtype == torch.float32
    assert calls == [((2, 2, 2), torch.float32), *[((2, 2), torch.float32)] * 2, ((2, 2), F64)]


def test_no_matrix_and_no_row():
    for shape in ((0, 3, 3), (2, 0, 0)):
        root, ok = inverse_root(torch.zeros(shape))
        assert root.shape == shape and ok.shape == shape[:1] and ok.all()


def test_eigenbasis_is_sorted():
    a, q = spd([5.0, 1.0, 3.0], batch=(2,))
    basis, ok = eigenbasis(a)
    assert ok.all()
    assert torch.allclose(basis.mT @ a @ basis, torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=F64)), atol=1e-13)
    assert torch.allclose((basis.mT @ q[..., [0, 2, 1]]).abs(), torch.eye(3, dtype=F64), atol=1e-13)


def test_refreshed_bases_converge_to_the_eigenbasis():
    a, _ = spd([8.0, 4.0, 2.0, 1.0], batch=(3,))
    basis = torch.eye(4, dtype=F64).expand(3, 4, 4)
    for _ in range(60):
        basis, order, ok = refresh_eigenbasis(a, basis)
        assert ok.all()
        assert torch.allclose(basis.mT @ basis, torch.eye(4, dtype=F64), atol=1e-13)
    assert (order == torch.arange(4)).all()
    assert torch.allclose((basis.mT @ eigenbasis(a)[0]).abs(), torch.eye(4, dtype=F64), atol=1e-12)


def test_one_refresh_by_hand():
    # Q = I; Rayleigh quotients 1, 4 → columns swapped; QR of [[0, 1], [4, 0]] with a positive diagonal of R
    basis, order, ok = refresh_eigenbasis(torch.diag(torch.tensor([1.0, 4.0])), torch.eye(2))
    assert ok and order.tolist() == [1, 0]
    assert torch.equal(basis, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_a_refresh_that_fails_keeps_the_basis():
    old = torch.stack([spd([1.0, 2.0, 3.0])[1]] * 2)
    a = torch.stack([spd([3.0, 2.0, 1.0], 1)[0], torch.full((3, 3), torch.nan, dtype=F64)])
    basis, order, ok = refresh_eigenbasis(a, old)
    assert ok.tolist() == [True, False]
    assert torch.equal(basis[1], old[1]) and order[1].tolist() == [0, 1, 2]
    assert basis[0].isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_is_enough(bad):
    a = spd([3.0, 2.0, 1.0], batch=(3,))[0]
    a[1, 2, 0] = bad
    assert all_finite(a).tolist() == [True, False, True]
    assert refresh_eigenbasis(a, spd([1.0, 2.0, 3.0], 1, (3,))[1])[2].tolist() == [True, False, True]
    assert inverse_root(a)[1].tolist() == [True, False, True]
    assert eigenbasis(a)[1].tolist() == [True, False, True]


def test_finite_values_whose_sum_is_not():
    huge = torch.full((2, 3, 3), 3e38)
    assert all_finite(huge).tolist() == [True, True]
    huge[0, 1, 1] = torch.nan
    assert all_finite(huge).tolist() == [False, True]
    assert all_finite(torch.zeros(2, 0, 0)).tolist() == [True, True] and all_finite(torch.zeros(0, 2, 2)).shape == (0,)


@pytest.mark.parametrize("n", [3, 150, 520])  # by one block, by several, and by panels of columns too
def test_only_the_lower_triangles_are_read(n):
    a, q = spd(torch.linspace(1, 2, n, dtype=F64).tolist())
    lower = a.masked_fill(torch.ones(n, n).triu(1).bool(), torch.nan)
    old = orthonormal_columns(q + 0.01 * spd([1.0] * n, 1)[1])
    basis, order, ok = refresh_eigenbasis(lower, old)
    product = a @ old
    quotients = (old * product).sum(0)
    assert ok and (quotients[order].diff() <= 0).all()
    r = basis.mT @ product[:, order]
    assert torch.allclose(basis.mT @ basis, torch.eye(n, dtype=F64), rtol=0, atol=1e-13)
    assert r.tril(-1).abs().max() < 1e-13 and (r.diagonal() > 0).all()
    for of_lower, whole in zip(inverse_root(lower, 4), inverse_root(a, 4), strict=True):
        assert torch.equal(of_lower, whole)
