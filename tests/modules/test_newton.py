"""Newton's methods with the whole Hessian, a sketch of it, or higher derivatives, against dense linear algebra."""

import math

import pytest
import torch

import torchzero_core as tz
from torchzero_core.linalg import hessian, jacobian, nystrom, solve_symmetric

FUNCTIONAL = torch.autograd.functional
METHODS = ["autograd", "func", "autograd.functional"]


def quadratic(n=6, *, least=0.5, seed=0):
    """A symmetric matrix with eigenvalues from ``least`` to 5, and a vector."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    a = (q * torch.linspace(least, 5, n, dtype=torch.float64)) @ q.T
    return (a + a.T) / 2, torch.randn(n, generator=g, dtype=torch.float64)


def problem(a, b, start=None):
    """Two parameters that are one vector x, and the closure of x'Ax/2 + b'x."""
    n = len(b)
    x = torch.linspace(-1, 2, n, dtype=torch.float64) if start is None else start
    params = [x[: n // 2].clone().requires_grad_(), x[n // 2 :].clone().reshape(-1, 1).requires_grad_()]

    def closure(backward=True):
        v = torch.cat([p.reshape(-1) for p in params])
        loss = v @ a @ v / 2 + b @ v
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    return params, closure, x


def vector(params):
    return torch.cat([p.detach().reshape(-1) for p in params])


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_one_step_on_a_quadratic(method, vectorize):
    a, b = quadratic()
    params, closure, _ = problem(a, b)
    tz.Modular(params, tz.m.Newton(reg=0, hessian_method=method, vectorize=vectorize)).step(closure)
    torch.testing.assert_close(vector(params), torch.linalg.solve(a, -b), rtol=1e-12, atol=1e-12)


def one_step(a, b, **settings):
    params, closure, x = problem(a, b)
    tz.Modular(params, tz.m.Newton(**settings)).step(closure)
    return x - vector(params), a @ x + b


@pytest.mark.parametrize("least", [-2.0, 0.5])
def test_regularisation(least):
    a, b = quadratic(least=least)
    eye, values = torch.eye(6, dtype=torch.float64), torch.linalg.eigvalsh(a)
    step, g = one_step(a, b, reg=0.3)
    torch.testing.assert_close(step, torch.linalg.solve(a + 0.3 * eye, g), rtol=1e-10, atol=1e-10)
    step, g = one_step(a, b, reg=0.3, eig_reg=True)
    shift = 0.3 + max(0.0, -float(values[0]))
    torch.testing.assert_close(step, torch.linalg.solve(a + shift * eye, g), rtol=1e-10, atol=1e-10)
    step, g = one_step(a, b, reg=0, eigval_tfm=torch.abs)  # saddle-free
    torch.testing.assert_close(step, torch.linalg.solve(_absolute(a), g), rtol=1e-10, atol=1e-10)
    step, g = one_step(a, b, reg=0, H_tfm=lambda matrix, u: (torch.linalg.inv(matrix), True))
    torch.testing.assert_close(step, torch.linalg.solve(a, g), rtol=1e-10, atol=1e-10)
    step, g = one_step(a, b, reg=0, H_tfm=lambda matrix, u: (matrix + torch.outer(u, u), False))
    torch.testing.assert_close(step, torch.linalg.solve(a + torch.outer(g, g), g), rtol=1e-10, atol=1e-10)


def _absolute(a):
    u, s, _ = torch.linalg.svd(a)  # of a symmetric matrix: U S U' is its absolute value
    return (u * s) @ u.T


def test_search_along_negative_curvature():
    a, b = quadratic(least=-2.0)
    step, g = one_step(a, b, reg=0, search_negative=True)
    torch.testing.assert_close(a @ step, -2.0 * step, rtol=1e-9, atol=1e-9)
    assert float(step.norm()) == pytest.approx(1) and float(step @ g) > 0
    a, b = quadratic(least=0.5)
    step, g = one_step(a, b, reg=0, search_negative=True)
    torch.testing.assert_close(step, torch.linalg.solve(a, g), rtol=1e-10, atol=1e-10)


def test_a_singular_hessian_is_solved_by_least_squares():
    a, b = quadratic(least=0.0)
    null = torch.linalg.eigh(a).eigenvectors[:, 0]
    b = b - null * (null @ b)
    step, g = one_step(a, b, reg=0)
    assert step.isfinite().all()
    torch.testing.assert_close(a @ step, g, rtol=1e-8, atol=1e-8)


def test_a_parameter_that_the_loss_does_not_know_stays():
    p, q = torch.ones(2, dtype=torch.float64, requires_grad=True), torch.ones(3, requires_grad=True)
    q.grad = torch.zeros(3)
    optimizer = tz.Modular([p, q], tz.m.Newton(reg=0))
    optimizer.step(lambda backward=True: (p**2).sum() + 0 * p[0])
    assert p.abs().max() < 1e-12 and torch.equal(q.detach(), torch.ones(3))


def test_dense_derivatives_agree_with_torch():
    def f(x):
        return (x[0] * x[1] ** 2 * x[2]).sin() + x.exp().sum() + x.prod()

    x = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64, requires_grad=True)
    for options in ({}, {"vectorize": False}, {"vmap": True}):
        (g,) = torch.autograd.grad(f(x), x, create_graph=True)
        expected = FUNCTIONAL.hessian(f, x)
        torch.testing.assert_close(hessian([g], [x], **options), expected, rtol=1e-12, atol=1e-12)
        second = jacobian(g, [x], create_graph=True, **options)
        third = jacobian(second.reshape(-1), [x], **options).reshape(3, 3, 3)
        expected = FUNCTIONAL.jacobian(lambda x: FUNCTIONAL.hessian(f, x, create_graph=True), x.detach())
        torch.testing.assert_close(third, expected, rtol=1e-12, atol=1e-12)


def test_solve_symmetric_where_cholesky_fails():
    a, b = quadratic(least=-1.0)
    torch.testing.assert_close(a @ solve_symmetric(a, b), b, rtol=1e-10, atol=1e-10)


# -- sketches ----------------------------------------------------------------------------------------------------------
def test_nystrom_is_exact_for_a_matrix_of_its_rank():
    g = torch.Generator().manual_seed(0)
    low = torch.randn(30, 4, generator=g, dtype=torch.float64)
    a = low @ low.T
    basis, values, shift = nystrom(a.mv, torch.randn(30, 6, generator=g, dtype=torch.float64))
    assert shift == 0
    torch.testing.assert_close((basis * values) @ basis.T, a, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(values[:4], torch.linalg.eigvalsh(a).flip(0)[:4], rtol=1e-9, atol=1e-9)


def test_nystrom_of_an_indefinite_matrix_keeps_the_size_of_the_negative_eigenvalue():
    a = torch.diag(torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64))
    _, values, shift = nystrom(a.mv, torch.randn(3, 3, dtype=torch.float64))
    assert shift == pytest.approx(4)
    torch.testing.assert_close(values, torch.tensor([8.0, 5.0, 2.0], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_nystrom_of_zero_and_of_what_is_not_finite():
    _, values, shift = nystrom(torch.zeros_like, torch.randn(5, 2))
    assert shift == 0 and values.abs().max() < 1e-30
    assert nystrom(lambda v: v * math.nan, torch.randn(5, 2)) is None


def test_sketch_and_solve_is_exact_where_the_sketch_is():
    g = torch.Generator().manual_seed(1)
    low = torch.randn(8, 3, generator=g, dtype=torch.float64)
    a, b = low @ low.T, torch.randn(8, generator=g, dtype=torch.float64)
    params, closure, x = problem(a, b)
    tz.Modular(params, tz.m.NystromSketchAndSolve(rank=3, reg=0.1, seed=0)).step(closure)
    expected = torch.linalg.solve(a + 0.1 * torch.eye(8, dtype=torch.float64), a @ x + b)
    torch.testing.assert_close(x - vector(params), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["autograd", "central", "forward"])
def test_preconditioned_cg_solves_the_newton_system(method):
    g = torch.Generator().manual_seed(2)
    q = torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=torch.float64)).Q
    a = (q * torch.logspace(-1, 4, 40, dtype=torch.float64)) @ q.T
    b = torch.randn(40, generator=g, dtype=torch.float64)
    products = {}
    for module in (
        tz.m.NystromPCG(20, tol=1e-6, reg=0.01, hvp_method=method, h=1e-3, maxiter=200, seed=0),
        tz.m.NewtonCG(tol=1e-6, reg=0.01, hvp_method=method, h=1e-3, maxiter=200, forcing=False),
    ):
        params, closure, x = problem((a + a.T) / 2, b)
        optimizer = tz.Modular(params, module)
        optimizer.step(closure)
        products[type(module).__name__] = optimizer.last_step.evaluations
        if isinstance(module, tz.m.NystromPCG):
            d, g = x - vector(params), a @ x + b
            assert float((a @ d + 0.01 * d - g).norm()) < 1e-5 * float(g.norm())
    if method == "central":
        assert products["NystromPCG"] < products["NewtonCG"]


def test_no_matrix_over_all_elements():
    p = torch.zeros(100_000, requires_grad=True)  # a matrix would be 40 GB
    scale = torch.linspace(0, 1, 100_000)

    def closure(backward=True):
        loss = (scale * (p - 1) ** 2).sum() / 2
        if backward:
            p.grad = None
            loss.backward()
        return loss

    for module in (tz.m.NystromSketchAndSolve(3, reg=1.0), tz.m.NystromPCG(3, maxiter=5)):
        optimizer = tz.Modular([p], module, tz.m.Backtracking())
        first = optimizer.step(closure).item()
        assert closure(False).item() < first


# -- higher order ------------------------------------------------------------------------------------------------------
def quartic(backward=True, *, p=None):
    x, y, z = p
    return (x - 0.5) ** 4 + (x + y) ** 4 + (y - z) ** 4 / 4 + (x - 0.5) ** 2 + y**2 + (z + 0.3) ** 2 + x * y * z / 5


@pytest.mark.parametrize("method", ["bounds", "none"])
@pytest.mark.parametrize("vectorize", [True, False])
def test_a_quartic_in_one_step(method, vectorize):
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    module = tz.m.HigherOrderNewton(order=4, trust_method=method, vectorize=vectorize)
    optimizer = tz.Modular([p], module)
    optimizer.step(lambda backward=True: quartic(p=p))
    (g,) = torch.autograd.grad(quartic(p=p), p)
    assert g.abs().max() < 1e-6
    if method == "bounds":
        assert optimizer.state_dict()["state"][0]["HigherOrderNewton.global.trust_value"] == 1.5


def test_order_two_is_newton():
    a, b = quadratic()
    params, closure, _ = problem(a, b)
    tz.Modular(params, tz.m.HigherOrderNewton(order=2, trust_method="none")).step(closure)
    torch.testing.assert_close(vector(params), torch.linalg.solve(a, -b), rtol=1e-6, atol=1e-6)


def test_the_proximal_term():
    a, b = quadratic()
    params, closure, x = problem(a, b)
    tz.Modular(params, tz.m.HigherOrderNewton(order=2, trust_method="proximal", trust_init=0.25)).step(closure)
    expected = torch.linalg.solve(a + 4 * torch.eye(6, dtype=torch.float64), a @ x + b)
    torch.testing.assert_close(x - vector(params), expected, rtol=1e-6, atol=1e-6)


def test_a_step_that_does_not_help_is_not_made_and_the_region_shrinks():
    p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.HigherOrderNewton(order=1, trust_init=10.0))
    optimizer.step(lambda backward=True: (p**2).sum())
    assert p.item() == 1.0 and optimizer.last_step.status == "no decrease"
    assert optimizer.state_dict()["state"][0]["HigherOrderNewton.global.trust_value"] == 7.5


def test_the_box_is_searched_where_asked():
    def f(p):  # a polynomial with a lower minimum at the left
        return (p**4 / 4 - p**3 / 30 - p**2 / 2 + p / 5).sum()

    found = []
    for iters in (None, 30):
        p = torch.tensor([0.9], dtype=torch.float64, requires_grad=True)
        module = tz.m.HigherOrderNewton(trust_init=3.0, de_iters=iters)
        tz.Modular([p], module).step(lambda backward=True, p=p: f(p))
        found.append(f(p).item())
    assert found[1] < found[0] - 0.1


def test_differential_evolution_needs_a_box():
    with pytest.raises(ValueError, match="de_iters searches a box, so it needs trust_method='bounds'"):
        tz.m.HigherOrderNewton(trust_method="none", de_iters=3)


@pytest.mark.parametrize("name", ["Newton", "HigherOrderNewton"])
def test_a_loss_without_a_graph_is_refused(name):
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.SPSA(), getattr(tz.m, name)())
    with pytest.raises(RuntimeError, match=rf"{name} needs a loss that can be differentiated"):
        optimizer.step(lambda backward=True: (p**2).sum())


@pytest.mark.parametrize("least", [0.5, -3.0], ids=["definite", "indefinite"])
def test_eigenvalues_are_taken_where_one_is_negative(least, monkeypatch):
    a, b = quadratic(least=least)
    values, vectors = torch.linalg.eigh(a)
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *given: calls.append(1) or eigh(*given))
    step, g = one_step(a, b, reg=0, eigval_tfm=torch.abs)
    torch.testing.assert_close(step, vectors @ ((vectors.T @ g) / values.abs()), rtol=1e-10, atol=1e-12)
    assert len(calls) == (least < 0)
    other, _ = one_step(a, b, reg=0, eigval_tfm=lambda values: values.abs())
    torch.testing.assert_close(step, other, rtol=1e-10, atol=1e-12)
