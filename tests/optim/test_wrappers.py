"""The optimizers of other packages: each run against the real package where it is installed."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import warnings

import numpy as np
import pytest
import torch

import torchzero_core as tz

w = tz.optim.wrappers


def have(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(name)
        except ImportError:
            return False
    return True


needs = {
    name: pytest.mark.skipif(not have(name), reason=f"{name} is not installed")
    for name in ("scipy", "nlopt", "nevergrad", "biteopt")
}
#: What nevergrad and what it imports warn of by themselves.
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def each(*names):
    """Every wrapper on a problem with bounds, by name."""
    makers = {
        "ScipyMinimize": (lambda p, **k: w.ScipyMinimize(p, **k), "scipy"),
        "ScipyDE": (lambda p, **k: w.ScipyDE(p, maxiter=60, seed=0, **k), "scipy"),
        "ScipyDualAnnealing": (lambda p, **k: w.ScipyDualAnnealing(p, maxiter=30, seed=0, **k), "scipy"),
        "NLOptOptimizer": (lambda p, **k: w.NLOptOptimizer(p, "LN_BOBYQA", 300, **k), "nlopt"),
        "BiteOptOptimizer": (lambda p, **k: w.BiteOptOptimizer(p, 300, **k), "biteopt"),
        "NevergradOptimizer": (lambda p, **k: w.NevergradOptimizer(p, "OnePlusOne", 100, **k), "nevergrad"),
        "ScipyRootOptimization": (lambda p, **k: w.ScipyRootOptimization(p), "scipy"),
    }
    chosen = names or makers
    return pytest.mark.parametrize(
        "make", [pytest.param(makers[n][0], marks=[needs[makers[n][1]], QUIET], id=n) for n in chosen]
    )


BOUNDED = (
    "ScipyMinimize",
    "ScipyDE",
    "ScipyDualAnnealing",
    "NLOptOptimizer",
    "BiteOptOptimizer",
    "NevergradOptimizer",
)


def start(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def rosenbrock(p, calls=None):
    def closure(backward=True):
        if calls is not None:
            calls.append((p.detach().clone(), backward))
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        if backward:
            p.grad = None
            loss.backward()
        return loss

    return closure


def quadratic(params, centers, losses=None):
    """The distance to some centers."""

    def closure(backward=True):
        loss = sum(((p.double() - c) ** 2).sum() for p, c in zip(params, centers, strict=True))
        if losses is not None:
            losses.append(loss.item())
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    return closure


def steps_of(optimizer, closure):
    """Steps until the end: one, or as many as the budget of an asking one."""
    for _ in range(getattr(optimizer, "budget", None) or 1):
        loss = optimizer.step(closure)
    return loss


# -- all of them -------------------------------------------------------------------------------------------------------
@each()
def test_parameters_end_at_the_best_point_and_its_loss_is_returned(make):
    a, b = start(2.0, -1.5), start(0.7, dtype=torch.float32)
    bounds = {} if make is w.ScipyRootOptimization else dict(lb=-3.0, ub=4.0)
    optimizer = make([a, b], **bounds)
    losses = []
    closure = quadratic((a, b), (1.0, -0.5), losses)
    loss = steps_of(optimizer, closure)
    assert loss.item() == min(losses) == closure(False).item()
    assert loss.item() < (0.3 if isinstance(optimizer, w.NevergradOptimizer) else 1e-3)
    assert not loss.requires_grad and a.dtype == torch.float64 and b.dtype == torch.float32
    assert isinstance(optimizer, torch.optim.Optimizer) and optimizer.evaluations > 0


@each(*BOUNDED)
def test_groups_have_their_own_bounds(make):
    a, b = start(3.5, 0.5), start(-5.0)
    groups = [{"params": [a], "lb": torch.tensor([2.0, -1.0]), "ub": 4.0}, {"params": [b]}]
    optimizer = make(groups, lb=-2.0, ub=-0.25)
    seen = []

    def closure(backward=True):
        seen.append((a.detach().clone(), b.detach().clone()))
        return quadratic((a, b), (0.0, 0.0))(backward)

    steps_of(optimizer, closure)
    low = torch.tensor([2.0, -1.0])
    assert all((x >= low).all() and (x <= 4).all() and -2 <= y <= -0.25 for x, y in seen)
    tolerance = 0.7 if isinstance(optimizer, w.NevergradOptimizer) else 0.02
    torch.testing.assert_close(a.detach(), start(2.0, 0.0).detach(), rtol=0, atol=tolerance)
    torch.testing.assert_close(b.detach(), start(-0.25).detach(), rtol=0, atol=tolerance)


@each()
def test_an_exception_puts_the_parameters_back_and_comes_out_as_it_is(make):
    p = start(2.0, -1.5)
    before, grad = p.detach().clone(), torch.ones_like(p)
    p.grad = grad
    optimizer = make([p], lb=-3.0, ub=4.0)
    calls = []

    def closure(backward=True):
        calls.append(p.detach().clone())
        if len(calls) == 2 or (len(calls) == 1 and isinstance(optimizer, w.NevergradOptimizer)):
            raise ValueError("data")
        return quadratic((p,), (1.0,))(backward)

    with pytest.raises(ValueError, match=r"^data$"):
        optimizer.step(closure)
    assert torch.equal(p, before) and p.grad is grad and torch.equal(grad, torch.ones_like(p))
    if isinstance(optimizer, w.NevergradOptimizer):
        assert len(calls) == 1
    else:
        assert len(calls) == 2
    loss = optimizer.step(quadratic((p,), (1.0,)))
    assert loss.isfinite()


@each()
def test_gradients_and_frozen_parameters_stay(make):
    p, frozen = start(2.0), torch.ones(2)
    grad = p.grad = torch.ones_like(p)
    steps_of(make([p, frozen], lb=-3.0, ub=4.0), quadratic((p,), (1.0,)))
    assert p.grad is grad and torch.equal(frozen, torch.ones(2))


@each()
def test_where_no_loss_is_finite_the_parameters_stay(make):
    p = start(2.0)

    def closure(backward=True):
        loss = p.sum() * torch.nan
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer = make([p], lb=-3.0, ub=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = steps_of(optimizer, closure)
    assert p.item() == 2.0 and loss.isnan()


@each()
def test_copies_and_states(make):
    p = start(2.0)
    optimizer = make([p], lb=-3.0, ub=4.0)
    optimizer.step(quadratic((p,), (1.0,)))
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        q, other = copied((p, optimizer))
        r, third = copied((p, optimizer))
        ends = [other.step(quadratic((q,), (1.0,))).item() for _ in range(3)]
        assert ends == [third.step(quadratic((r,), (1.0,))).item() for _ in range(3)]
        assert torch.equal(q, r) and other.param_groups[0]["params"][0] is q and q is not p
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(quadratic((p,), (1.0,)))


@each()
def test_nothing_to_optimize(make):
    p, empty = torch.ones(2), torch.zeros(0, requires_grad=True)
    for params in ([p], [empty]):
        assert make(params, lb=0.0, ub=1.0).step(lambda backward=True: torch.tensor(3.0)).item() == 3.0


@each("ScipyDE", "ScipyDualAnnealing", "BiteOptOptimizer")
def test_global_methods_need_bounds(make):
    with pytest.raises(ValueError, match="every group needs finite lb and ub"):
        make([start(1.0)], lb=0.0)
    with pytest.raises(ValueError, match="every group needs finite lb and ub"):
        make([{"params": [start(1.0)]}, {"params": [start(1.0)], "ub": math.inf}], lb=0.0, ub=1.0)


@each(*BOUNDED)
def test_bounds_that_are_wrong(make):
    with pytest.raises(ValueError, match="a lower bound above the upper one"):
        make([start(1.0)], lb=2.0, ub=1.0)
    with pytest.raises(ValueError, match=r"lb=.* does not fit a parameter of shape \(1,\)"):
        make([start(1.0)], lb=torch.zeros(3), ub=1.0)
    with pytest.raises(ValueError, match="ub=nan is not a number"):
        make([start(1.0)], lb=0.0, ub=math.nan)
    with pytest.raises(TypeError, match=r"takes real parameters, not torch.complex64"):
        make([torch.ones(1, dtype=torch.complex64, requires_grad=True)], lb=0.0, ub=1.0)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("ScipyMinimize", "scipy"),
        ("ScipyRootOptimization", "scipy"),
        ("ScipyDE", "scipy"),
        ("ScipyDualAnnealing", "scipy"),
        ("NLOptOptimizer", "nlopt"),
        ("NevergradOptimizer", "nevergrad"),
        ("BiteOptOptimizer", "biteopt"),
    ],
)
def test_a_missing_package_names_the_extra(name, package, monkeypatch):
    real = importlib.import_module

    def import_module(module, *args):
        if module.split(".")[0] == package:
            raise ImportError(module)
        return real(module, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)
    args = {"NLOptOptimizer": ("LN_BOBYQA", 10), "NevergradOptimizer": ("OnePlusOne",)}.get(name, ())
    with pytest.raises(ImportError, match=rf"{name} needs {package}, .*pip install 'torchzero-core\[{package}\]'"):
        getattr(w, name)([start(1.0)], *args)


# -- scipy -------------------------------------------------------------------------------------------------------------
def rosen_x(x):
    return float((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)


def rosen_g(x):
    return np.array([2 * (x[0] - 1) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)])


def rosen_h(x):
    return np.array([[2 - 400 * (x[1] - 3 * x[0] ** 2), -400 * x[0]], [-400 * x[0], 200.0]])


@needs["scipy"]
@pytest.mark.parametrize(
    "method",
    [None, "CG", "BFGS", "L-BFGS-B", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact"],
)
def test_scipy_gets_the_same_function_as_by_hand(method):
    from scipy.optimize import minimize

    hess = rosen_h if method and (method.startswith("trust") or method == "Newton-CG") else None
    expected = minimize(rosen_x, [-1.2, 1.0], jac=rosen_g, hess=hess, method=method)
    p = start(-1.2, 1.0)
    optimizer = w.ScipyMinimize([p], method)
    loss = optimizer.step(rosenbrock(p))
    np.testing.assert_allclose(
        optimizer.result.x, expected.x, rtol=2e-4 if method == "TNC" else 1e-5
    )  # TNC stops early
    assert optimizer.result.nit == expected.nit and loss.item() == pytest.approx(expected.fun, abs=1e-9)
    assert optimizer.evaluations <= expected.nfev + expected.get("nhev", 0) + 1


@needs["scipy"]
@pytest.mark.parametrize("method", ["Nelder-Mead", "Powell", "COBYLA", "COBYQA"])
def test_scipy_without_gradients_evaluates_none(method):
    p, calls = start(-1.2, 1.0), []
    loss = w.ScipyMinimize([p], method, tol=1e-8).step(rosenbrock(p, calls))
    assert not any(backward for _, backward in calls)
    assert loss.item() < (1e-3 if method == "COBYLA" else 1e-8) or loss.item() < rosen_x([-1.2, 1.0])


@needs["scipy"]
def test_scipy_dogleg_tnc_and_trust_constr():
    p = start(-1.2, 1.0)
    assert w.ScipyMinimize([p], "TNC").step(rosenbrock(p)).item() < 1e-6
    p = start(0.5, 0.5)
    assert w.ScipyMinimize([p], "dogleg", min_eigval=1e-2).step(rosenbrock(p)).item() < 1e-10
    np.testing.assert_allclose(p.detach(), [1, 1], rtol=1e-4)
    for hess in ("autograd", "2-point", None):
        p = start(-0.5, 0.5)
        assert w.ScipyMinimize([p], "trust-constr", hess=hess, lb=-0.8, ub=0.8).step(rosenbrock(p)).item() < 0.05
        assert p.abs().max() <= 0.8


@needs["scipy"]
@pytest.mark.parametrize("jac", ["2-point", "3-point", rosen_g, None])
def test_other_gradients(jac):
    p, calls = start(-1.2, 1.0), []
    loss = w.ScipyMinimize([p], "BFGS", jac=jac).step(rosenbrock(p, calls))
    assert loss.item() < 1e-8 and not any(backward for _, backward in calls)


@needs["scipy"]
def test_tikhonov_and_min_eigval():
    p = start(0.1, 2.0)
    optimizer = w.ScipyMinimize([p], "trust-exact", tikhonov=3.0, min_eigval=1.0)
    seen = []

    def spy(objective):
        seen.append(objective.hessian(np.array([0.1, 2.0])))
        seen.append(objective.hessian(np.array([0.1, 2.0]), 3.0))
        seen.append(objective.hessian(np.array([0.1, 2.0]), 3.0, 1.0))

    optimizer.minimize = spy
    optimizer.step(rosenbrock(p))
    exact = rosen_h([0.1, 2.0])
    np.testing.assert_allclose(seen[0], exact, rtol=1e-12)
    np.testing.assert_allclose(seen[1], exact + 3 * np.eye(2), rtol=1e-12)
    assert np.linalg.eigvalsh(seen[1])[0] < 0
    np.testing.assert_allclose(np.linalg.eigvalsh(seen[2]), np.maximum(np.linalg.eigvalsh(seen[1]), 1), rtol=1e-10)


@needs["scipy"]
def test_a_hessian_needs_a_graph():
    p = start(-1.2, 1.0)
    closure = rosenbrock(p)
    with pytest.raises(RuntimeError, match="hess='autograd' needs the graph of the loss"):
        w.ScipyMinimize([p], "trust-exact").step(lambda backward=True: closure(backward).detach())
    assert p.tolist() == [-1.2, 1.0]


@needs["scipy"]
def test_constraints():
    """min x² + y² with x + y = 1, whose minimum without it is lower."""
    a, b = start(3.0), start(-1.0)
    constraint = {"type": "eq", "fun": lambda x: x.sum() - 1}
    optimizer = w.ScipyMinimize([a, b], constraints=constraint)
    loss = optimizer.step(quadratic((a, b), (0.0, 0.0)))
    assert loss.item() == pytest.approx(0.5, abs=1e-8)
    assert [a.item(), b.item()] == pytest.approx([0.5, 0.5], abs=1e-6)
    from scipy.optimize import LinearConstraint

    c = start(2.0, 2.0)
    de = w.ScipyDE([c], -3, 3, seed=0, maxiter=60, constraints=LinearConstraint([[1, 1]], 1, np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert de.step(quadratic((c,), (0.0,))).item() == pytest.approx(0.5, abs=1e-3)
    assert c.sum().item() >= 1 - 1e-6


@needs["scipy"]
def test_a_method_without_bounds_says_so():
    p = start(1.0)
    with pytest.raises(ValueError, match="The method 'BFGS' of scipy has no bounds"):
        w.ScipyMinimize([p], "BFGS", lb=0.0).step(quadratic((p,), (2.0,)))


@needs["scipy"]
def test_callback_options_and_a_method_of_ones_own():
    p, seen = start(-1.2, 1.0), []
    optimizer = w.ScipyMinimize([p], "BFGS", callback=lambda x: seen.append(x.copy()), options={"maxiter": 4})
    optimizer.step(rosenbrock(p))
    assert len(seen) == 4 and optimizer.result.nit == 4

    def descent(fun, x0, args, jac=None, **_):
        from scipy.optimize import OptimizeResult

        x = x0 - 1e-3 * jac(x0)
        return OptimizeResult(x=x, fun=fun(x))

    p = start(-1.2, 1.0)
    loss = w.ScipyMinimize([p], descent).step(rosenbrock(p))
    np.testing.assert_allclose(p.detach(), np.array([-1.2, 1.0]) - 1e-3 * rosen_g([-1.2, 1.0]), rtol=1e-13)
    assert loss.item() == pytest.approx(rosen_x(p.tolist()), rel=1e-13)


@needs["scipy"]
def test_a_closure_without_backward_argument_and_python_losses():
    p = start(-1.2, 1.0)
    closure = rosenbrock(p)
    assert w.ScipyMinimize([p], "BFGS").step(lambda: closure()).item() < 1e-8
    p = start(2.0)
    loss = w.ScipyMinimize([p], "Nelder-Mead").step(lambda backward=True: float(p.item() - 1) ** 2)
    assert isinstance(loss, torch.Tensor) and loss.item() < 1e-6


@needs["scipy"]
@pytest.mark.parametrize("method", ["hybr", "lm", "krylov", "broyden1"])
def test_root_of_the_gradient(method):
    p = start(1.3, 1.4)
    closure = quadratic((p,), (0.5,))

    def with_quartic(backward=True):
        loss = ((p - 0.5) ** 2).sum() + 0.1 * ((p - 0.5) ** 4).sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    assert w.ScipyRootOptimization([p], method).step(with_quartic).item() < 1e-9
    assert closure(False).item() < 1e-9


@needs["scipy"]
def test_root_goes_uphill_to_where_the_gradient_is_zero():
    p = start(0.4)

    def closure(backward=True):
        loss = p.cos().sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    assert w.ScipyRootOptimization([p]).step(closure).item() == pytest.approx(1.0, abs=1e-12)


@needs["scipy"]
@pytest.mark.parametrize("name", ["ScipyDE", "ScipyDualAnnealing"])
def test_global_minimum_among_many_and_seeds(name):
    ends = []
    for _ in range(2):
        torch.manual_seed(3)
        p = start(3.1, -2.2)

        def closure(backward=True, p=p):
            loss = (p**2 - 3 * (5 * p).cos()).sum()
            if backward:
                p.grad = None
                loss.backward()
            return loss

        optimizer = getattr(w, name)([p], lb=-5, ub=5, maxiter=60)
        assert optimizer.step(closure).item() == pytest.approx(-6, abs=1e-4)
        ends.append(p.tolist())
    assert ends[0] == ends[1]


@needs["scipy"]
def test_points_outside_the_bounds_are_not_the_best():
    """Some methods look there, for a difference or before they project."""

    def strays(fun, x0, args, **_):
        from scipy.optimize import OptimizeResult

        return OptimizeResult(x=x0, fun=min(fun(np.array([x])) for x in (1.5, 0.25, 0.75)))

    p = start(5.0)
    loss = w.ScipyMinimize([p], strays, lb=-1.0, ub=1.0).step(quadratic((p,), (1.5,)))
    assert p.item() == 0.75 and loss.item() == 0.75**2


# -- NLOpt -------------------------------------------------------------------------------------------------------------
@needs["nlopt"]
@pytest.mark.parametrize("algorithm", ["LD_LBFGS", "LD_SLSQP", "LD_MMA", "LN_SBPLX", "LN_BOBYQA", "LN_NELDERMEAD"])
def test_nlopt_local(algorithm):
    p, calls = start(-1.2, 1.0), []
    optimizer = w.NLOptOptimizer([p], algorithm, 5000, ftol_rel=1e-14, xtol_rel=1e-10)
    loss = optimizer.step(rosenbrock(p, calls))
    assert loss.item() < 1e-5
    assert any(backward for _, backward in calls) is algorithm.startswith("LD")
    assert optimizer.result in {"FTOL_REACHED", "XTOL_REACHED", "MAXEVAL_REACHED", "SUCCESS", "ROUNDOFF_LIMITED"}


@needs["nlopt"]
def test_nlopt_global_and_limits():
    p = start(3.1, -2.2)
    many = lambda backward=True: (p**2 - 3 * (5 * p).cos()).sum()  # noqa: E731
    assert w.NLOptOptimizer([p], "GN_DIRECT_L", 2000, -5, 6).step(many).item() == pytest.approx(-6, abs=1e-3)
    with pytest.raises(ValueError, match="every group needs finite lb and ub"):
        w.NLOptOptimizer([p], "GN_CRS2_LM", 10)
    with pytest.raises(ValueError, match="NLOpt has no algorithm 'LN_NONE'"):
        w.NLOptOptimizer([p], "LN_NONE", 10)
    p, calls = start(-1.2, 1.0), []
    optimizer = w.NLOptOptimizer([p], "LN_SBPLX", 17)
    optimizer.step(rosenbrock(p, calls))
    assert len(calls) == optimizer.evaluations == 17 and optimizer.result == "MAXEVAL_REACHED"
    optimizer = w.NLOptOptimizer([p], "LN_SBPLX", 1000, stopval=1.0)
    assert optimizer.step(rosenbrock(p)).item() <= 1.0 and optimizer.result == "STOPVAL_REACHED"
    optimizer = w.NLOptOptimizer([p], "LN_SBPLX", None, maxtime=1e-6)
    with torch.no_grad():
        p.copy_(torch.tensor([-1.2, 1.0]))
    optimizer.step(rosenbrock(p))
    assert optimizer.result == "MAXTIME_REACHED"


# -- Nevergrad ---------------------------------------------------------------------------------------------------------
@needs["nevergrad"]
@QUIET
@pytest.mark.parametrize("mutable_sigma", [False, True])
@pytest.mark.parametrize("kind", ["name", "class"])
def test_nevergrad_asks_once_a_step_and_keeps_the_best(kind, mutable_sigma):
    import nevergrad

    opt = "OnePlusOne" if kind == "name" else nevergrad.optimizers.CMA
    p, losses = start(2.0, -1.0), []
    torch.manual_seed(0)
    optimizer = w.NevergradOptimizer([p], opt, 150, mutable_sigma)
    closure = quadratic((p,), (0.5,), losses)
    for i in range(150):
        loss = optimizer.step(closure)
        assert len(losses) == i + 1 and loss.item() == min(losses)
        assert ((p - 0.5) ** 2).sum().item() == loss.item()
    assert loss.item() < 0.1


@needs["nevergrad"]
@QUIET
def test_nevergrad_starts_where_the_parameters_are():
    for use_init in (True, False):
        p, seen = start(2.0, -1.0), []
        optimizer = w.NevergradOptimizer([p], "OnePlusOne", 10, use_init=use_init, lb=-4.0, ub=6.0)
        optimizer.step(lambda backward=True, p=p, seen=seen: (seen.append(p.tolist()), (p**2).sum())[1])
        assert seen[0] == pytest.approx([2.0, -1.0] if use_init else [1.0, 1.0], abs=1e-6)


def test_nevergrad_without_bounds_starts_at_zero():
    p, seen = torch.tensor([2.0, -1.0], requires_grad=True), []
    optimizer = w.NevergradOptimizer([p], "OnePlusOne", 10, use_init=False)

    def closure(backward=True):
        seen.append(p.detach().clone().tolist())
        return (p**2).sum()

    optimizer.step(closure)
    assert seen[0] == [0.0, 0.0]


@needs["nevergrad"]
@QUIET
def test_nevergrad_state_has_the_best_point():
    p = start(2.0)
    closure = quadratic((p,), (0.5,))
    optimizer = w.NevergradOptimizer([p], "OnePlusOne", 30)
    loss = steps_of(optimizer, closure)
    best = p.detach().clone()
    q = start(9.0)
    other = w.NevergradOptimizer([q], "OnePlusOne", 30)
    other.load_state_dict(optimizer.state_dict())
    bad = other.step(lambda backward=True: torch.tensor(1e9, dtype=torch.float64))
    assert bad.item() == loss.item() and torch.equal(q.detach(), best)
    with pytest.raises(ValueError, match="Nevergrad has no optimizer 'Nothing'"):
        w.NevergradOptimizer([p], "Nothing")


# -- BiteOpt -----------------------------------------------------------------------------------------------------------
@needs["biteopt"]
def test_biteopt_finds_the_lowest_of_many_minima():
    p, calls = start(3.1, -2.2), []

    def closure(backward=True):
        calls.append(backward)
        return (p**2 - 3 * (5 * p).cos()).sum()

    optimizer = w.BiteOptOptimizer([p], 400, lb=-5, ub=6, attempts=3)
    assert optimizer.step(closure).item() == pytest.approx(-6, abs=1e-3)
    assert len(calls) == optimizer.evaluations and not any(calls)
