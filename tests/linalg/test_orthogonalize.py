"""Polar factors against the SVD."""

import pytest
import torch

from torchzero_core.linalg import newton_schulz, newton_schulz_dtype, polar


def matrices(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 7), (2, 3, 7, 5), (1, 1), (1, 8)])
def test_polar_is_the_factor_of_the_svd(shape):
    x = matrices(*shape)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    assert torch.allclose(polar(x), u @ vh, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 7)])
def test_newton_schulz_keeps_singular_vectors_and_brings_values_near_one(shape):
    x = matrices(*shape)
    out = newton_schulz(x, dtype=torch.float64)
    assert out.shape == x.shape and out.dtype == x.dtype
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    rotated = u.mT @ out @ vh.mT
    values = rotated.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(rotated, torch.diag_embed(values), atol=1e-10)
    seen = s / s.norm(dim=-1, keepdim=True) > 0.01
    assert values[seen].min() > 0.65 and values.max() < 1.25


def test_the_classic_coefficients_converge_to_the_polar_factor():
    x = matrices(5, 8)
    out = newton_schulz(x, 40, coefficients=(15 / 8, -10 / 8, 3 / 8), dtype=torch.float64)
    assert torch.allclose(out, polar(x), atol=1e-10)


def test_a_batch_is_its_matrices_one_by_one():
    x = matrices(4, 6, 3)
    for fn in (polar, lambda t: newton_schulz(t, dtype=torch.float64)):
        assert torch.allclose(fn(x), torch.stack([fn(m) for m in x]), atol=1e-13)


def test_the_iteration_as_torch_writes_it():
    from torch.optim import _muon

    x = matrices(7, 12).float()
    theirs = _muon._zeropower_via_newtonschulz(x, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    assert (newton_schulz(x, dtype=torch.bfloat16) - theirs).abs().max() < 0.02


def test_zero_and_rank_deficient_matrices():
    assert torch.equal(newton_schulz(torch.zeros(3, 4)), torch.zeros(3, 4))
    assert torch.equal(polar(torch.zeros(3, 4)), torch.zeros(3, 4))
    x = matrices(4, 1) @ matrices(1, 5, seed=1)
    assert torch.allclose(polar(x), x / torch.linalg.matrix_norm(x, 2), atol=1e-12)


def test_empty_strided_and_half_precision():
    assert newton_schulz(torch.zeros(0, 4)).shape == (0, 4)
    assert polar(torch.zeros(2, 0, 4)).shape == (2, 0, 4)
    x = matrices(6, 4)
    out = newton_schulz(x, dtype=torch.float64)
    assert torch.allclose(newton_schulz(x.t(), dtype=torch.float64), out.t(), atol=1e-13)
    assert polar(x.bfloat16()).dtype == torch.bfloat16
    before = x.clone()
    newton_schulz(x, dtype=torch.float64)
    polar(x)
    assert torch.equal(x, before)


def test_errors():
    for fn in (polar, newton_schulz):
        with pytest.raises(ValueError, match="works on matrices"):
            fn(torch.zeros(3))
    with pytest.raises(torch.linalg.LinAlgError, match="not finite"):
        polar(torch.full((2, 2), torch.nan))


def test_dtype_follows_the_device(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert newton_schulz_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert newton_schulz_dtype("cpu") == torch.bfloat16
