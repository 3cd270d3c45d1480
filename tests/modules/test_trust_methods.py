"""Trust regions: against scipy's iterates, closed forms, and what a rejected step leaves."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, same
from torchzero_core.core.vector_method import VectorMethod

pytest.importorskip("scipy")

from scipy.optimize import least_squares, rosen, rosen_der, rosen_hess
from scipy.optimize._trustregion_dogleg import DoglegSubproblem
from scipy.optimize._trustregion_exact import IterativeSubproblem
from scipy.optimize._trustregion_ncg import CGSteihaugSubproblem


def tensor(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# -- problems of Moré, Garbow and Hillstrom, as functions of one tensor ------------------------------------------------
def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def powell_singular(x):
    return (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


def beale(x):
    return sum((y - x[0] * (1 - x[1] ** (i + 1))) ** 2 for i, y in enumerate([1.5, 2.25, 2.625]))


def wood(x):
    return (
        100 * (x[1] - x[0] ** 2) ** 2
        + (1 - x[0]) ** 2
        + 90 * (x[3] - x[2] ** 2) ** 2
        + (1 - x[2]) ** 2
        + 10 * (x[1] + x[3] - 2) ** 2
        + 0.1 * (x[1] - x[3]) ** 2
    )


def helical_valley(x):
    theta = torch.atan2(x[1], x[0]) / (2 * math.pi)
    return 100 * ((x[2] - 10 * theta) ** 2 + ((x[0] ** 2 + x[1] ** 2).sqrt() - 1) ** 2) + x[2] ** 2


def trigonometric(x):
    i = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return ((len(x) - x.cos().sum() + i * (1 - x.cos()) - x.sin()) ** 2).sum()


def variably_dimensioned(x):
    i = torch.arange(1, len(x) + 1, dtype=x.dtype)
    t = (i * (x - 1)).sum()
    return ((x - 1) ** 2).sum() + t**2 + t**4


PROBLEMS = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock5": (rosenbrock, [-1.2, 1.0, -1.2, 1.0, 0.7]),
    "powell": (powell_singular, [3.0, -1.0, 0.0, 1.0]),
    "beale": (beale, [1.0, 1.0]),
    "wood": (wood, [-3.0, -1.0, -3.0, -1.0]),
    "helical": (helical_valley, [-1.0, 0.3, 0.0]),
    "trigonometric": (trigonometric, [1 / 6] * 6),
    "variably": (variably_dimensioned, [1 - (i + 1) / 6 for i in range(6)]),
}
SUBPROBLEMS = {
    "TrustCG": (CGSteihaugSubproblem, PROBLEMS),
    # scipy's dogleg has no answer where the Hessian is not positive definite
    "Dogleg": (DoglegSubproblem, ["rosenbrock", "powell", "variably"]),
    # Its default tolerances end the search for λ early; on the trigonometric function its step leaves the region by 2%.
    "TrustExact": (partial(IterativeSubproblem, k_easy=1e-13, k_hard=1e-13), set(PROBLEMS) - {"trigonometric"}),
}


def functions(loss):
    """The loss, gradient and Hessian as scipy calls them."""

    def grad(x):
        p = tensor(x)
        return torch.autograd.grad(loss(p), p)[0].numpy()

    def hess(x):
        return torch.autograd.functional.hessian(loss, torch.tensor(x, dtype=torch.float64)).numpy()

    return lambda x: float(loss(torch.tensor(x, dtype=torch.float64))), grad, hess


def scipy_iterates(loss, start, subproblem, n):
    """Where scipy's loop stands after each of its steps that it makes."""
    f, grad, hess = functions(loss)
    x, radius, out = np.array(start), 1.0, []
    model = subproblem(x, f, grad, hess, None)
    for _ in range(1000):
        if len(out) == n or model.jac_mag < 1e-5:
            break
        p, at_boundary = model.solve(radius)
        ahead = subproblem(x + p, f, grad, hess, None)
        ratio = (model.fun - ahead.fun) / (model.fun - model(p))
        if ratio < 0.25:
            radius *= 0.25
        elif ratio > 0.75 and at_boundary:
            radius = min(2 * radius, 1000.0)
        if ratio > 0.15:
            x, model = x + p, ahead
            out.append(x)
    return out


