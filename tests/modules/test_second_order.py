"""NewtonCG against direct solves, orders of convergence, counts of evaluations."""

import inspect
import math
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch

import torchzero_core as tz
from benchmarks.closures import Products
from tests.problems import closure_of, rosenbrock
from torchzero_core.modules.second_order import newton_cg

F64 = torch.float64
METHODS = ["autograd", "forward", "central"]


def convex(params):
    """Strictly convex, not quadratic, in seven dimensions."""
    x = torch.cat([p.reshape(-1) for p in params])
    a = torch.linspace(0.5, 3.0, len(x), dtype=x.dtype)
    return (a * x * x).sum() / 2 + torch.log(torch.cosh(2 * (x - 1))).sum() + 0.2 * ((x[1:] - x[:-1]) ** 4).sum()


def parameters(x=None):
    x = torch.linspace(-1.2, 1.1, 7, dtype=F64) if x is None else x
    return [x[:4].view(2, 2).clone().requires_grad_(), x[4:].clone().requires_grad_()]


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense(loss, x):
    """Gradient and Hessian at a point."""

    def f(t):
        return loss([t])

    t = x.clone().requires_grad_()
    return torch.autograd.grad(f(t), t)[0], torch.autograd.functional.hessian(f, x)


def direction(params, module, loss, *before):
    """One step of a chain that ends with the module; the update and the outcome."""
    x = flat(params)
    optimizer = tz.Modular(params, *before, module)
    optimizer.step(closure_of(params, loss))
    return x - flat(params), optimizer.last_step


