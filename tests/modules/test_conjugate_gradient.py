"""Nonlinear conjugate gradients against linear ones, scipy, and the formula by hand."""

import inspect
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse.linalg
import torch

import torchzero_core as tz
from tests.problems import closure_of

F64 = torch.float64


def spd(n, condition=50.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=generator))
    return (q * torch.logspace(0, math.log10(condition), n, dtype=F64)) @ q.T


class Exact(tz.m.LineSearch):
    """The minimiser along a line of a quadratic, from two slopes."""

    def search(self, update, var):
        (_, d0), (_, d1) = (self.evaluate_step_size_loss_and_derivative(a, var) for a in (0.0, 1.0))
        return d0 / (d0 - d1) if d0 != d1 else 0.0


class OwnFletcherReeves(tz.m.ConjugateGradientBase):
    """The worked example of the base."""

    def beta(self, g, g0, d0):
        return g.global_dot(g) / g0.global_dot(g0)


class OwnDaiYuan(tz.m.ConjugateGradientBase):
    """β = g'g/(d₀'y): shows the sign of d₀."""

    def beta(self, g, g0, d0):
        return g.global_dot(g) / d0.global_dot(g - g0)


BETAS = {
    "PolakRibiere": lambda g, g0, d0: g @ (g - g0) / (g0 @ g0),
    "OwnFletcherReeves": lambda g, g0, d0: g @ g / (g0 @ g0),
    "OwnDaiYuan": lambda g, g0, d0: g @ g / (d0 @ (g - g0)),
}
METHODS = {"PolakRibiere": tz.m.PolakRibiere, "OwnFletcherReeves": OwnFletcherReeves, "OwnDaiYuan": OwnDaiYuan}


def directions(name, gradients, clip=False, every=None, inner=lambda g: g):
    """What a method makes of a sequence of gradients, in numpy; and the factors."""
    out, factors, d = [], [], None
    for t, g in enumerate(gradients):
        beta = 0.0
        if t and not (every and t % every == 0):
            beta = BETAS[name](g, gradients[t - 1], d)
            beta = max(beta, 0.0) if clip else beta
        d = -inner(g) + (beta * d if beta else 0.0)
        out.append(-d)
        factors.append(beta)
    return np.array(out), factors


def feed(module, gradients, shapes=((2, 2), (3,))):
    """The updates that a module makes of gradients."""
    sizes = [math.prod(s) for s in shapes]
    params = [torch.zeros(s, dtype=F64, requires_grad=True) for s in shapes]
    optimizer = tz.Modular(params, module)
    out, before = [], np.zeros(sum(sizes))
    for g in gradients:
        for p, piece in zip(params, torch.tensor(g).split(sizes), strict=True):
            p.grad = piece.view(p.shape).clone()
        optimizer.step()
        now = np.concatenate([p.detach().reshape(-1).numpy() for p in params])
        out.append(before - now)
        before = now.copy()
    return np.array(out)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("PolakRibiere", "clip_beta=True, reset_interval=None, inner=None"),
        ("ConjugateGradientBase", "clip_beta=False, reset_interval=None, inner=None"),
    ],
)
def test_signature(name, parameters):
    found = inspect.signature(getattr(tz.m, name)).parameters.values()
    assert ", ".join(f"{p.name}={p.default!r}" for p in found) == parameters
    assert tz.m.ConguateGradientBase is tz.m.ConjugateGradientBase


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("interval", [None, 3, "auto"])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_directions_by_hand(name, clip, interval, factor):
    gradients = np.random.default_rng(1).normal(size=(20, 7))
    inner = {} if factor is None else dict(inner=tz.m.Mul(factor))
    every = 8 if interval == "auto" else interval
    expected, factors = directions(name, gradients, clip, every, lambda g: g * (factor or 1.0))
    if not clip and name != "OwnFletcherReeves" and every != 3:
        assert min(factors) < 0
    assert factors.count(0.0) >= (1 if every is None else math.ceil(20 / every))
    ours = feed(METHODS[name](clip_beta=clip, reset_interval=interval, **inner), gradients)
    np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_two_steps_by_hand():
    # g₀ = (1, 0), g = (1, 2): g'(g − g₀) = 4, g₀'g₀ = 1, so the update is (1, 2) + 4·(1, 0)
    ours = feed(tz.m.PolakRibiere(), np.array([[1.0, 0.0], [1.0, 2.0]]), ((2,),))
    np.testing.assert_array_equal(ours, [[1, 0], [5, 2]])
    # g = (½, 0): g'(g − g₀) = −¼
    gradients = np.array([[1.0, 0.0], [0.5, 0.0]])
    np.testing.assert_array_equal(feed(tz.m.PolakRibiere(), gradients, ((2,),)), [[1, 0], [0.5, 0]])
    np.testing.assert_array_equal(feed(tz.m.PolakRibiere(clip_beta=False), gradients, ((2,),)), [[1, 0], [0.25, 0]])


def test_a_gradient_of_zero_is_got_over():
    gradients = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    ours = feed(tz.m.PolakRibiere(), gradients, ((2,),))
    np.testing.assert_allclose(ours, [[1, 2], [0, 0], [1, 1], [3, 1]], atol=1e-15)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [2, 6, 11])
def test_on_a_quadratic_with_exact_search_it_is_linear_cg(name, n):
    a, b = spd(n), torch.linspace(1, -2, n, dtype=F64)
    iterates = [np.zeros(n)]
    scipy.sparse.linalg.cg(a.numpy(), b.numpy(), rtol=1e-15, maxiter=n, callback=lambda x: iterates.append(x.copy()))
    shapes = ((n - 1,), (1,))
    params = [torch.zeros(s, dtype=F64, requires_grad=True) for s in shapes]

    def loss(ps):
        x = torch.cat(ps)
        return x @ a @ x / 2 - b @ x

    optimizer = tz.Modular(params, METHODS[name](), Exact())
    closure = closure_of(params, loss)
    for expected in iterates[1:]:
        optimizer.step(closure)
        x = torch.cat([p.detach() for p in params]).numpy()
        np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(x, np.linalg.solve(a.numpy(), b.numpy()), rtol=1e-6, atol=1e-8)


def test_evaluations_on_rosenbrock_next_to_scipy():
    def rosen(x):
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    class Reached(Exception):
        pass

    ours, theirs = 0, 0
    for x0 in ([-1.2, 1.0], [0.5] * 6, [-0.5, 0.0, 1.5, 1.0]):
        points = set()
        p = torch.tensor(x0, dtype=F64, requires_grad=True)

        def loss(ps, points=points):
            value = rosen(ps[0])
            points.add(tuple(ps[0].tolist()))
            if value.detach() < 1e-8:
                raise Reached
            return value

        optimizer = tz.Modular([p], tz.m.PolakRibiere(), tz.m.StrongWolfe(0.003, c2=0.4))  # steps of this size fit
        with pytest.raises(Reached):
            for _ in range(500):
                optimizer.step(closure_of([p], loss))
        ours += len(points)
        seen = [0]

        def fun(x, seen=seen):
            seen[0] += 1
            t = torch.tensor(x, requires_grad=True)
            value = rosen(t)
            if value.detach() < 1e-8:
                raise Reached
            value.backward()
            return value.item(), t.grad.numpy()

        with pytest.raises(Reached):
            scipy.optimize.minimize(fun, x0, jac=True, method="CG", options=dict(gtol=0))
        theirs += seen[0]
    assert ours <= 1.6 * theirs, (ours, theirs)


def test_a_base_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match="has no beta"):
        feed(tz.m.ConjugateGradientBase(), np.ones((2, 7)))