@pytest.mark.parametrize(
    ("name", "problem"),
    [(name, problem) for name, (_, problems) in SUBPROBLEMS.items() for problem in sorted(problems)],
)
def test_iterates_are_those_of_scipy(name, problem):
    loss, start = PROBLEMS[problem]
    expected = scipy_iterates(loss, start, SUBPROBLEMS[name][0], 40)
    p = tensor(start)
    optimizer = tz.Modular([p], getattr(tz.m, name)())
    assert len(expected) >= 3
    for x in expected:
        optimizer.step(lambda backward=True: loss(p))
        assert optimizer.last_step.status == "ok"
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["trust-ncg", "trust-exact", "dogleg"])
def test_as_many_steps_as_scipy_minimize(method):
    """The loop of these tests is scipy's own: its minimize evaluates as often and ends at the same place."""
    from scipy.optimize import minimize

    name = {"trust-ncg": "TrustCG", "trust-exact": "TrustExact", "dogleg": "Dogleg"}[method]
    found = minimize(rosen, [-1.2, 1.0], jac=rosen_der, hess=rosen_hess, method=method, options=dict(gtol=1e-5))
    p = tensor([-1.2, 1.0])
    optimizer = tz.Modular([p], getattr(tz.m, name)())
    trials = 0
    while torch.autograd.grad(rosenbrock(p), p)[0].norm() >= 1e-5:
        optimizer.step(lambda backward=True: rosenbrock(p))
        trials += optimizer.last_step.evaluations - 1
    assert abs(trials - found.nit) <= (2 if method == "trust-exact" else 0)
    np.testing.assert_allclose(p.detach().numpy(), [1, 1], atol=1e-5)


# -- exact minima of the models ----------------------------------------------------------------------------------------
def quadratic(g, B):
    """A loss whose gradient and Hessian at 0 are g and B."""
    g, B = torch.tensor(g, dtype=torch.float64), torch.tensor(B, dtype=torch.float64)
    return lambda x: g @ x + x @ B @ x / 2


