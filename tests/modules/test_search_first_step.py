"""What a search tries first, and what it makes of losses that differ by their rounding."""

import itertools
import math

import pytest
import torch

import torchzero_core as tz
from tests.problems import closure_of
from torchzero_core.modules.line_search.scalar import NO_MOVE, Point, backtrack, strong_wolfe

F64 = torch.float64


def quartic(ps):
    x = ps[0]
    return (torch.linspace(1, 4, len(x), dtype=x.dtype) * x**4).sum() + (x**2).sum()


def tried(*chain, steps=4, loss=quartic):
    """For each step: the first trial, the slope, the step size taken, the slope there, and the direction's length."""
    p = torch.tensor([1.0, -0.5, 2.0], dtype=F64, requires_grad=True)
    optimizer, points = tz.Modular([p], *chain), []
    directions = []
    optimizer.watch(lambda path, update: directions.append(update[0].clone()))

    def recorded(ps):
        points.append(ps[0].detach().clone())
        return loss(ps)

    out = []
    for _ in range(steps):
        points.clear()
        directions.clear()
        before = p.detach().clone()
        optimizer.step(closure_of([p], recorded))
        (g,) = torch.autograd.grad(loss([before.requires_grad_()]), before)
        u, before = directions[-2], before.detach()  # what the search was given
        first = float((before - points[1]) @ u / (u @ u)) if len(points) > 1 else math.nan  # it was uphill
        (end,) = torch.autograd.grad(loss([p]), p)
        out.append((first, float(u @ g), optimizer.last_step.step_size, float(u @ end), float(u.norm())))
    return out


FIRST = ["PolakRibiere", "HestenesStiefel", "ProjectedGradientMethod", "BFGS", "LBFGS", "SR1"]


@pytest.mark.parametrize("name", FIRST)
def test_the_first_step_of_all_brings_a_parabola_to_zero_within_a_length_of_one(name):
    for factor, offset in ((1.0, 0.0), (1e-6, 0.0), (1.0, 1e4), (1.0, -13.0)):
        loss = lambda ps, factor=factor, offset=offset: factor * quartic(ps) + offset  # noqa: E731
        chain = [getattr(tz.m, name)(), tz.m.StrongWolfe(adaptive=False)]
        ((first, slope, _, _, length),) = tried(*chain, steps=1, loss=loss)
        f = float(loss([torch.tensor([1.0, -0.5, 2.0], dtype=F64)]))
        assert first == pytest.approx(max(min(2 * abs(f) / slope, 1 / length), 1e-3 / length), rel=1e-6)


@pytest.mark.parametrize("name", ["PolakRibiere", "HestenesStiefel", "ProjectedGradientMethod"])
def test_behind_a_direction_without_length_a_step_is_as_long_as_the_last(name):
    rows = tried(getattr(tz.m, name)(), tz.m.StrongWolfe(0.5, adaptive=False), steps=7)
    compared = 0
    for (_, slope, alpha, left, length), (first, now, _, _, longer) in itertools.pairwise(rows):
        if now > 0 and alpha > 0:
            assert first == pytest.approx(alpha * length * (1 - left / slope) ** -0.5 / longer)
            compared += 1
    assert compared >= 3


def test_a_method_that_starts_anew_goes_no_farther_than_its_last_step():
    chain = [tz.m.BFGS(reset_interval=4), tz.m.StrongWolfe(adaptive=False)]
    rows = tried(*chain, steps=13, loss=lambda ps: quartic(ps) + 1e4)  # which would bring a parabola to zero far away
    shorter = 0
    for i in (4, 8, 12):
        _, slope, alpha, left, length = rows[i - 1]
        first, _, _, _, longer = rows[i]
        last = alpha * length * (1 - left / slope) ** -0.5 / longer
        assert first == pytest.approx(min(last, 1 / longer), rel=1e-5)
        shorter += last < 1 / longer
    assert shorter == 3


def valley(ps):
    """Curvatures of 1 to 1000, of which the first step sees the largest alone."""
    x = ps[0]
    return (torch.tensor([1000.0, 1.0, 3.0], dtype=x.dtype) * x**2).sum()


@pytest.mark.parametrize("name", ["BFGS", "LBFGS"])
def test_a_quasi_newton_step_goes_farther_where_two_ended_early(name):
    rows = tried(getattr(tz.m, name)(), tz.m.StrongWolfe(adaptive=False), steps=7, loss=valley)  # then BFGS is there
    minima, longer = [1.0, 1.0], 0
    for i, (first, slope, alpha, left, _) in enumerate(rows):
        if i:
            assert first == pytest.approx(min(max(1.0, min(minima[-2:])), 4.0), rel=1e-6)
            longer += first > 1
        minima.append(alpha / (1 - left / slope) if left < slope else alpha)
    assert longer >= 1


def test_a_direction_with_a_length_is_tried_as_it_is():
    for chain in (
        [tz.m.Newton(), tz.m.StrongWolfe(adaptive=False)],
        [tz.m.PolakRibiere(inner=tz.m.LBFGS()), tz.m.StrongWolfe(adaptive=False)],
        [tz.m.BFGS(), tz.m.ClipNorm(10), tz.m.StrongWolfe(adaptive=False)],
    ):
        assert [row[0] for row in tried(*chain)] == pytest.approx([1.0] * 4)


