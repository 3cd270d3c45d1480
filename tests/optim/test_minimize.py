"""tz.minimize beside scipy, its results, its ways to end."""

import _thread
import math
import time

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import torchzero_core as tz

DIAGONAL = torch.logspace(0, 2, 100, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 10, generator=GENERATOR, dtype=torch.float64)
Y = (torch.rand(200, generator=GENERATOR, dtype=torch.float64) < torch.sigmoid(X.sum(1))).double()


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def beale(x):
    a, b = x
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def himmelblau(x):
    a, b = x
    return (a * a + b - 11) ** 2 + (a + b * b - 7) ** 2


def quadratic(x):
    return (DIAGONAL * (x - 1) ** 2).sum() / 2


def logistic(x):
    return nn.functional.binary_cross_entropy_with_logits(X @ x, Y) + 1e-3 * (x @ x)


START = {
    rosenbrock: [-1.2, 1.0],
    beale: [1.0, 1.0],
    himmelblau: [0.0, 0.0],
    quadratic: [0.0] * 100,
    logistic: [0.0] * 10,
}
#: Methods with scipy's that they are measured by.
PEERS = {None: "L-BFGS-B", "lbfgs": "L-BFGS-B", "bfgs": "BFGS", "cg": "CG", "newton-cg": "Newton-CG"}
OTHERS = ["dfp", "sr1", "newton", "nystrom-pcg", "trust-cg", "dogleg", "fdm"]


def start(problem, dtype=torch.float64):
    return torch.tensor(START[problem], dtype=dtype)


def by_scipy(problem, method, **options):
    def with_gradient(x):
        x = torch.tensor(x, requires_grad=True)
        loss = problem(x)
        loss.backward()
        return loss.item(), x.grad.numpy()

    return optimize.minimize(with_gradient, np.array(START[problem]), jac=True, method=method, options=options)


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        pytest.param(
            problem, method, id=f"{problem.__name__}-{method}", marks=() if (i + k) % 2 == 0 else pytest.mark.slow
        )
        for i, problem in enumerate(START)
        for k, method in enumerate([*PEERS, *OTHERS])
    ],
)
def test_the_same_minimum_as_scipy(problem, method):
    peer = by_scipy(problem, PEERS.get(method, "BFGS"), gtol=1e-5) if PEERS.get(method) != "Newton-CG" else None
    peer = by_scipy(problem, "Newton-CG") if peer is None else peer
    calls = 0

    def counted(x):
        nonlocal calls
        calls += 1
        return problem(x)

    result = tz.minimize(counted, start(problem), method)
    print(f"{problem.__name__}, {method}: {result.nfev} evaluations, scipy's {PEERS.get(method)}: {peer.nfev}")
    assert result.success and result.status == 0, result
    assert result.fun == pytest.approx(peer.fun, abs=1e-8)
    assert result.fun == problem(result.x).item()
    torch.testing.assert_close(result.x, torch.tensor(peer.x), atol=1e-3, rtol=1e-3)
    assert result.nfev == calls
    if method != "fdm":
        x = result.x.clone().requires_grad_()
        assert torch.equal(torch.autograd.grad(problem(x), x)[0], result.jac)
        assert result.grad_norm == result.jac.abs().max().item() <= 1e-5


def test_evaluations_beside_scipys():
    """The geometric mean of the ratios to scipy's; Newton-CG there counts neither gradients nor products."""
    for method, most in {"lbfgs": 1.1, "bfgs": 1.25, "cg": 1.1}.items():
        ratios = [tz.minimize(f, start(f), method).nfev / by_scipy(f, PEERS[method]).nfev for f in START]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(method, round(mean, 2))
        assert mean <= most


@pytest.mark.slow
@pytest.mark.parametrize(("method", "most"), [("adam", 1e-4), ("sgd", 1e-8), ("gd", 1e-4), ("spsa", 0.05)])
def test_methods_of_first_order(method, most):
    torch.manual_seed(0)
    result = tz.minimize(rosenbrock, start(rosenbrock), method, maxiter=4000)
    assert 0 <= result.fun < most