MODELS = {
    "convex": ([1.0, -2.0, 0.5], [[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]]),
    "indefinite": ([1.0, -2.0, 0.5], [[1.0, 2.0, 0.0], [2.0, -3.0, 0.5], [0.0, 0.5, 2.0]]),
    "hard": ([0.0, 1.0, 1.0], [[-2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]),
    "zero Hessian": ([3.0, 4.0, 0.0], [[0.0] * 3] * 3),
    "tiny": ([1e-9, -2e-9, 0.5e-9], [[1.0, 2.0, 0.0], [2.0, -3.0, 0.5], [0.0, 0.5, 2.0]]),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("radius", [0.1, 0.5, 3.0])
def test_the_exact_step_is_the_minimum_in_the_ball(model, radius):
    """Moré and Sorensen's conditions: (B + λI)s = −g with B + λI positive semidefinite, and λ(Δ − ‖s‖) = 0."""
    g, B = map(np.array, MODELS[model])
    p = tensor([0.0] * 3)
    optimizer = tz.Modular([p], tz.m.TrustExact(init=radius))
    optimizer.step(lambda backward=True: quadratic(g, B)(p))
    s = p.detach().numpy()
    shift = -float(s @ (g + B @ s)) / float(s @ s)
    rounding = 2**-50 * np.linalg.norm(B) * np.linalg.norm(s) + 1e-10 * np.abs(g).max()
    np.testing.assert_allclose((B + shift * np.eye(3)) @ s, -g, atol=rounding, rtol=0)
    assert shift >= max(0, -np.linalg.eigvalsh(B)[0]) - 1e-7
    assert np.linalg.norm(s) <= radius * (1 + 1e-9)
    assert abs(shift) * (radius - np.linalg.norm(s)) <= 1e-7


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_the_cubic_step_is_the_global_minimum(model, sigma):
    """Nesterov and Polyak: (B + σ‖s‖I)s = −g with B + σ‖s‖I positive semidefinite."""
    g, B = map(np.array, MODELS[model])
    p = tensor([0.0] * 3)
    optimizer = tz.Modular([p], tz.m.CubicRegularization(init=sigma))
    optimizer.step(lambda backward=True: quadratic(g, B)(p))
    s = p.detach().numpy()
    shift = sigma * np.linalg.norm(s)
    rounding = 2**-50 * max(np.linalg.norm(B), shift) * np.linalg.norm(s) + 1e-10 * np.abs(g).max()
    np.testing.assert_allclose((B + shift * np.eye(3)) @ s, -g, atol=rounding, rtol=0)
    assert shift >= -np.linalg.eigvalsh(B)[0] - 1e-9


@pytest.mark.parametrize("curvature", [4.0, 0.0, -3.0])
def test_the_cubic_step_of_one_element_has_a_closed_form(curvature):
    """g + bs + σs|s| = 0 has the root |s| = (−b + √(b² + 4σ|g|)) / 2σ."""
    sigma, g = 0.7, 2.0
    p = tensor([0.0])
    optimizer = tz.Modular([p], tz.m.CubicRegularization(init=sigma))
    optimizer.step(lambda backward=True: (g * p + curvature / 2 * p**2).sum())
    expected = (-curvature + math.sqrt(curvature**2 + 4 * sigma * g)) / (2 * sigma)
    assert p.item() == pytest.approx(-expected, rel=1e-12)


@pytest.mark.parametrize("name", ["TrustExact", "CubicRegularization", "TrustCG"])
def test_leaves_a_saddle_that_has_a_gradient(name):
    p = tensor([1e-3, 0.1])
    optimizer = tz.Modular([p], getattr(tz.m, name)())
    for _ in range(40):
        optimizer.step(lambda backward=True: p[0] ** 4 / 4 - p[0] ** 2 / 2 + p[1] ** 2)
    np.testing.assert_allclose(p.detach().numpy(), [1, 0], atol=1e-6)


# -- least squares -----------------------------------------------------------------------------------------------------
def residual_problems():
    t = torch.linspace(0, 4, 40, dtype=torch.float64)
    wave = torch.sin(7 * torch.arange(40, dtype=torch.float64))
    decay = 3 * torch.exp(-0.8 * t) + 0.5 + 0.05 * wave
    logistic = 100 / (1 + torch.exp(-2 * (t - 2))) + wave
    gauss = 2 * torch.exp(-((t - 1.7) ** 2) / 0.5) + 0.02 * wave
    return {
        "decay": (lambda p: p[0] * torch.exp(-p[1] * t) + p[2] - decay, [1.0, 0.2, 0.0]),
        "logistic": (lambda p: p[0] / (1 + torch.exp(-p[1] * (t - p[2]))) - logistic, [60.0, 1.0, 1.0]),
        "gauss": (lambda p: p[0] * torch.exp(-((t - p[1]) ** 2) / p[2]) - gauss, [1.0, 1.0, 1.0]),
        "rosenbrock": (lambda p: torch.stack([10 * (p[1] - p[0] ** 2), 1 - p[0]]), [-1.2, 1.0]),
        # another size of each parameter
        "units": (lambda p: p[0] * 1e6 * torch.exp(-p[1] * 1e-4 * t) + p[2] - decay, [1e-6, 2e3, 0.0]),
    }


@pytest.mark.parametrize("problem", residual_problems())
def test_levenberg_marquardt_finds_what_minpack_finds(problem):
    residuals, start = residual_problems()[problem]

    def fun(x):
        return residuals(torch.tensor(x, dtype=torch.float64)).numpy()

    def jac(x):
        return torch.autograd.functional.jacobian(residuals, torch.tensor(x, dtype=torch.float64)).numpy()

    found = least_squares(fun, start, jac, method="lm", xtol=1e-10, ftol=1e-10, gtol=1e-10)
    p = tensor(start)
    optimizer = tz.Modular([p], tz.m.LevenbergMarquardt())
    trials = 0
    for _ in range(100):
        loss = optimizer.step(lambda backward=True: residuals(p))
        trials += optimizer.last_step.evaluations - 1
        if loss.item() <= 2 * found.cost * (1 + 1e-9) + 1e-15:
            break
    assert loss.item() <= 2 * found.cost * (1 + 1e-9) + 1e-15
    np.testing.assert_allclose(p.detach().numpy(), found.x, rtol=1e-3)
    assert trials <= 1.5 * found.nfev


def test_gauss_newton_solves_linear_least_squares_in_a_step():
    A = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.7]], dtype=torch.float64)
    b = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    p = tensor([5.0, -7.0])
    optimizer = tz.Modular([p], tz.m.GaussNewton(reg=0))
    assert optimizer.step(lambda backward=True: A @ p - b).item() == pytest.approx(
        float(((A @ torch.tensor([5.0, -7.0], dtype=torch.float64) - b) ** 2).sum())
    )
    torch.testing.assert_close(p.detach(), torch.linalg.lstsq(A, b).solution)