def test_a_chain_inside_another_module_is_a_chain_too():
    p, q = (torch.tensor([1.0, -0.5, 2.0], dtype=F64, requires_grad=True) for _ in range(2))
    plain = tz.Modular([p], tz.m.PolakRibiere(), tz.m.StrongWolfe())
    split = tz.Modular([q], tz.m.Split(lambda p: True, [tz.m.PolakRibiere(), tz.m.StrongWolfe()], None))
    for _ in range(5):
        plain.step(closure_of([p], quartic))
        split.step(closure_of([q], quartic))
    assert torch.equal(p, q)


def test_conjugate_gradients_get_a_minimum_along_the_line():
    for c2 in (0.9, 0.4):
        p = torch.tensor([1.0, -0.5, 2.0], dtype=F64, requires_grad=True)
        optimizer = tz.Modular([p], tz.m.PolakRibiere(), tz.m.StrongWolfe(c2=c2))
        (g,) = torch.autograd.grad(quartic([p]), p)
        optimizer.step(closure_of([p], quartic))
        (after,) = torch.autograd.grad(quartic([p]), p)
        assert abs(after @ g) <= 0.2 * (g @ g)


@pytest.mark.parametrize("minimum", [0.3, 0.056, 0.002])
def test_one_interpolation_ends_at_the_minimum_of_a_parabola(minimum):
    points = []

    def phi(a):
        points.append(a)
        return (a - minimum) ** 2, 2 * (a - minimum)

    found = strong_wolfe(phi, Point(0.0, minimum**2, -2 * minimum), c2=0.9)
    assert found.alpha == pytest.approx(minimum) and len(points) == 2


# -- rounding ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["LBFGS", "BFGS", "PolakRibiere"])
def test_strong_wolfe_ends_where_the_gradient_does(dtype, direction):
    p = torch.tensor([1e-3, 5.0], dtype=dtype, requires_grad=True)  # the loss at the minimum, (1, 1), is 2
    optimizer = tz.Modular([p], getattr(tz.m, direction)(), tz.m.StrongWolfe())
    for _ in range(120):
        optimizer.step(closure_of([p], lambda ps: (ps[0] - ps[0].log()).sum()))
    # the loss itself says nothing below a gradient of √eps
    assert (1 - 1 / p.detach()).norm() <= 8 * torch.finfo(dtype).eps


def test_backtracking_goes_on_where_the_decrease_is_below_rounding():
    p = torch.tensor([0.3, 5.0], requires_grad=True)
    optimizer = tz.Modular([p], tz.m.BFGS(), tz.m.Backtracking())
    for _ in range(120):
        optimizer.step(closure_of([p], lambda ps: (ps[0] - ps[0].log()).sum()))
    assert (1 - 1 / p.detach()).norm() <= 1e-5


@pytest.mark.parametrize("rise", [1e-6, 1e-13])
def test_a_loss_that_rose_is_no_success_even_by_rounding(rise):
    # the slope alone would do
    found = strong_wolfe(lambda a: (rise, -1e-9), Point(0.0, 0.0, -1.0), maxiter=2, maxzoom=3, rounding=1e-12)
    assert found.alpha == 0
    for fall in (0.0, 1e-13):
        assert strong_wolfe(lambda a, fall=fall: (-fall, -1e-9), Point(0.0, 0.0, -1.0), rounding=1e-12).alpha == 1


@pytest.mark.parametrize("search", ["Backtracking", "AdaptiveBacktracking", "StrongWolfe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_nothing_is_no_success(search, dtype):
    p = torch.tensor([1.0], dtype=dtype, requires_grad=True)
    module = getattr(tz.m, search)(init=1e-20)
    optimizer = tz.Modular([p], module)
    before = dict(module.global_state)
    optimizer.step(closure_of([p], lambda ps: (ps[0] ** 2).sum()))
    info = optimizer.last_step
    if search == "StrongWolfe":  # it grows until there is something
        assert info.step_size == 0.0 or p.item() < 1.0
        return
    assert (info.step_size, p.item(), info.status) == (0.0, 1.0, NO_MOVE)
    assert dict(module.global_state) == before
    assert info.evaluations == 2  # smaller ones are not tried


def test_backtracking_alone():
    assert backtrack(lambda a: 1.0, Point(0.0, 1.0, -1e-30), moves=lambda a: False).status == NO_MOVE
    assert backtrack(lambda a: 1.0, Point(0.0, 1.0, -1e-30)).alpha == 1.0
    assert backtrack(lambda a: 1.0 + 1e-9, Point(0.0, 1.0, -1e-10), rounding=1e-7).alpha == 1.0
    assert backtrack(lambda a: 1.0 + 1e-7, Point(0.0, 1.0, -1e-10), rounding=1e-7).alpha == 0.0


def test_the_first_step_is_remembered_by_a_resumed_run():
    p = torch.tensor([1.0, -0.5, 2.0], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.PolakRibiere(), tz.m.StrongWolfe())
    for _ in range(3):
        optimizer.step(closure_of([p], quartic))
    q = p.detach().clone().requires_grad_()
    other = tz.Modular([q], tz.m.PolakRibiere(), tz.m.StrongWolfe())
    other.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step(closure_of([p], quartic))
        other.step(closure_of([q], quartic))
    assert torch.equal(p, q) and p.isfinite().all()