@pytest.mark.parametrize(("method", "most"), [("adam", 1e-2), ("sgd", 1e-8), ("gd", 1e-8), ("spsa", 0.5)])
def test_methods_of_first_order_come_down_from_170(method, most):
    torch.manual_seed(0)
    result = tz.minimize(himmelblau, start(himmelblau), method, maxiter=500)
    assert 0 <= result.fun < most


def test_a_point_is_evaluated_once():
    seen = []

    def noting(x):
        seen.append(tuple(x.tolist()))
        return rosenbrock(x)

    for method in ("lbfgs", "bfgs", "adam"):
        seen.clear()
        result = tz.minimize(noting, start(rosenbrock), method, maxiter=50)
        assert len(set(seen)) == len(seen) == result.nfev == result.njev


def test_newton_reuses_the_graph_of_the_gradient():
    result = tz.minimize(rosenbrock, start(rosenbrock), [tz.m.Newton(), tz.m.LR(1.0)], maxiter=7)
    assert result.nit == 6 and result.fun < 1e-15
    assert result.nfev == 8  # one a step, one at the end, and the first time that the graph was asked for


@pytest.mark.parametrize("problem", [rosenbrock, beale, himmelblau], ids=lambda f: f.__name__)
@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "cg", "newton", "newton-cg"])
def test_float32(problem, method):
    result = tz.minimize(problem, start(problem, torch.float32), method)
    assert result.success and result.fun < 1e-8
    assert result.x.dtype == torch.float32


# -- what x may be -----------------------------------------------------------------------------------------------------
def test_structures():
    x0 = {"a": torch.zeros(2), "b": [torch.ones(()), (torch.ones(1, 3),)]}

    def fun(x):
        return (x["a"] - 1).square().sum() + (x["b"][0] - 2) ** 2 + (x["b"][1][0] - 3).square().sum()

    result = tz.minimize(fun, x0)
    assert result.success
    torch.testing.assert_close(
        result.x, {"a": torch.ones(2), "b": [torch.tensor(2.0), (torch.full((1, 3), 3.0),)]}, atol=1e-4, rtol=0
    )
    assert result.jac["b"][1][0].shape == (1, 3)
    assert x0["a"].tolist() == [0, 0] and not x0["a"].requires_grad and x0["a"].grad is None
    assert not result.x["a"].requires_grad
    tensors = tz.minimize(lambda x: (x[0] - 1) ** 2 + (x[1] + 1) ** 2, [torch.zeros(()), torch.zeros(())])
    assert isinstance(tensors.x, list) and [round(t.item(), 4) for t in tensors.x] == [1.0, -1.0]
    numbers = tz.minimize(rosenbrock, [-1.2, 1.0])
    assert numbers.x.dtype == torch.float32
    array = tz.minimize(rosenbrock, np.array([-1.2, 1.0]))
    assert array.x.dtype == torch.float64


def test_a_tensor_that_requires_grad_stays_as_it_is():
    x0 = torch.tensor([-1.2, 1.0], requires_grad=True)
    x0.grad = torch.ones(2)
    assert tz.minimize(rosenbrock, x0).success
    assert x0.requires_grad and x0.grad.tolist() == [1, 1] and x0.tolist() == pytest.approx([-1.2, 1.0])