@pytest.mark.parametrize("name", ["TrustCG", "Dogleg", "TrustExact", "CubicRegularization"])
def test_gauss_newton_within_other_regions(name):
    residuals, start = residual_problems()["decay"]
    p = tensor(start)
    optimizer = tz.Modular([p], getattr(tz.m, name)(tz.m.GaussNewton()))
    losses = [optimizer.step(lambda backward=True: residuals(p)).item() for _ in range(30)]
    assert all(after <= before * (1 + 1e-13) for before, after in itertools.pairwise(losses))
    found = least_squares(lambda x: residuals(torch.tensor(x, dtype=torch.float64)).numpy(), start)
    np.testing.assert_allclose(p.detach().numpy(), found.x, rtol=1e-5)


class NoHessian(VectorMethod):
    """A method that knows no Hessian."""

    def learn(self, unit, u):
        return False

    def apply(self, unit, x):
        return x


def test_what_is_refused():
    p = tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="returned a single number"):
        tz.Modular([p], tz.m.LevenbergMarquardt()).step(lambda backward=True: (p**2).sum())
    with pytest.raises(RuntimeError, match="without a graph"):
        tz.Modular([p], tz.m.LevenbergMarquardt()).step(lambda backward=True: p.detach())
    with pytest.raises(ValueError, match=r"shape \(2,\); the loss must be one number"):
        tz.Modular([p], tz.m.ClipNorm(1), tz.m.LevenbergMarquardt()).step(lambda backward=True: p - 1)
    with pytest.raises(TypeError, match="no Hessian to hand out"):
        tz.Modular([p], tz.m.TrustCG(NoHessian())).step(closure_of(p, rosenbrock))
    assert p.tolist() == [1.0, 2.0]
    with pytest.raises(TypeError, match="takes one method"):
        tz.Modular([p], tz.m.TrustCG(tz.m.Adam())).step(closure_of(p, rosenbrock))
    with pytest.raises(ValueError, match="concat_params=True"):
        tz.Modular([p], tz.m.Dogleg(tz.m.BFGS(concat_params=False))).step(closure_of(p, rosenbrock))


# -- curvature from other methods --------------------------------------------------------------------------------------
def closure_of(p, loss):
    def closure(backward=True):
        value = loss(p)
        if backward:
            p.grad = None
            value.backward()
        return value

    return closure


