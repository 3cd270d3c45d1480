"""Conjugate gradients against direct solves and scipy."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from torchzero_core.linalg import cg


def system(n=30, condition=1e3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    eigenvalues = torch.logspace(0, np.log10(condition), n, dtype=torch.float64)
    return (q * eigenvalues) @ q.T, torch.randn(n, dtype=torch.float64, generator=generator)


def test_solves_to_the_tolerance():
    a, b = system()
    result = cg(a.mv, b, tol=1e-10, maxiter=200)
    assert result.status == "converged"
    assert torch.allclose(result.x, torch.linalg.solve(a, b), rtol=1e-8, atol=1e-10)
    assert (b - a @ result.x).norm() <= 2e-10 * b.norm()


def test_iterates_and_count_are_those_of_scipy():
    a, b = system(condition=50)
    iterates = []
    scipy.sparse.linalg.cg(a.numpy(), b.numpy(), rtol=1e-6, atol=0, callback=lambda x: iterates.append(x.copy()))
    result = cg(a.mv, b, tol=1e-6, maxiter=200)
    assert result.iterations == len(iterates)
    for k in (1, 5, 12):
        stopped = cg(a.mv, b, tol=0, maxiter=k)
        assert stopped.status == "maxiter" and stopped.iterations == k
        assert np.allclose(stopped.x.numpy(), iterates[k - 1], rtol=1e-9, atol=1e-12)


def test_n_distinct_eigenvalues_need_n_products():
    a = torch.diag(torch.tensor([1.0, 1, 1, 5, 5, 9], dtype=torch.float64))
    result = cg(a.mv, torch.ones(6, dtype=torch.float64), tol=1e-12)
    assert result.iterations == 3


def test_the_forcing_tolerance_is_relative():
    a, b = system()
    loose, scaled = cg(a.mv, b, tol=0.1), cg(a.mv, 1e-9 * b, tol=0.1)
    assert loose.iterations == scaled.iterations < cg(a.mv, b, tol=1e-8, maxiter=100).iterations
    assert (b - a @ loose.x).norm() <= 0.1 * b.norm()
    assert loose.residual_norm == pytest.approx(float((b - a @ loose.x).norm()), rel=1e-9)


def test_regularisation_and_preconditioner():
    a, b = system()
    exact = torch.linalg.solve(a + 3 * torch.eye(30, dtype=a.dtype), b)
    assert torch.allclose(cg(a.mv, b, reg=3.0, tol=1e-11, maxiter=100).x, exact, rtol=1e-8, atol=1e-11)
    inverse = torch.linalg.inv(a)
    assert cg(a.mv, b, tol=1e-8, preconditioner=inverse.mv).iterations == 1
    d = a.diagonal()
    jacobi = cg(a.mv, b, tol=1e-10, maxiter=200, preconditioner=lambda r: r / d)
    assert torch.allclose(jacobi.x, torch.linalg.solve(a, b), rtol=1e-7, atol=1e-10)


def test_a_warm_start_saves_products_and_a_bad_one_is_dropped():
    a, b = system()
    exact = torch.linalg.solve(a, b)
    near = cg(a.mv, b, exact + 1e-9, tol=1e-4)
    assert near.iterations == 1 and near.status == "converged"
    far = cg(a.mv, b, 1e6 * torch.ones_like(b), tol=1e-8, maxiter=100)
    assert torch.allclose(far.x, exact, rtol=1e-5, atol=1e-7)
    assert far.iterations == cg(a.mv, b, tol=1e-8, maxiter=100).iterations + 1


def test_negative_curvature_is_truncated_to_a_descent_direction():
    a = torch.diag(torch.tensor([10.0, 5, 1, -1], dtype=torch.float64))
    b = torch.tensor([1.0, 1, 1, 0.5], dtype=torch.float64)
    result = cg(a.mv, b, tol=1e-10)
    assert result.status == "negative curvature" and result.x @ b > 0
    assert result.iterations > 1
    at_once = cg((-a).mv, b)
    assert at_once.status == "negative curvature" and torch.equal(at_once.x, b) and at_once.iterations == 1
    through = cg(a.mv, b, tol=1e-10, truncate=False, maxiter=20)
    assert through.status == "converged" and torch.allclose(a @ through.x, b, atol=1e-8)


def test_values_that_are_not_finite_break_down_to_something_finite():
    b = torch.ones(3)
    result = cg(lambda v: v * torch.nan, b)
    assert result.status == "breakdown" and torch.equal(result.x, b)
    result = cg(lambda v: v, torch.tensor([1.0, torch.inf]))
    assert result.status == "breakdown" and result.x.isfinite().all()


def test_zero_and_empty():
    assert cg(lambda v: v, torch.zeros(3)).iterations == 0
    assert cg(lambda v: v, torch.zeros(0)).status == "converged"


def test_inner_products_are_reduced():
    a, b = system(8, 10)
    seen = []
    cg(a.mv, b, tol=1e-3, reduce=lambda v: seen.append(v) or v)
    assert len(seen) > 4