@pytest.mark.parametrize("takes", [True, False])
def test_a_model(takes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    model[0].bias.requires_grad_(False)
    frozen = model[0].bias.clone()
    model[2].bias.grad = torch.ones(1, dtype=torch.float64)
    target = torch.sin(X[:, :1])

    def with_model(net):
        return (net(X) - target).square().mean()

    first = with_model(model).item()
    result = tz.minimize(with_model if takes else lambda: with_model(model), model, maxiter=200)
    assert result.x is model
    assert with_model(model).item() == result.fun < first / 10
    assert set(result.jac) == {"0.weight", "2.weight", "2.bias"}
    assert torch.equal(model[0].bias, frozen) and not model[0].bias.requires_grad
    assert model[2].bias.grad.tolist() == [1] and model[0].weight.grad is None


@pytest.mark.parametrize(
    ("x0", "error", "text"),
    [
        (torch.tensor([1, 2]), TypeError, "int64, which has no gradient"),
        ("x", TypeError, "not str"),
        ([], ValueError, "no numbers"),
        ({}, ValueError, "no numbers"),
        (torch.zeros(0), ValueError, "no numbers"),
        (nn.Linear(2, 2).requires_grad_(False), ValueError, "all are frozen"),
    ],
)
def test_what_is_no_x0(x0, error, text):
    with pytest.raises(error, match=text):
        tz.minimize(lambda x: 0.0, x0)


@pytest.mark.parametrize(
    ("fun", "text"),
    [
        (lambda x: None, "returned None"),
        (lambda x: x, r"one real number, not a tensor of shape \(2,\)"),
    ],
)
def test_what_is_no_value(fun, text):
    with pytest.raises(TypeError, match=text):
        tz.minimize(fun, torch.zeros(2))


# -- without gradients -------------------------------------------------------------------------------------------------
def test_a_function_outside_torch():
    def fun(x):
        a, b = x.tolist()
        return (1 - a) ** 2 + 100 * (b - a * a) ** 2

    result = tz.minimize(fun, start(rosenbrock))
    assert result.success and result.fun < 1e-12 and result.njev == 0
    assert result.jac is None and result.grad_norm is None
    with pytest.raises(ValueError, match="does not depend on x differentiably"):
        tz.minimize(fun, start(rosenbrock), "lbfgs")
    torch.manual_seed(0)
    stepped = tz.minimize(
        lambda x: x.detach().square().sum().item(), torch.full((5,), 2.0), "spsa", lr=0.05, maxiter=400
    )
    assert stepped.fun < 0.5


def test_many_unknowns_without_gradients():
    result = tz.minimize(lambda x: x.detach().square().sum().item(), torch.ones(1001), maxiter=3)
    assert result.nfev == 3 * 3 + 1  # the point where it starts; SPSA's two, and the point where the step ends


# -- ends --------------------------------------------------------------------------------------------------------------
def test_limits():
    steps = tz.minimize(rosenbrock, start(rosenbrock), maxiter=5)
    assert (steps.nit, steps.status, steps.success) == (5, 1, False)
    assert steps.message == "Maximum number of iterations has been reached (5)."
    for method in (None, "bfgs", "newton", "adam", "fdm"):
        evaluations = tz.minimize(rosenbrock, start(rosenbrock), method, maxfev=17)
        assert (evaluations.nfev, evaluations.status, evaluations.success) == (17, 1, False), method
        assert evaluations.fun == rosenbrock(evaluations.x).item() < rosenbrock(start(rosenbrock)).item()
    begin = time.monotonic()

    def slow(x):
        time.sleep(0.01)
        return rosenbrock(x)

    timed = tz.minimize(slow, start(rosenbrock), "adam", maxtime=0.1)
    assert time.monotonic() - begin < 2 and timed.status == 1 and "0.1 s" in timed.message and timed.nfev > 1


def test_tolerances():
    loose = tz.minimize(rosenbrock, start(rosenbrock), gtol=1.0)
    assert loose.success and 1e-2 < loose.grad_norm <= 1.0
    short = tz.minimize(rosenbrock, start(rosenbrock), gtol=0, xtol=1e-2)
    assert short.success and short.message == "The last step is at most 0.01 of the length of the parameters."
    flat = tz.minimize(rosenbrock, start(rosenbrock), gtol=0, ftol=1e-3)
    assert flat.success and flat.message == "The loss has gone down by at most 0.001 in the last step."
    own = tz.minimize(rosenbrock, start(rosenbrock), stop=[tz.stopping.LossBelow(1.0)])
    assert own.success and own.fun <= 1.0 and own.nfev < 30
    assert tz.minimize(rosenbrock, torch.ones(2)).nit == 0


def test_a_search_that_finds_nothing():
    def lying(x):  # the gradient points uphill
        return (x.square().sum() * 2).detach() - x.square().sum() + x.square().sum().detach() * 0

    result = tz.minimize(lying, torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert result.status == 2 and not result.success and "precision loss" in result.message
    assert result.x.tolist() == [1, 2]


def test_not_finite():
    result = tz.minimize(lambda x: (x - 1).log().sum(), torch.zeros(2))
    assert (result.status, result.success, result.nit) == (3, False, 0)
    diverging = tz.minimize(lambda x: (x**4).sum(), torch.full((2,), 3.0), "sgd", lr=1.0)
    assert diverging.status == 3 and not diverging.success and diverging.fun == 162


def test_callback():
    seen = []

    def callback(result):
        seen.append((result.nit, result.fun))
        return len(seen) == 4

    result = tz.minimize(rosenbrock, start(rosenbrock), callback=callback)
    assert [n for n, _ in seen] == [1, 2, 3, 4] and sorted(seen, key=lambda s: -s[1]) == seen
    assert (result.status, result.nit, result.success) == (99, 4, False)

    def stop(result):
        raise StopIteration

    assert tz.minimize(rosenbrock, start(rosenbrock), callback=stop).nit == 1
    assert tz.minimize(rosenbrock, start(rosenbrock), callback=lambda result: None).success


@pytest.mark.parametrize("where", ["fun", "callback"])
def test_control_c_returns_the_best_point(where):
    def interrupt(n):
        if n == 20:
            _thread.interrupt_main()
            time.sleep(0.01)

    calls = []

    def fun(x):
        calls.append(1)
        interrupt(len(calls) if where == "fun" else 0)
        return rosenbrock(x)

    def callback(result):
        interrupt(result.nit if where == "callback" else 0)

    result = tz.minimize(fun, start(rosenbrock), callback=callback)
    assert result.status == 98 and not result.success and "Interrupted" in result.message
    assert result.fun == rosenbrock(result.x).item() < 2


def test_an_error_in_fun_comes_through():
    model = nn.Linear(2, 1)
    model.weight.grad = torch.zeros(1, 2)
    calls = []

    def fun(net):
        calls.append(1)
        if len(calls) == 5:
            raise ArithmeticError("fifth")
        return (net(torch.ones(1, 2)) - 1e3).square().sum().sqrt()

    with pytest.raises(ArithmeticError, match="fifth"):
        tz.minimize(fun, model, "adam")
    assert model.weight.grad.tolist() == [[0, 0]] and model.weight.isfinite().all()


def test_a_random_function_is_not_remembered():
    generator = torch.Generator().manual_seed(0)

    def fun(x):
        return (x - 1).square().sum() + 0.1 * torch.randn((), generator=generator)

    result = tz.minimize(fun, torch.zeros(3), "adam", lr=0.05, maxiter=300, deterministic=False)
    assert result.nfev == result.nit + 1
    torch.testing.assert_close(result.x, torch.ones(3), atol=0.05, rtol=0)


def noisy():
    generator = torch.Generator().manual_seed(0)
    drawn = []

    def fun(x):
        drawn.append(x.detach().clone())
        return ((x - 1 + 0.1 * torch.randn(3, generator=generator)) ** 2).sum()

    return fun, drawn


@pytest.mark.parametrize(("method", "each"), [("adam", 1), ("sgd", 1), ("spsa", 3)])
def test_a_random_function_is_evaluated_as_often_as_a_training_loop_does(method, each):
    fun, drawn = noisy()
    result = tz.minimize(fun, torch.zeros(3), method, maxiter=50, deterministic=False)
    assert result.nfev == len(drawn) == each * 50 + 1


def test_no_value_of_a_random_function_is_used_at_two_steps():
    fun, drawn = noisy()
    chain = [tz.m.GradientAccumulation([tz.m.LR(0.1)], n=3)]
    tz.minimize(fun, torch.zeros(3), chain, maxiter=9, deterministic=False)
    assert len(drawn) == 10 and all(torch.equal(drawn[i], drawn[i - i % 3]) for i in range(9))


def test_a_random_function_that_stalls_has_not_converged():
    fun, _ = noisy()
    result = tz.minimize(fun, torch.zeros(3), deterministic=False, maxiter=400, gtol=0)
    assert not result.success and result.status in (1, 2)
    asked = tz.minimize(fun, torch.zeros(3), "adam", lr=0.1, deterministic=False, gtol=0, ftol=0.1)
    assert asked.success and asked.nit > 100


@pytest.mark.parametrize("n", [2, 10])
def test_finite_differences_take_as_many_evaluations_as_scipys(n):
    x0, calls = torch.full((n,), -1.2, dtype=torch.float64), []

    def fun(x):
        calls.append(1)
        return rosenbrock(torch.as_tensor(x)).item()

    ours = tz.minimize(lambda x: fun(x.detach()), x0)
    assert ours.success and ours.fun < 1e-9 and ours.nfev == len(calls)
    calls.clear()
    theirs = optimize.minimize(fun, x0.numpy(), method="L-BFGS-B", jac="3-point", options=dict(maxfun=10**5))
    assert theirs.success and ours.nfev < 1.5 * len(calls)


@pytest.mark.parametrize("size", [1e3, 1e9, 1e12])
def test_finite_differences_of_large_unknowns(size):
    def fun(x):
        return (((x.detach() - 3 * size) / size) ** 2).sum().item() * size

    result = tz.minimize(fun, torch.tensor([size, -size], dtype=torch.float64))
    assert result.success
    torch.testing.assert_close(result.x, torch.full((2,), 3 * size, dtype=torch.float64), rtol=1e-6, atol=0)


def test_values_without_gradients_are_not_evaluated_twice_at_a_point():
    seen = []

    def fun(x):
        seen.append(tuple(x.tolist()))
        return rosenbrock(x.detach()).item()

    tz.minimize(fun, start(rosenbrock), "spsa", maxiter=20)
    assert len(set(seen)) == len(seen) == 61


# -- methods -----------------------------------------------------------------------------------------------------------
def test_chains_and_names():
    chain = tz.minimize(rosenbrock, start(rosenbrock), [tz.m.BFGS(), tz.m.StrongWolfe()])
    named = tz.minimize(rosenbrock, start(rosenbrock), "BFGS")
    assert torch.equal(chain.x, named.x) and chain.nfev == named.nfev
    single = tz.minimize(quadratic, start(quadratic), tz.m.StrongWolfe(), maxiter=3)
    assert single.nit == 3
    lbfgs = tz.minimize(rosenbrock, start(rosenbrock), "L-BFGS")
    assert torch.equal(lbfgs.x, tz.minimize(rosenbrock, start(rosenbrock)).x)
    fast = tz.minimize(quadratic, start(quadratic), "adam", lr=0.1, maxiter=20)
    assert fast.fun < tz.minimize(quadratic, start(quadratic), "adam", lr=0.001, maxiter=20).fun


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(method="nelder-mead"), "no method 'nelder-mead'; it has lbfgs, bfgs"),
        (dict(method="bgfs"), "Did you mean 'bfgs'"),
        (dict(method="bfgs", lr=0.1), "takes no lr"),
        (dict(method=[tz.m.Adam()], lr=0.1), "a chain says it itself"),
        (dict(bounds=[(0, 1)]), "bounds has 1 pairs, and x has 2 elements"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ValueError, match=text):
        tz.minimize(rosenbrock, torch.zeros(2), **options)


def test_adam_then_lbfgs():
    chain = tz.m.SwitchWhen(
        [tz.m.Adam(), tz.m.LR(0.05)],
        [tz.m.LBFGS(), tz.m.StrongWolfe()],
        rules=tz.stopping.MaxSteps(50) | tz.stopping.LossChange(1e-3, patience=10),
    )
    result = tz.minimize(rosenbrock, start(rosenbrock), chain)
    assert result.success and result.fun < 1e-10 and 30 < result.nit < 100


def test_it_prints(capsys):
    tz.minimize(rosenbrock, start(rosenbrock), disp=True)
    text = capsys.readouterr().err
    assert text.startswith("step 1, f ") and text.endswith("The norm of the gradient is at most 1e-05.\n")
    assert len(text.splitlines()) < 10
    result = tz.minimize(rosenbrock, start(rosenbrock))
    assert capsys.readouterr().err == ""
    assert "nfev: 44" in repr(result) and "success: True" in repr(result)


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "cg"])
@pytest.mark.parametrize("fun", [lambda x: -x.square().sum(), lambda x: x.sum(), lambda x: -x.exp().sum()])
def test_a_loss_without_a_lower_bound(fun, method):
    begun = torch.tensor([1.0, 2.0], dtype=torch.float64)
    result = tz.minimize(fun, begun, method)
    assert result.status == 2 and not result.success and result.fun < -1e20 and result.x.isfinite().all()
    assert result.message == f"The loss seems to be unbounded below: it has fallen to {result.fun:.3g}."


