"""Line searches against closed forms, the conditions they promise, and scipy."""

import inspect
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchzero_core as tz
from torchzero_core.modules.line_search.scalar import Point, strong_wolfe

F64 = torch.float64


class Direction(tz.Module):
    """Replaces the update."""

    def __init__(self, *direction):
        super().__init__()
        self.direction = direction

    def step(self, var):
        var.update = [
            torch.as_tensor(d, dtype=p.dtype).expand_as(p).clone()
            for d, p in zip(self.direction, var.params, strict=True)
        ]
        return var


class Recorded:
    """A closure that remembers where it was evaluated."""

    def __init__(self, params, loss):
        self.params, self.loss, self.points, self.losses = params, loss, [], []

    def __call__(self, backward=True):
        self.points.append(tuple(x for p in self.params for x in p.detach().flatten().tolist()))
        loss = self.loss(*self.params)
        self.losses.append(loss.item())
        if backward:
            for p in self.params:
                p.grad = None
            loss.backward()
        return loss


def on_a_line(search, phi, steps=1, start=0.0):
    """Run a search on φ(α): the parameter is α itself when it starts at 0."""
    p = torch.tensor([start], dtype=F64, requires_grad=True)
    closure = Recorded([p], lambda p: phi(p[0]))
    optimizer = tz.Modular([p], Direction(-1.0), search)
    for _ in range(steps):
        optimizer.step(closure)
    return p.item(), [x for (x,) in closure.points], optimizer


def slope_of(phi, alpha):
    a = torch.tensor(alpha, dtype=F64, requires_grad=True)
    value = phi(a)
    return value.item(), torch.autograd.grad(value, a)[0].item()


def satisfies_wolfe(phi, alpha, c1, c2):
    """Both conditions, from the function alone."""
    (f0, d0), (f1, d1) = slope_of(phi, 0.0), slope_of(phi, alpha)
    return f1 <= f0 + c1 * alpha * d0 + 1e-14 * abs(f0) and abs(d1) <= c2 * abs(d0) * (1 + 1e-12)


# -- signatures --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LineSearch", "defaults=None, maxiter=None"),
        ("GridLineSearch", "start, end, num"),
        (
            "AdaptiveBacktracking",
            "init=1.0, beta=0.5, c=0.0001, maxiter=20, min_alpha=None, target_iters=1, nplus=2.0, scale_beta=0.0, "
            "try_negative=False",
        ),
        (
            "Backtracking",
            "init=1.0, beta=0.5, c=0.0001, maxiter=10, min_alpha=None, adaptive=True, try_negative=False",
        ),
        (
            "StrongWolfe",
            "init=1.0, c1=0.0001, c2=0.9, maxiter=25, maxzoom=10, expand=2.0, adaptive=True, fallback=False, "
            "plus_minus=False",
        ),
    ],
)
def test_signature(name, parameters):
    found = inspect.signature(getattr(tz.m, name)).parameters.values()
    assert ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in found) == parameters


# -- strong Wolfe ------------------------------------------------------------------------------------------------------
def _piecewise(a, beta=0.01, length=39):
    base = torch.where(a <= 1 - beta, 1 - a, torch.where(a >= 1 + beta, a - 1, (a - 1) ** 2 / (2 * beta) + beta / 2))
    return base + 2 * (1 - beta) / (length * math.pi) * torch.sin(length * math.pi / 2 * a)


def _yanai(b1, b2):
    def gamma(b):
        return math.sqrt(1 + b * b) - b

    return lambda a: gamma(b1) * ((1 - a) ** 2 + b2**2).sqrt() + gamma(b2) * (a**2 + b1**2).sqrt()


#: Moré and Thuente 1994, section 5: the functions with their tolerances.
MORE_THUENTE = {
    "1": (lambda a: -a / (a * a + 2), 1e-3, 0.1),
    "2": (lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 0.1, 0.2),  # 0.1 asks for slopes below rounding
    "3": (_piecewise, 0.0999, 0.1),
    "4": (_yanai(0.001, 0.001), 1e-3, 1.1e-3),
    "5": (_yanai(0.01, 0.001), 1e-3, 1.1e-3),
    "6": (_yanai(0.001, 0.01), 1e-3, 1.1e-3),
}


