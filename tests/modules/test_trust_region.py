"""Step sizes that grow and shrink, and scipy's search along a line."""

import pytest
import scipy.optimize
import torch

import torchzero_core as tz


def problem(start=(1.0, 2.0), curvature=(2.0, 10.0)):
    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(curvature, dtype=torch.float64)

    def closure(backward=True):
        loss = (a * p**2).sum() / 2
        if backward:
            p.grad = None
            loss.backward()
        return loss

    return p, closure


def simulated(steps, *, nplus=1.5, nminus=0.75, c=1e-4, init=1.0, backtrack=True, adaptive=True):
    """The rule in plain Python."""
    p, _ = problem()
    x, a = p.detach().clone(), torch.tensor([2.0, 10.0], dtype=torch.float64)
    alpha, factors, last, sizes = init, {True: 1.0, False: 1.0}, None, []
    for _ in range(steps):
        g = a * x
        f0, f1 = float((a * x**2).sum() / 2), float((a * (x - alpha * g) ** 2).sum() / 2)
        taken, size, success = alpha, alpha, None
        if f1 < f0 - c * alpha * float(g @ g):
            success = True
        elif f1 >= f0:
            success, taken = False, 0.0 if backtrack else alpha
        if success is not None:
            by = nplus if success else nminus
            factors[success] = factors[success] * by if adaptive and last is success else 1.0
            size, last = alpha * by * factors[success], success
        x, alpha = x - taken * g, size
        sizes.append(taken)
    return x, sizes


@pytest.mark.parametrize(
    "settings", [{}, dict(adaptive=False), dict(backtrack=False, init=0.01), dict(c=0.4, nplus=3.0)]
)
def test_against_the_rule(settings):
    p, closure = problem()
    optimizer = tz.Modular([p], tz.m.TrustRegion(**settings))
    sizes = []
    for _ in range(12):
        optimizer.step(closure)
        sizes.append(optimizer.last_step.step_size)
    x, expected = simulated(12, **settings)
    assert sizes == pytest.approx(expected) and len(set(sizes)) > 1
    torch.testing.assert_close(p.detach(), x, rtol=1e-10, atol=1e-12)


def test_one_evaluation_a_step_beyond_the_gradient():
    p, closure = problem()
    optimizer = tz.Modular([p], tz.m.TrustRegion())
    optimizer.step(closure)
    assert (optimizer.last_step.evaluations, optimizer.last_step.backward_evaluations) == (2, 1)
    assert optimizer.last_step.status == "no sufficient decrease" and p.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("method", ["brent", "golden", "bounded"])
def test_scipys_minimum_along_the_gradient(method):
    p, closure = problem()
    start, g = p.detach().clone(), torch.tensor([2.0, 20.0], dtype=torch.float64)
    settings = dict(bounds=[0.0, 1.0]) if method == "bounded" else {}
    optimizer = tz.Modular([p], tz.m.ScipyMinimizeScalar(method, **settings))
    optimizer.step(closure)
    exact = float(g @ g) / float((torch.tensor([2.0, 10.0], dtype=torch.float64) * g) @ g)
    assert optimizer.last_step.step_size == pytest.approx(exact, abs=1e-5)
    torch.testing.assert_close(p.detach(), start - optimizer.last_step.step_size * g, rtol=1e-12, atol=1e-12)
    a = torch.tensor([2.0, 10.0], dtype=torch.float64)
    found = scipy.optimize.minimize_scalar(
        lambda t: float((a * (start - t * g) ** 2).sum() / 2), method=method, **(settings or {})
    )
    assert optimizer.last_step.step_size == pytest.approx(found.x, abs=1e-6)


def test_the_errors_of_the_closure_are_its_own():
    p, closure = problem()
    calls = []

    def failing(backward=True):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("out of memory")
        return closure(backward)

    with pytest.raises(RuntimeError, match="out of memory"):
        tz.Modular([p], tz.m.ScipyMinimizeScalar()).step(failing)
    assert p.tolist() == [1.0, 2.0]


def test_downhill_for_ever_takes_the_best_point_seen():
    p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)

    def closure(backward=True):
        loss = p.sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular([p], tz.m.ScipyMinimizeScalar())
    optimizer.step(closure)
    assert optimizer.last_step.step_size > 100