@pytest.mark.parametrize(
    "method",
    [
        "newton",
        "newton-cg",
        "gd",
        tz.m.AdaptiveBacktracking(),
        tz.m.CubicRegularization(),
        tz.m.LevenbergMarquardt(tz.m.BFGS()),
        tz.m.TrustCG(max_radius=1e30),
        tz.m.Dogleg(max_radius=1e30),
        tz.m.TrustExact(max_radius=1e30),
        [tz.m.LR(3.0)],
    ],
    ids=str,
)
@pytest.mark.parametrize("fun", [lambda x: -x.square().sum(), lambda x: -x.exp().sum()], ids=["parabola", "exp"])
def test_whatever_the_method_a_loss_without_a_lower_bound_is_said_to_have_none(fun, method):
    begun = torch.tensor([1.0, 2.0], dtype=torch.float64)
    result = tz.minimize(fun, begun, method, maxiter=300)
    assert (result.status, result.success) == (2, False) and result.x.isfinite().all()
    assert result.message.startswith("The loss seems to be unbounded below"), result.message
    assert -math.inf < result.fun == float(fun(result.x)) < -1e3


def test_a_region_that_may_not_grow_creeps_and_the_message_says_that_it_went_on_falling():
    result = tz.minimize(lambda x: x.sum(), torch.zeros(2, dtype=torch.float64), "trust-cg", maxiter=200)
    assert (result.status, result.success, result.nit) == (1, False, 200)
    assert result.message == (
        "Maximum number of iterations has been reached (200); the loss fell as much in their second half as in the "
        "first: its minimum is far, if it has one."
    )
    result = tz.minimize(lambda x: x.square().sum(), torch.ones(2), "adam", lr=1e-2, maxiter=200, gtol=0)
    assert result.message == "Maximum number of iterations has been reached (200)."


def test_minus_infinity_is_not_the_best_point():
    def fun(x):
        return torch.where(x < 2, -x, -math.inf).sum()

    result = tz.minimize(fun, torch.zeros(1, dtype=torch.float64), "sgd", lr=0.5, maxiter=50)
    assert result.message == "The loss seems to be unbounded below: it has fallen to -inf."
    assert (result.status, result.success) == (2, False) and -2 < result.fun == -result.x.item() < 0


def test_a_search_that_fails_above_a_lower_bound_says_nothing_of_it():
    result = tz.minimize(lambda x: x.abs().sqrt().sum(), torch.tensor([1.0, 2.0], dtype=torch.float64), gtol=0)
    assert not result.success and "unbounded" not in result.message