@pytest.mark.parametrize("name", MORE_THUENTE)
@pytest.mark.parametrize("init", [1e-3, 1e-1, 10.0, 1e3])
def test_strong_wolfe_on_the_functions_of_more_and_thuente(name, init):
    phi, c1, c2 = MORE_THUENTE[name]
    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(init, c1, c2, maxzoom=40), phi)
    assert optimizer.last_step.status == "ok" and optimizer.last_step.step_size == alpha
    assert satisfies_wolfe(phi, alpha, c1, c2)
    assert len(points) == len(set(points)) <= 32  # Moré and Thuente need up to 16 with their own interpolation


def random_function(seed):
    """A smooth function with many stationary points that falls at first."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=6), rng.uniform(0.1, 6, 6), rng.uniform(0, 2 * math.pi, 6)
    q = 10 ** rng.uniform(-3, 1)

    def phi(x, sign=1.0):
        sin = torch.sin if isinstance(x, torch.Tensor) else np.sin
        x = sign * x
        return 0.5 * q * x * x + sum(ai * sin(bi * x + ci) for ai, bi, ci in zip(a, b, c, strict=True))

    sign = -math.copysign(1.0, slope_of(phi, 0.0)[1])
    return lambda x: phi(x, sign)


@pytest.mark.parametrize("c2", [0.9, 0.1])
def test_strong_wolfe_on_random_functions_next_to_scipy(c2):
    ours, theirs, values, losses = 0, 0, [], []
    for seed in range(150):
        phi = random_function(seed)
        alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(c2=c2), phi)
        assert len(points) == len(set(points)), "one point was evaluated twice"
        assert optimizer.last_step.evaluations == len(points)
        assert optimizer.last_step.status == "ok", seed
        assert satisfies_wolfe(phi, alpha, 1e-4, c2)
        found = scipy.optimize.line_search(
            lambda x, phi=phi: float(phi(x[0])),
            lambda x, phi=phi: np.array([slope_of(phi, float(x[0]))[1]]),
            np.zeros(1),
            np.ones(1),
            c1=1e-4,
            c2=c2,
        )
        if found[0] is None:
            continue
        ours += len(points)
        theirs += found[1]
        values.append(phi(alpha))
        losses.append(found[3])
    assert len(losses) > 140
    assert ours <= 1.05 * theirs, (ours, theirs)
    assert np.mean(values) <= np.mean(losses) + 0.05 * np.std(losses)


@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.9]), st.floats(1e-3, 1e3))
def test_strong_wolfe_property(seed, c2, init):
    phi = random_function(seed)
    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(init, c2=c2, maxzoom=40), phi)
    assert optimizer.last_step.status == "ok" and satisfies_wolfe(phi, alpha, 1e-4, c2)
    assert alpha in points and len(points) == len(set(points))


def test_strong_wolfe_in_many_dimensions():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        a = torch.randn(8, 8, dtype=F64, generator=generator)
        x0, u = torch.randn(2, 8, dtype=F64, generator=generator)

        def loss(x, a=a):
            return ((a @ x).tanh() ** 2).sum() + 0.1 * (x**4).sum()

        p = x0.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(p), p)
        u = u if u @ g > 0 else -u
        optimizer = tz.Modular([p], Direction(u), tz.m.StrongWolfe(c2=0.3, maxzoom=30))
        optimizer.step(Recorded([p], loss))
        alpha = optimizer.last_step.step_size
        assert torch.equal(p.detach(), x0 - alpha * u)
        assert satisfies_wolfe(lambda t, x0=x0, u=u, loss=loss: loss(x0 - t * u), alpha, 1e-4, 0.3)


def test_strong_wolfe_expands_brackets_and_interpolates():
    _, points, _ = on_a_line(tz.m.StrongWolfe(c2=0.01, expand=3.0), lambda a: (a - 100) ** 2)
    assert points == [0, 1, 3, 9, 27, 81, 243, pytest.approx(100)]  # the cubic through a parabola is exact


def test_strong_wolfe_turns_back_where_the_loss_has_risen():
    # φ and φ' at 0, 1, 2: (0, −3), (−2, −2.9), (−1, −2.8): falling at all of them, with a rise between 1 and 2
    rows = [[[t**k for k in range(6)], [k * t ** max(k - 1, 0) for k in range(6)]] for t in (0.0, 1.0, 2.0)]
    c = np.linalg.solve(np.concatenate(rows), [0, -3, -2, -2.9, -1, -2.8])
    alpha, points, _ = on_a_line(tz.m.StrongWolfe(), lambda a: sum(ck * a**k for k, ck in enumerate(c)))
    assert points[:3] == [0, 1, 2] and all(1 < x < 2 for x in points[3:]) and 1 < alpha < 2


def test_strong_wolfe_stops_growing_after_maxiter():
    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(maxiter=4), lambda a: -a)
    assert points == [0, 1, 2, 4, 8] and alpha == 8
    assert optimizer.last_step.status == "curvature condition not met"


def test_strong_wolfe_takes_the_best_of_a_narrowing_that_runs_out():
    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(3.0, 1e-12, 1e-11, maxzoom=2), lambda a: (a - 1).cosh())
    values = {x: math.cosh(x - 1) for x in points}
    assert optimizer.last_step.status == "curvature condition not met"
    assert len(points) == 1 + 1 + 2 and alpha == min(values, key=values.get) > 0


def test_strong_wolfe_adapts_its_first_step_size():
    sign = [1.0]
    search = tz.m.StrongWolfe(init=0.5)
    p = torch.zeros(1, dtype=F64, requires_grad=True)
    closure = Recorded([p], lambda p: sign[0] * p.sum())  # uphill or downhill for ever
    optimizer = tz.Modular([p], Direction(-1.0), search)
    optimizer.step(closure)
    assert search.global_state["initial_scale"] == 0.5 and len(closure.points) == 1
    optimizer.step(closure)
    assert search.global_state["initial_scale"] == 0.25
    sign[0] = -1.0
    closure.points.clear()
    optimizer.step(closure)
    assert closure.points[1] == (0.125,)
    assert search.global_state["initial_scale"] == 0.25 * math.sqrt(2)
    for _ in range(5):
        optimizer.step(closure)
    assert search.global_state["initial_scale"] == 1.0
    off = tz.m.StrongWolfe(adaptive=False)
    on_a_line(off, lambda a: a, steps=2)
    assert "initial_scale" not in off.global_state


def test_plus_minus_turns_an_uphill_update_around():
    def phi(a):
        return (a + 3) ** 2

    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(c2=0.1, plus_minus=True), phi)
    assert alpha == pytest.approx(-3) and optimizer.last_step.step_size == alpha
    assert points == [0, -1, -2, -4, pytest.approx(-3)]
    assert satisfies_wolfe(lambda a: phi(-a), -alpha, 1e-4, 0.1)
    alpha, points, optimizer = on_a_line(tz.m.StrongWolfe(c2=0.1), phi)
    assert alpha == 0 and points == [0] and optimizer.last_step.status == "not a descent direction"


def test_fallback_backtracks_without_evaluating_anything_again():
    def phi(a):  # the decrease is within 1e-3
        return -a + 1e3 * a * a

    alpha, _, optimizer = on_a_line(tz.m.StrongWolfe(maxzoom=1), lambda a: phi(a) * torch.where(a > 0.01, 1e3, 1.0))
    assert alpha == 0 and optimizer.last_step.status == "no sufficient decrease"
    search = tz.m.StrongWolfe(maxzoom=1, fallback=True)
    alpha, points, optimizer = on_a_line(search, lambda a: phi(a) * torch.where(a > 0.01, 1e3, 1.0))
    assert alpha == 2**-10 and optimizer.last_step.status == "ok"  # 2^-9 = 0.00195 is uphill again
    assert len(points) == len(set(points)) and points.count(1.0) == 1
    assert search.global_state["beta_scale"] == 1.0 and search.global_state["initial_scale"] == 0.5


def test_c1_must_be_less_than_c2():
    with pytest.raises(ValueError, match="c1 < c2"):
        tz.m.StrongWolfe(c1=0.5, c2=0.5)


def test_strong_wolfe_gets_round_values_that_are_not_finite():
    def phi(a):  # NaN from 1 on, infinite from 0.7
        return -torch.log(1 - a) - 3 * a + torch.where(a > 0.7, math.inf, 0.0)

    alpha, _, optimizer = on_a_line(tz.m.StrongWolfe(init=64.0, c2=0.1, maxzoom=20), phi)
    assert optimizer.last_step.status == "ok" and alpha == pytest.approx(2 / 3, abs=0.05)


def test_the_scalar_search_is_usable_alone():
    found = strong_wolfe(
        lambda a: (math.cosh(a - 2), math.sinh(a - 2)), Point(0.0, math.cosh(2), -math.sinh(2)), c2=1e-3
    )
    assert found.status == "ok" and found.alpha == pytest.approx(2, abs=1e-2)


# -- backtracking ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("curvature", [0.3, 1.9, 7.0, 150.0])
@pytest.mark.parametrize(("init", "beta", "c"), [(1.0, 0.5, 1e-4), (3.0, 0.7, 0.3), (0.01, 0.1, 0.0)])
@pytest.mark.parametrize("kind", ["Backtracking", "AdaptiveBacktracking"])
def test_backtracking_on_a_parabola(kind, curvature, init, beta, c):
    # ½a(1−αa)² ≤ ½a − cαa² holds exactly for α ≤ 2(1 − c)/a
    p = torch.tensor([1.0], dtype=F64, requires_grad=True)
    closure = Recorded([p], lambda p: 0.5 * curvature * (p**2).sum())
    optimizer = tz.Modular([p], getattr(tz.m, kind)(init, beta, c, maxiter=30))
    optimizer.step(closure)
    k = max(0, math.ceil(math.log(2 * (1 - c) / (curvature * init)) / math.log(beta)))
    assert optimizer.last_step.step_size == pytest.approx(init * beta**k, rel=1e-12)
    assert optimizer.last_step.evaluations == len(closure.points) == k + 2
    assert optimizer.last_step.backward_evaluations == 1
    assert p.item() == pytest.approx(1 - init * beta**k * curvature, rel=1e-12)
    assert tuple(p.tolist()) in closure.points  # to the last bit where the loss was seen


@pytest.mark.parametrize("kind", ["Backtracking", "AdaptiveBacktracking"])
def test_min_alpha_and_maxiter_end_the_search(kind):
    def wall(a):
        return torch.where(a == 0, a, a + 1)

    build = getattr(tz.m, kind)
    alpha, points, optimizer = on_a_line(build(min_alpha=0.1), lambda a: wall(a) + a)
    assert points == [0, 1, 0.5, 0.25, 0.125] and alpha == 0
    assert optimizer.last_step.status == "no sufficient decrease" and optimizer.last_step.step_size == 0
    _, points, _ = on_a_line(build(maxiter=3), lambda a: wall(a) + a)
    assert points == [0, 1, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["Backtracking", "AdaptiveBacktracking"])
def test_try_negative_searches_the_other_way(kind):
    build = getattr(tz.m, kind)
    alpha, points, optimizer = on_a_line(build(maxiter=2, try_negative=True), lambda a: (a + 0.2) ** 2)
    assert points == [0, 1, 0.5, -1, -0.5, *([-0.25] if alpha == -0.25 else [])]
    assert alpha == 0 and optimizer.last_step.status == "no sufficient decrease"
    # (−0.25 + 0.2)² = 0.0025 ≤ 0.04 + c·min(−0.25·0.4, 0)
    alpha, points, optimizer = on_a_line(build(maxiter=3, try_negative=True), lambda a: (a + 0.2) ** 2)
    assert points == [0, 1, 0.5, 0.25, -1, -0.5, -0.25]
    assert alpha == -0.25 == optimizer.last_step.step_size and optimizer.last_step.status == "ok"
    # the condition asks for a share of the decrease that is predicted in the direction taken
    alpha, points, _ = on_a_line(build(c=0.9, maxiter=4, try_negative=True), lambda a: (a + 0.2) ** 2)
    assert all(x > 0 or (x + 0.2) ** 2 > 0.04 + 0.9 * 0.4 * x for x in points[1:] if x != alpha)


@pytest.mark.parametrize("kind", ["Backtracking", "AdaptiveBacktracking"])
def test_an_uphill_slope_does_not_allow_an_increase(kind):
    # φ(1) = 1e-5 is less than c·φ'(0) = 1e-4
    alpha, _, optimizer = on_a_line(getattr(tz.m, kind)(maxiter=8), lambda a: a * (a - 1) ** 2 + 1e-5 * a)
    assert alpha == 0 and optimizer.last_step.status == "no sufficient decrease"


class Turn:
    """A line that runs down or up, and the scales of a search after each step along it."""

    def __init__(self, search):
        self.p = torch.zeros(1, dtype=F64, requires_grad=True)
        self.search, self.slope = search, -1.0
        self.closure = Recorded([self.p], self.loss)
        self.start = 0.0
        self.optimizer = tz.Modular([self.p], Direction(-1.0), search)

    def loss(self, p):
        return self.slope * (p - self.start).sum()

    def __call__(self, slope):
        self.slope, self.start = slope, self.p.item()
        self.closure.points.clear()
        self.optimizer.step(self.closure)
        return [x - self.start for (x,) in self.closure.points[1:]]


def test_backtracking_adapts_beta():
    turn = Turn(tz.m.Backtracking(beta=0.6, maxiter=4))
    scale = 1.0
    for slope in (1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0):
        tried = turn(slope)
        assert tried == pytest.approx([(0.6 * scale) ** k for k in range(4 if slope > 0 else 1)])
        scale = scale / 1.5 if slope > 0 else min(scale * math.sqrt(1.5), 1.0)
        assert turn.search.global_state["beta_scale"] == pytest.approx(scale, rel=1e-14)
    turn = Turn(tz.m.Backtracking(beta=0.6, maxiter=4, adaptive=False))
    for _ in range(3):
        assert turn(1.0) == pytest.approx([0.6**k for k in range(4)])
    assert "beta_scale" not in turn.search.global_state


@pytest.mark.parametrize(("target", "nplus", "scale_beta"), [(1, 2.0, 0.0), (2, 1.5, 0.3)])
def test_adaptive_backtracking_adapts_its_first_step_size(target, nplus, scale_beta):
    init, beta, a = 0.7, 0.5, 3.0
    p = torch.tensor([1.0], dtype=F64, requires_grad=True)
    search = tz.m.AdaptiveBacktracking(init, beta, target_iters=target, nplus=nplus, scale_beta=scale_beta)
    optimizer = tz.Modular([p], search)
    closure = Recorded([p], lambda p: 0.5 * a * (p**2).sum())
    scale, backtracked = 1.0, 0
    for _ in range(12):
        optimizer.step(closure)
        alpha, k = init * scale, 0
        while alpha > 2 * (1 - 1e-4) / a:
            alpha, k = alpha * beta, k + 1
        assert optimizer.last_step.step_size == pytest.approx(alpha, rel=1e-12)
        assert optimizer.last_step.evaluations == k + 2
        wanted = scale * nplus**target if k == 0 else alpha / init / beta**target
        scale = wanted + scale_beta * (scale - wanted)
        backtracked += k
        assert search.global_state["initial_scale"] == pytest.approx(scale, rel=1e-12)
        assert search.global_state["beta_scale"] == 1.0
    assert backtracked > 0


def test_adaptive_backtracking_grows_while_the_first_step_size_will_do():
    turn = Turn(tz.m.AdaptiveBacktracking(init=0.5, target_iters=3, nplus=1.5, scale_beta=0.2))
    scale = 1.0
    for _ in range(4):
        assert turn(-1.0) == pytest.approx([0.5 * scale])
        scale = 0.2 * scale + 0.8 * scale * 1.5**3
        assert turn.search.global_state["initial_scale"] == pytest.approx(scale)


def test_adaptive_backtracking_after_a_failure():
    turn = Turn(tz.m.AdaptiveBacktracking(maxiter=3))
    assert turn(-1.0) == [1.0]
    assert turn(1.0) == pytest.approx([2.0, 1.0, 0.5])
    assert turn.search.global_state["initial_scale"] == 2.0
    assert turn.search.global_state["beta_scale"] == pytest.approx(1 / 1.5)
    assert turn(1.0) == pytest.approx([2.0, 2 / 3, 2 / 9])


# -- grid --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("start", "end", "num"), [(0, 4, 9), (-2.0, 2.0, 7), (0.3, 0.3, 1), (4, 0, 17)])
def test_grid_takes_the_best(start, end, num):
    phi = random_function(3)
    alpha, points, optimizer = on_a_line(tz.m.GridLineSearch(start, end, num), phi)
    grid = np.linspace(start, end, num)
    best = min([0.0, *grid], key=lambda a: float(phi(a)))
    assert alpha == pytest.approx(best)
    assert sorted(points) == pytest.approx(sorted({0.0, *grid}))
    assert optimizer.last_step.evaluations == len(points) and optimizer.last_step.backward_evaluations == 1


def test_a_loss_of_minus_infinity_is_not_the_best():
    alpha, _, optimizer = on_a_line(tz.m.GridLineSearch(0, 4, 5), lambda a: (a - 2) ** 2 - (a == 3) * math.inf)
    assert alpha == 0 and optimizer.last_step.status == "not finite"  # 0·∞ at the start
    alpha, _, _ = on_a_line(tz.m.GridLineSearch(0, 4, 5), lambda a: (a - 2) ** 2 - torch.where(a == 3, math.inf, 0.0))
    assert alpha == 2


def test_grid_stays_where_all_is_worse():
    alpha, _, optimizer = on_a_line(tz.m.GridLineSearch(0.5, 1, 3), lambda a: a)
    assert alpha == 0 and optimizer.last_step.status == "no sufficient decrease"


# -- failures ----------------------------------------------------------------------------------------------------------
SEARCHES = {
    "Backtracking": tz.m.Backtracking,
    "try_negative": lambda: tz.m.Backtracking(try_negative=True),
    "AdaptiveBacktracking": tz.m.AdaptiveBacktracking,
    "StrongWolfe": tz.m.StrongWolfe,
    "fallback": lambda: tz.m.StrongWolfe(fallback=True, plus_minus=True),
    "GridLineSearch": lambda: tz.m.GridLineSearch(0.1, 1.0, 4),
}
START = torch.tensor([1e8 + 0.3, -0.0, math.pi, 1e-300], dtype=F64)


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize(
    ("where", "value"),
    [(w, v) for w in ("elsewhere", "everywhere") for v in (math.nan, math.inf, -math.inf)] + [("elsewhere", 1e10)],
)
def test_a_search_that_fails_changes_no_bit(kind, value, where):
    p = START.clone().requires_grad_()

    def loss(p):
        same = bool((p.detach() == START).all())
        return p.sum() * 0.1 + (0.0 if same and where == "elsewhere" else value)

    optimizer = tz.Modular([p], SEARCHES[kind]())
    for _ in range(3):
        optimizer.step(Recorded([p], loss))
        assert p.detach().numpy().tobytes() == START.numpy().tobytes()
        assert optimizer.last_step.step_size == 0 and optimizer.last_step.status != "ok"
    if where == "everywhere":
        assert optimizer.last_step.status == "not finite" and optimizer.last_step.evaluations == 1


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["update", "gradient"])
def test_updates_and_slopes_that_are_not_finite_change_no_bit(kind, bad, what):
    p = START.clone().requires_grad_()
    if what == "update":
        optimizer = tz.Modular([p], Direction(torch.tensor([1.0, bad, 1.0, 1.0])), SEARCHES[kind]())
        closure = Recorded([p], lambda p: p.sum())
    else:
        p.register_hook(lambda g: g * bad)
        optimizer = tz.Modular([p], SEARCHES[kind]())
        closure = Recorded([p], lambda p: p.sum())
    optimizer.step(closure)
    assert p.detach().numpy().tobytes() == START.numpy().tobytes()
    assert optimizer.last_step.step_size == 0 and optimizer.last_step.status == "not finite"
    assert len(closure.points) == 1


@pytest.mark.parametrize("kind", SEARCHES)
def test_at_a_minimum_nothing_moves(kind):
    p = torch.zeros(3, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], SEARCHES[kind]())
    optimizer.step(Recorded([p], lambda p: (p**2).sum()))
    assert torch.equal(p.detach(), torch.zeros(3, dtype=F64))


@pytest.mark.parametrize("kind", SEARCHES)
def test_the_step_lands_where_the_loss_was_seen_and_no_point_is_seen_twice(kind):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(4, 3, dtype=F64, generator=generator)
        params = [torch.randn(3, dtype=F64, generator=generator).requires_grad_() for _ in range(2)]

        def loss(x, y, a=a):
            return ((a @ x).sin() ** 2).sum() + ((a @ y) ** 2).sum() ** 2 + (x * y).sum() ** 2

        closure = Recorded(params, loss)
        optimizer = tz.Modular(params, SEARCHES[kind]())
        optimizer.step(closure)
        at = tuple(x for p in params for x in p.tolist())
        assert len(closure.points) == len(set(closure.points)) == optimizer.last_step.evaluations
        assert at in closure.points
        assert closure.losses[closure.points.index(at)] <= closure.losses[0]


def test_the_gradient_of_the_start_is_left_in_place():
    p = torch.tensor([3.0], dtype=F64, requires_grad=True)
    tz.Modular([p], tz.m.StrongWolfe()).step(Recorded([p], lambda p: (p**2).sum()))
    assert p.grad.item() == 6.0


# -- the base class ----------------------------------------------------------------------------------------------------
class Halving(tz.m.LineSearch):
    """The worked example: halve until the loss is lower."""

    def __init__(self, init: float = 1.0, maxiter: int | None = None):
        super().__init__(dict(init=init), maxiter=maxiter)

    def search(self, update, var):
        phi = self.make_objective(var)
        alpha = self.settings[var.params[0]]["init"]
        while phi(alpha) > phi.start.loss:
            alpha /= 2
        return alpha


class Secant(tz.m.LineSearch):
    """By slopes alone, through the helpers that take a step size."""

    def search(self, update, var):
        (_, d0), (_, d1) = (self.evaluate_step_size_loss_and_derivative(a, var) for a in (0.0, 1.0))
        alpha = d0 / (d0 - d1)
        slope = self.make_objective_with_derivative(var)
        assert slope(1.0)[1] == d1
        assert self.evaluate_step_size(alpha, var, backward=True) == slope(alpha)[0]
        return alpha


def test_a_search_of_ones_own():
    p = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    closure = Recorded([p], lambda p: 3 * (p**2).sum())
    optimizer = tz.Modular([p], Halving(4.0))
    assert optimizer.step(closure).item() == 15.0
    # the loss is lower when |1 − 6α| < 1, so below a third
    assert optimizer.last_step.step_size == 0.25 and len(closure.points) == 6
    assert p.tolist() == [-0.5, -1.0]


def test_a_search_of_ones_own_by_slopes():
    p = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    closure = Recorded([p], lambda p: 3 * (p**2).sum())
    optimizer = tz.Modular([p], Secant())
    optimizer.step(closure)
    assert optimizer.last_step.step_size == pytest.approx(1 / 6, rel=1e-14)
    assert optimizer.last_step.evaluations == optimizer.last_step.backward_evaluations == 3
    assert p.detach().abs().max() < 1e-15


def test_maxiter_of_the_base_takes_the_best_seen():
    class Wandering(tz.m.LineSearch):
        def search(self, update, var):
            phi = self.make_objective(var)
            for alpha in (3.0, 0.75, 2.0, 1.0, 1.1):
                phi(alpha)
                phi(alpha)  # known, so it costs nothing
            raise AssertionError("the evaluations were not limited")

    alpha, points, optimizer = on_a_line(Wandering(maxiter=3), lambda a: (a - 1) ** 2)
    assert points == [0, 3, 0.75, 2] and alpha == 0.75 and optimizer.last_step.status == "ok"
    alpha, points, optimizer = on_a_line(Halving(16.0, maxiter=2), lambda a: a)
    assert points == [0, 16, 8] and alpha == 0 and optimizer.last_step.status == "no decrease within maxiter"


def test_a_search_of_ones_own_may_not_end_where_the_loss_is_not_finite():
    class Reckless(tz.m.LineSearch):
        def search(self, update, var):
            self.make_objective(var)(2.0)
            return 2.0

    alpha, _, optimizer = on_a_line(Reckless(), lambda a: -a + torch.where(a > 1, math.inf, 0.0))
    assert alpha == 0 and optimizer.last_step.status == "not finite"


def test_a_search_without_gradients_says_so():
    p = torch.ones(2, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.Backtracking())
    with pytest.warns(UserWarning, match="No parameter has a gradient"):
        optimizer.step(lambda backward=True: (p.detach() ** 2).sum())
    assert optimizer.last_step.status == "no parameter has a gradient" and p.tolist() == [1, 1]


def test_a_search_without_a_closure_or_a_method_says_so():
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"Backtracking has to evaluate the loss: call optimizer.step\(closure\)"):
        tz.Modular([p], tz.m.Backtracking()).step()
    with pytest.raises(NotImplementedError, match="LineSearch has no search"):
        on_a_line(tz.m.LineSearch(), lambda a: a)
