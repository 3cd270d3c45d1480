"""Orthonormal columns against torch.linalg.qr, whatever the matrix is."""

import pytest
import torch

from torchzero_core.linalg import orthonormal_columns, qr

F64 = torch.float64


def noise(*shape, seed=0, dtype=F64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_torch(a):
    q, r = torch.linalg.qr(a)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(a.dtype).unsqueeze(-2)


def hostile(n):
    """Matrices of size n by name; of the last two rounding decides what Q is."""
    scales = torch.logspace(0, -12, n, dtype=F64)
    return {
        "columns of many sizes": noise(n, n) * scales,
        "rows of many sizes": noise(n, n) * scales[:, None],
        "triangular": noise(n, n).triu(),
        "diagonal": -torch.eye(n, dtype=F64),
        "zero": torch.zeros(n, n, dtype=F64),
        "of condition 1e12": by_torch(noise(n, n, seed=1)) * scales @ by_torch(noise(n, n, seed=2)),
        "of low rank": noise(n, 2) @ noise(2, n),
    }


@pytest.fixture(params=[1, 3, 4, 100], ids=lambda size: f"panels of {size}")
def panels(request, monkeypatch):
    """Small matrices go by panels too."""
    monkeypatch.setattr(qr, "LARGE", 1)
    monkeypatch.setattr(qr, "PANEL", request.param)


@pytest.mark.parametrize("n", [1, 2, 7, 12])
@pytest.mark.usefixtures("panels")
def test_panels_give_the_q_of_torch(n):
    a = noise(2, 3, n, n)
    before = a.clone()
    q = orthonormal_columns(a)
    assert torch.equal(a, before) and q.is_contiguous()
    assert torch.allclose(q, by_torch(a), rtol=0, atol=1e-13)
    assert torch.equal(orthonormal_columns(a.mT.contiguous().mT), q)  # whatever their order in memory is


@pytest.mark.parametrize("name", hostile(2))
@pytest.mark.parametrize("large", [False, True], ids=["LAPACK", "by panels"])
def test_hostile_matrices(name, large, monkeypatch):
    monkeypatch.setattr(qr, "LARGE", 1 if large else 100)
    monkeypatch.setattr(qr, "PANEL", 4)
    a = hostile(14)[name]
    q = orthonormal_columns(a)
    assert torch.allclose(q.mT @ q, torch.eye(14, dtype=F64), rtol=0, atol=1e-14)
    r = q.mT @ a
    assert r.tril(-1).abs().max() <= 1e-14 * a.abs().max() * 14
    if name not in ("of condition 1e12", "of low rank"):
        assert (r.diagonal() >= 0).all() and torch.allclose(q, by_torch(a), rtol=0, atol=1e-9)


def test_a_large_matrix_in_single_precision():
    n = qr.LARGE + 5  # the last panel is not full
    a = noise(n, n, dtype=torch.float32)
    q = orthonormal_columns(a)
    assert q.dtype == torch.float32
    assert (q.mT @ q - torch.eye(n)).abs().max() < 5e-6
    assert (q.double() - by_torch(a.double())).abs().max() < 1e-4


@pytest.mark.usefixtures("panels")
def test_what_is_not_finite_harms_no_other_matrix():
    a = noise(3, 6, 6)
    a[0, 2, 3], a[1, 5, 0] = torch.nan, torch.inf
    q = orthonormal_columns(a)
    assert not q[0].isfinite().all() and not q[1].isfinite().all()
    assert torch.allclose(q[2], by_torch(a[2]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 0), (0, 0)])
@pytest.mark.parametrize("large", [False, True], ids=["LAPACK", "by panels"])
def test_no_matrix_and_no_column(shape, large, monkeypatch):
    monkeypatch.setattr(qr, "LARGE", 1 if large else 100)
    assert orthonormal_columns(torch.zeros(shape)).shape == shape