def test_signature():
    found = [p for p in inspect.signature(tz.m.NewtonCG).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert ", ".join(f"{p.name}={p.default!r}" for p in found) == (
        "maxiter=None, tol=0.0001, reg=1e-08, hvp_method='forward', h=0.001, warm_start=False, inner=None"
    )
    with pytest.raises(ValueError, match="hvp_method='exact'"):
        tz.m.NewtonCG(hvp_method="exact")


@pytest.mark.parametrize("reg", [0.0, 1e-8, 0.7])
@pytest.mark.parametrize("factor", [None, -2.0])
def test_the_direction_solves_the_regularised_system(reg, factor):
    params = parameters()
    g, h = dense(convex, flat(params))
    inner = {} if factor is None else dict(inner=tz.m.Mul(factor))
    found, info = direction(params, tz.m.NewtonCG(50, 1e-13, reg, "autograd", forcing=False, **inner), convex)
    expected = np.linalg.solve(h.numpy() + reg * np.eye(7), g.numpy()) * (factor or 1.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    assert info.status == "ok" and info.evaluations == 1 and info.backward_evaluations == 0


@pytest.mark.parametrize(("method", "order"), [("forward", 1), ("central", 2)])
def test_finite_differences_have_their_order(method, order):
    g, h = dense(convex, flat(parameters()))
    expected = torch.linalg.solve(h, g)
    errors = []
    for length in (2e-2, 1e-2, 5e-3):
        params = parameters()
        module = tz.m.NewtonCG(7, 1e-9, 0.0, method, length, forcing=False)
        errors.append(float((direction(params, module, convex)[0] - expected).norm()))
    rates = [math.log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([order] * 2, abs=0.25), (errors, rates)


@pytest.mark.parametrize("method", METHODS)
def test_evaluations(method):
    for k in (1, 2, 4):
        params = parameters()
        _, info = direction(params, tz.m.NewtonCG(k, 0.0, hvp_method=method), convex)
        each = {"autograd": 0, "forward": 1, "central": 2}[method]
        assert info.evaluations == 1 + k * each
        assert info.backward_evaluations == (0 if method == "autograd" else 1 + k * each)
    points = []
    params = parameters()

    def loss(ps):
        points.append(tuple(flat(ps).tolist()))
        return convex(ps)

    direction(params, tz.m.NewtonCG(7, 0.0, hvp_method=method), loss)
    assert len(points) == len(set(points))


@pytest.mark.parametrize("method", METHODS)
def test_behind_another_module_the_system_is_the_same(method):
    params = parameters()
    g, h = dense(convex, flat(params))
    module = tz.m.NewtonCG(50, 1e-12, 0.0, method, 1e-6, forcing=False)
    found, _ = direction(params, module, convex, tz.m.ClipValue(0.5))
    np.testing.assert_allclose(found, torch.linalg.solve(h, g.clamp(-0.5, 0.5)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_left_right(method):
    params = parameters()
    g, _ = dense(convex, flat(params))
    old = [torch.full_like(p, 7.0) for p in params]
    for p, value in zip(params, old, strict=True):
        p.grad = value
    direction(params, tz.m.NewtonCG(hvp_method=method), convex)
    if method == "autograd":  # the closure was not asked for gradients, so they are what they were
        assert all(p.grad is value and bool((value == 7).all()) for p, value in zip(params, old, strict=True))
    else:
        assert torch.allclose(flat([p.grad for p in params]), g, rtol=1e-13)


def test_autograd_gives_later_modules_the_gradient():
    params = parameters()
    g, _ = dense(convex, flat(params))
    closure = closure_of(params, convex)
    optimizer = tz.Modular(params, tz.m.NewtonCG(hvp_method="autograd"), tz.m.Grad(), tz.m.LR(1.0))
    x = flat(params)
    optimizer.step(closure)
    assert torch.allclose(x - flat(params), g, rtol=1e-13) and optimizer.last_step.evaluations == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_negative_curvature_still_goes_downhill(method, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(7, 7, dtype=F64, generator=generator)
    a = q + q.T - (0 if seed else 10) * torch.eye(7, dtype=F64)  # indefinite, or negative definite
    assert torch.linalg.eigvalsh(a)[0] < 0

    def saddle(params):
        x = torch.cat([p.reshape(-1) for p in params])
        return x @ a @ x / 2 + 0.01 * (x**4).sum()

    params = parameters(torch.randn(7, dtype=F64, generator=generator))
    g, _ = dense(saddle, flat(params))
    found, _ = direction(params, tz.m.NewtonCG(tol=1e-8, hvp_method=method), saddle)
    assert found @ g > 1e-3 * found.norm() * g.norm()
    params = parameters(torch.randn(7, dtype=F64, generator=generator))
    optimizer = tz.Modular(params, tz.m.NewtonCG(hvp_method=method), tz.m.StrongWolfe())
    losses = [float(optimizer.step(closure_of(params, saddle))) for _ in range(40)]
    assert all(b <= a + 1e-15 * abs(a) for a, b in pairwise(losses))  # a search allows for the rounding of the loss
    g, h = dense(saddle, flat(params))
    assert g.norm() < 1e-3 and torch.linalg.eigvalsh(h)[0] > -1e-6


def test_the_first_direction_of_negative_curvature_is_followed_by_hand():
    # g = (1, 0), H = diag(−2, 1): CG stops at d = g with d'Hd = −2, length ‖g‖²/2
    p = torch.tensor([-0.5, 0.0], dtype=F64, requires_grad=True)
    found, _ = direction(
        [p], tz.m.NewtonCG(reg=0.0, hvp_method="autograd"), lambda ps: -(ps[0][0] ** 2) + ps[0][1] ** 2 / 2
    )
    np.testing.assert_allclose(found, [0.5, 0.0], rtol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("search", [tz.m.StrongWolfe, tz.m.Backtracking, tz.m.AdaptiveBacktracking])
def test_rosenbrock(method, search):
    p = torch.tensor([-1.1, 2.5], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.NewtonCG(hvp_method=method, h=1e-5), search())
    for _ in range(40):
        optimizer.step(closure_of([p], rosenbrock))
    assert float(rosenbrock([p]).detach()) < 1e-15


def test_convergence_is_faster_than_linear():
    params = parameters()
    optimizer = tz.Modular(params, tz.m.NewtonCG(hvp_method="autograd"), tz.m.Backtracking())
    norms = []
    for _ in range(9):
        norms.append(float(dense(convex, flat(params))[0].norm()))
        optimizer.step(closure_of(params, convex))
    tail = [n for n in norms if n > 1e-12]
    ratios = [b / a for a, b in pairwise(tail)]
    assert norms[-1] < 1e-10 and ratios[-1] < 1e-3


def tolerances(monkeypatch):
    """What conjugate gradients are called with from now on, and the residuals that they leave."""
    seen, solver = [], newton_cg.cg

    def spy(operator, b, *args, **options):
        result = solver(operator, b, *args, **options)
        seen.append((options["tol"], float(b.norm()), result.residual_norm))
        return result

    monkeypatch.setattr(newton_cg, "cg", spy)
    return seen


def test_the_forcing_term_is_the_smaller_choice_of_eisenstat_and_walker(monkeypatch):
    def nearly_quadratic(ps):
        x = torch.cat([p.reshape(-1) for p in ps])
        return (torch.logspace(0, 2, 7, dtype=F64) * x * x).sum() / 2 + 0.3 * convex(ps)

    seen = tolerances(monkeypatch)
    params = parameters()
    optimizer = tz.Modular(params, tz.m.NewtonCG(hvp_method="autograd", reg=0.0), tz.m.Backtracking())
    norms = []
    for _ in range(5):
        norms.append(float(dense(nearly_quadratic, flat(params))[0].norm()))
        optimizer.step(closure_of(params, nearly_quadratic))
    np.testing.assert_allclose([norm for _, norm, _ in seen], norms, rtol=1e-12)
    assert seen[0][0] == 0.1 and all(residual <= eta * norm for eta, norm, residual in seen)
    one = [abs(norms[k] - seen[k - 1][2]) / norms[k - 1] for k in range(1, 5)]
    two = [0.9 * (norms[k] / norms[k - 1]) ** 2 for k in range(1, 5)]
    np.testing.assert_allclose([eta for eta, _, _ in seen[1:]], np.clip(np.minimum(one, two), 1e-4, 0.1), rtol=1e-5)
    assert 1e-4 < one[0] < two[0] < 0.1 and 1e-4 < two[1] < one[1] < 0.1  # either counts


def test_where_the_loss_is_quadratic_systems_are_solved_to_tol(monkeypatch):
    seen = tolerances(monkeypatch)
    a = torch.logspace(0, 2, 30, dtype=F64)
    p = torch.linspace(-2, 2, 30, dtype=F64).requires_grad_()
    optimizer = tz.Modular([p], tz.m.NewtonCG(tol=1e-6, hvp_method="autograd", reg=0.0), tz.m.LR(1.0))
    for _ in range(2):
        optimizer.step(closure_of([p], lambda ps: (a * ps[0] ** 2).sum() / 2))
    assert [eta for eta, _, _ in seen] == [0.1, 1e-6]
    assert float((a * p.detach()).norm()) < 1e-6 * seen[0][1]


@pytest.mark.parametrize(
    ("module", "first", "second"),
    [
        (lambda: tz.m.NewtonCG(tol=0.3, hvp_method="autograd"), 0.3, 0.3),  # tol is the smallest
        (lambda: tz.m.NewtonCG(tol=1e-3, hvp_method="autograd", forcing=False), 1e-3, 1e-3),
        (lambda: tz.m.NewtonCG(hvp_method="autograd"), 0.1, 0.1),  # negative curvature leaves no residual
    ],
)
def test_forcing_terms_at_a_maximum(monkeypatch, module, first, second):
    seen = tolerances(monkeypatch)
    p = torch.tensor([0.1, 0.2, 0.3], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], module(), tz.m.LR(0.1))
    for _ in range(2):
        optimizer.step(closure_of([p], lambda ps: torch.cos(ps[0]).sum()))
    assert [eta for eta, _, _ in seen] == [first, second]


def logistic():
    """A logistic regression of noisy labels, with its minimum by Newton's method."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(500, 40, dtype=F64, generator=generator)
    weights, noise = torch.randn(40, dtype=F64, generator=generator), torch.randn(500, dtype=F64, generator=generator)
    signs = torch.sign(rows @ weights / 40**0.5 + noise)

    def loss(ps):
        return torch.nn.functional.softplus(-signs * (rows @ ps[0])).mean() + 5e-4 * ps[0].square().sum()

    w = torch.zeros(40, dtype=F64)
    for _ in range(12):
        g, h = dense(loss, w)
        w = w - torch.linalg.solve(h, g)
    return loss, float(loss([w]))


def test_a_logistic_regression_takes_few_products():
    loss, minimum = logistic()
    used = {}
    for forcing in (True, False):
        p = torch.zeros(40, dtype=F64, requires_grad=True)
        chain = [tz.m.NewtonCG(hvp_method="autograd", forcing=forcing), tz.m.StrongWolfe()]
        optimizer, steps = tz.Modular([p], *chain, deterministic=True), 0
        with Products() as products:
            while float(loss([p]).detach()) - minimum > 1e-8:
                optimizer.step(closure_of([p], loss))
                steps += 1
        used[forcing] = steps, products.number
    assert used[True][0] <= 5 and used[True][1] < 0.6 * used[False][1], used


def test_forcing_saves_products():
    used = {}
    for forcing in (True, False):
        x = torch.linspace(-2, 2, 60, dtype=F64).requires_grad_()
        a = torch.logspace(0, 3, 60, dtype=F64)

        def loss(ps, a=a):
            return (a * ps[0] ** 2).sum() / 2 + (ps[0] ** 4).sum()

        optimizer = tz.Modular([x], tz.m.NewtonCG(tol=1e-8, h=1e-6, forcing=forcing), tz.m.Backtracking())
        used[forcing] = 0
        while dense(loss, x.detach())[0].norm() > 1e-6:
            optimizer.step(closure_of([x], loss))
            used[forcing] += optimizer.last_step.evaluations
    assert used[True] < 0.8 * used[False], used


def test_a_warm_start_saves_products():
    # the same system at each step: from the last solution nothing is left to do
    x = torch.linspace(-2, 2, 40, dtype=F64)
    a = torch.logspace(0, 2, 40, dtype=F64)
    used = {}
    for warm in (True, False):
        p = x.clone().requires_grad_()
        module = tz.m.NewtonCG(tol=1e-3, hvp_method="forward", warm_start=warm, forcing=False)
        optimizer = tz.Modular([p], module, tz.m.LR(1e-3))
        counts = []
        for _ in range(4):
            optimizer.step(closure_of([p], lambda ps: (a * ps[0] ** 2).sum() / 2))
            counts.append(optimizer.last_step.evaluations)
        used[warm] = counts
    assert used[True][0] == used[False][0] > 15
    assert all(w <= 5 < c for w, c in zip(used[True][1:], used[False][1:], strict=True)), used


def test_a_closure_without_a_graph_is_refused_for_autograd():
    for before in ([], [tz.m.ClipValue(1.0)]):
        p = torch.ones(2, requires_grad=True)

        def closure(backward=True, p=p):
            loss = (p**2).sum()
            if backward:
                p.grad = None
                loss.backward()
            return loss.detach()

        with pytest.raises(RuntimeError, match="hvp_method='forward'"):
            tz.Modular([p], *before, tz.m.NewtonCG(hvp_method="autograd")).step(closure)
        tz.Modular([p], tz.m.NewtonCG(hvp_method="forward"), tz.m.Backtracking()).step(closure)
        assert p.abs().max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_without_any_gradient_nothing_happens(method):
    for frozen in (True, False):
        p = torch.ones(2, requires_grad=not frozen)
        q = torch.ones(1, requires_grad=True)
        optimizer = tz.Modular([p], tz.m.NewtonCG(hvp_method=method))
        told = nullcontext() if frozen or method == "autograd" else pytest.warns(UserWarning, match="No parameter has")
        with told:
            optimizer.step(closure_of([p, q], lambda ps: (ps[1] ** 2).sum()))
        assert p.tolist() == [1, 1]


def test_autograd_behind_a_gradient_approximation_is_refused():
    # it would silently take exact derivatives where approximate ones were asked for
    p = torch.ones(2, requires_grad=True)
    chain = [tz.m.GaussianSmoothing(n_samples=2), tz.m.NewtonCG(hvp_method="autograd")]
    with pytest.raises(RuntimeError, match="hvp_method='forward'"):
        tz.Modular([p], *chain).step(lambda backward=True: (p**2).sum())


def test_products_that_are_not_finite_are_survived():
    p = torch.tensor([1.0, 1.0], dtype=F64, requires_grad=True)

    def loss(ps):
        at = ps[0].detach()
        return (ps[0] ** 2).sum() * (1.0 if bool((at == 1).all()) else math.nan)

    optimizer = tz.Modular([p], tz.m.NewtonCG(), tz.m.LR(0.1))
    optimizer.step(closure_of([p], loss))
    assert optimizer.last_step.status == "Hessian product not finite"
    assert p.tolist() == pytest.approx([0.8, 0.8])  # the plain gradient


# -- combinations of the reference's documentation ---------------------------------------------------------------------
def test_newton_on_smoothed_gradients():
    torch.manual_seed(0)
    params = parameters()
    optimizer = tz.Modular(
        params,
        tz.m.GaussianSmoothing(h=0.01, n_samples=10),
        tz.m.NewtonCG(hvp_method="forward"),
        tz.m.AdaptiveBacktracking(),
    )
    calls = []

    def closure(backward=True):
        calls.append(backward)
        return convex(params)

    first = float(optimizer.step(closure))
    for _ in range(60):
        last = float(optimizer.step(closure))
    x = torch.zeros(7, dtype=F64)
    for _ in range(30):
        g, h = dense(convex, x)
        x = x - torch.linalg.solve(h, g)
    best = float(convex([x]))
    assert last - best < 1e-3 * (first - best)
    assert not any(calls)


def test_rosenbrock_of_the_readme():
    w = torch.tensor([-1.1, 2.5], requires_grad=True)

    def closure(backward=True):
        x, y = w
        loss = (1 - x) ** 2 + 100 * (y - x**2) ** 2
        if backward:
            w.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular([w], tz.m.NewtonCG(), tz.m.StrongWolfe())
    losses = [float(optimizer.step(closure)) for _ in range(30)]
    assert losses[19] < 0.1 and losses[-1] < 1e-7 and losses == sorted(losses, reverse=True)


def network():
    torch.manual_seed(0)
    model = torch.nn.Linear(10, 1)
    inputs, targets = torch.randn(5, 10), torch.randn(5, 1)
    return model, lambda: torch.nn.functional.mse_loss(model(inputs), targets)


def test_first_example_of_the_readme():
    model, criterion = network()
    optimizer = tz.Modular(
        model.parameters(),
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(max_ema_growth=1.1),
        tz.m.WeightDecay(1e-4),
        tz.m.LR(1e-1),
    )
    first = float(criterion().detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = criterion()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05 * first


@pytest.mark.parametrize("amsgrad", [False, True])
def test_ways_to_spell_adam(amsgrad):
    def chains():
        yield [tz.m.Adam(amsgrad=amsgrad)]
        if not amsgrad:
            yield [tz.m.RMSprop(0.999, debiased=True, init="zeros", inner=tz.m.EMA(0.9, debiased=True))]
            yield [
                tz.m.DivModules(
                    tz.m.EMA(0.9, debiased=True), [tz.m.SqrtEMASquared(0.999, debiased=True), tz.m.Add(1e-8)]
                )
            ]
            yield [
                tz.m.DivModules(
                    [tz.m.EMA(0.9), tz.m.Debias(beta1=0.9, beta2=0.999)],
                    [tz.m.EMASquared(0.999), tz.m.Sqrt(), tz.m.Add(1e-8)],
                )
            ]
        yield [
            tz.m.DivModules(
                [tz.m.EMA(0.9), tz.m.Debias(beta1=0.9)],
                [
                    tz.m.Pow(2),
                    tz.m.EMA(0.999),
                    tz.m.AccumulateMaximum() if amsgrad else tz.m.Identity(),
                    tz.m.Sqrt(),
                    tz.m.Debias2(beta=0.999),
                    tz.m.Add(1e-8),
                ],
            )
        ]

    expected = parameters()
    torch_adam = torch.optim.Adam(expected, 0.05, amsgrad=amsgrad)
    for _ in range(20):
        torch_adam.step(closure_of(expected, convex))
    for chain in chains():
        params = parameters()
        optimizer = tz.Modular(params, *chain, tz.m.LR(0.05))
        for _ in range(20):
            optimizer.step(closure_of(params, convex))
        assert torch.allclose(flat(params), flat(expected), rtol=1e-6), chain