SOURCES = {
    "BFGS": lambda: tz.m.BFGS(),
    "SR1": lambda: tz.m.SR1(),
    "PSB": lambda: tz.m.PSB(),
    "LBFGS": lambda: tz.m.LBFGS(),
    "LSR1": lambda: tz.m.LSR1(),
    "Newton": lambda: tz.m.Newton(),
    "NewtonCG": lambda: tz.m.NewtonCG(hvp_method="autograd"),
    "NewtonCG-central": lambda: tz.m.NewtonCG(hvp_method="central"),
}
METHODS = ["TrustCG", "Dogleg", "TrustExact", "CubicRegularization", "LevenbergMarquardt"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        pytest.param(name, source, marks=() if (i + k) % 2 == 0 else pytest.mark.slow)
        for i, name in enumerate(METHODS)
        for k, source in enumerate(SOURCES)
    ],
)
def test_curvature_of_other_methods(name, source):
    p = tensor([-1.2, 1.0, 0.5])
    optimizer = tz.Modular([p], getattr(tz.m, name)(SOURCES[source]()), deterministic=True)
    losses = [optimizer.step(closure_of(p, rosenbrock)).item() for _ in range(150)]
    assert all(after <= before * (1 + 1e-13) for before, after in itertools.pairwise(losses))
    # What a matrix that is not positive definite is worth depends on the region: these are slow.
    slow = source in ("SR1", "LSR1", "PSB") and name not in ("TrustCG", "TrustExact")
    assert losses[-1] < (5 if slow else 1e-2 if source == "PSB" else 1e-7)


@pytest.mark.parametrize("source", ["LBFGS", "LSR1", "BFGS", "SR1"])
def test_products_undo_the_direction(source):
    """The operator that a quasi-Newton method hands out is the inverse of what it applies."""
    seen = []

    class Spy(getattr(tz.m, source)):
        def curvature(self, unit):
            B = super().curvature(unit)
            v = torch.sin(torch.arange(1.0, 1 + len(unit.update), dtype=torch.float64))
            seen.append(float((self.apply(unit, (B @ v).clone()) - v).abs().max()))
            assert torch.equal(B.dense, B.dense.mT)
            return B

    p = tensor([-1.2, 1.0, 0.5, 0.2])
    optimizer = tz.Modular([p], tz.m.TrustCG(Spy()))
    for _ in range(12):
        optimizer.step(closure_of(p, rosenbrock))
    assert len(seen) == 12
    assert max(seen) < (1e-4 if source == "LSR1" else 1e-9)  # its terms cancel where H is nearly singular


# -- rejected steps ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("source", ["BFGS", "LBFGS", "SR1"])
def test_a_rejected_step_leaves_everything_and_teaches_nothing(name, source):
    p = tensor([1.0, 1.0])
    module = getattr(tz.m, name)(SOURCES[source](), max_attempts=2)
    optimizer = tz.Modular([p], module, deterministic=True)

    def easy(p):
        return rosenbrock(p) + (p**2).sum()

    steps = 0
    while steps < 3 or optimizer.last_step.status != "ok":
        optimizer.step(closure_of(p, easy))
        steps += 1
    here = bits([p])
    known = {k: copy.deepcopy(v) for k, v in optimizer.state[p].items() if ".hess." in k}
    size = {k: v for k, v in optimizer.state[p].items() if k.endswith(("radius", "sigma", "lam"))}

    def blocked(p):
        return easy(p) + (0.0 if torch.equal(p.detach(), here[0]) else math.nan)

    optimizer.step(closure_of(p, blocked))  # learns from where the last step ended
    learnt = {k: copy.deepcopy(v) for k, v in optimizer.state[p].items() if ".hess." in k}
    assert optimizer.last_step.status == "no decrease"
    assert optimizer.last_step.step_size == 0
    assert same(bits([p]), here)
    assert not same(known, learnt)
    optimizer.step(closure_of(p, blocked))
    assert same(bits([p]), here)
    assert same(learnt, {k: v for k, v in optimizer.state[p].items() if ".hess." in k})
    assert all(optimizer.state[p][k] != v for k, v in size.items())
    assert len(size) == 1
    for _ in range(5):
        loss = optimizer.step(closure_of(p, easy))
    assert easy(p) < loss


@pytest.mark.parametrize("name", METHODS)
def test_a_deterministic_closure_is_evaluated_once_at_each_point(name):
    p = tensor([-1.2, 1.0])
    optimizer = tz.Modular([p], getattr(tz.m, name)(tz.m.BFGS()), deterministic=True)
    seen = []

    def closure(backward=True):
        seen.append(tuple(p.detach().tolist()))
        return closure_of(p, rosenbrock)(backward)

    for _ in range(25):  # after 32 evaluations that were saved the word is put to the test
        optimizer.step(closure)
    assert len(seen) == len(set(seen))
    for products in ("forward", "central"):
        seen.clear()
        p = tensor([-1.2, 1.0])
        optimizer = tz.Modular([p], tz.m.TrustCG(hvp_method=products), deterministic=True)
        for _ in range(15):
            optimizer.step(closure)
        assert len(seen) == len(set(seen))


@pytest.mark.parametrize("name", METHODS)
def test_the_size_is_state(name):
    """A run goes on from a state dict bit for bit, also in the middle of rejected steps."""

    def build(p):
        return tz.Modular([p], getattr(tz.m, name)(tz.m.BFGS(), max_attempts=1))

    p = tensor([-1.2, 1.0])
    optimizer, rejected = build(p), 0
    for _ in range(25):
        optimizer.step(closure_of(p, rosenbrock))
        rejected += optimizer.last_step.status != "ok"
        q = p.detach().clone().requires_grad_()
        other = build(q)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        r = p.detach().clone().requires_grad_()
        twin = build(r)
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for _ in range(3):
            other.step(closure_of(q, rosenbrock))
            twin.step(closure_of(r, rosenbrock))
        assert same(bits([q]), bits([r]))
        assert same(other.state_dict()["state"], twin.state_dict()["state"])
    assert rejected > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_start_that_is_not_finite(name):
    p = tensor([1.0, 2.0])
    optimizer = tz.Modular([p], getattr(tz.m, name)(tz.m.BFGS()))
    optimizer.step(closure_of(p, lambda p: (p * math.nan).sum()))
    assert optimizer.last_step.status == "not finite"
    assert p.tolist() == [1.0, 2.0]


def test_a_minimum_is_said_to_be_one():
    p = tensor([0.0, 0.0])
    for name in ("TrustCG", "Dogleg", "TrustExact", "CubicRegularization"):
        optimizer = tz.Modular([p], getattr(tz.m, name)())
        optimizer.step(closure_of(p, lambda p: (p**2).sum()))
        assert optimizer.last_step.status == "converged"
        assert p.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("method", [tz.m.TrustCG, tz.m.Dogleg, tz.m.TrustExact])
def test_a_loss_that_falls_to_minus_infinity(method):
    p = tensor([300.0])
    optimizer = tz.Modular([p], method(init=1e9, max_radius=1e9))
    before = p.detach().clone()
    # exp overflows at 709.8: of the radii 1e9/4ᵏ the first below 409.8 is that of k = 11, in the second step
    optimizer.step(lambda backward=True: -p.exp().sum())
    info = optimizer.last_step
    assert (info.status, info.falling, info.step_size) == ("loss falls to minus infinity", True, 0.0)
    assert torch.equal(p.detach(), before) and info.accepted_loss == pytest.approx(-math.exp(300), rel=1e-12)
    optimizer.step(lambda backward=True: -p.exp().sum())
    info = optimizer.last_step
    assert (info.status, info.falling) == ("ok", False)
    assert p.item() == pytest.approx(300 + 1e9 / 4**11, rel=1e-12)


def test_a_search_that_fails_above_a_bound_does_not_call_the_loss_bottomless():
    p = tensor([1.0])
    optimizer = tz.Modular([p], tz.m.TrustCG(init=1e9, max_radius=1e9, max_attempts=2))
    optimizer.step(lambda backward=True: torch.where(p > -100, p, math.inf).sum())
    info = optimizer.last_step
    assert (info.status, info.falling, p.item()) == ("no decrease", False, 1.0)
