"""Every formula of β against the published one, and on quadratics against linear conjugate gradients."""

import inspect
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import torchzero_core as tz
from tests.modules.test_conjugate_gradient import F64, Exact, closure_of, feed, spd

#: β from the gradient, the previous one and the previous descent direction.
BETAS = {
    "ConjugateDescent": lambda g, g0, d0: -(g @ g) / (d0 @ g0),
    "DaiYuan": lambda g, g0, d0: g @ g / (d0 @ (g - g0)),
    "FletcherReeves": lambda g, g0, d0: g @ g / (g0 @ g0),
    "HagerZhang": lambda g, g0, d0: ((g - g0) - 2 * d0 * ((g - g0) @ (g - g0)) / (d0 @ (g - g0))) @ g / (d0 @ (g - g0)),
    "HestenesStiefel": lambda g, g0, d0: g @ (g - g0) / (d0 @ (g - g0)),
    "HybridHS_DY": lambda g, g0, d0: max(0, min(g @ (g - g0) / (d0 @ (g - g0)), g @ g / (d0 @ (g - g0)))),
    "LiuStorey": lambda g, g0, d0: -(g @ (g - g0)) / (d0 @ g0),
    "PolakRibiere": lambda g, g0, d0: g @ (g - g0) / (g0 @ g0),
}
methods = pytest.mark.parametrize("name", BETAS)


@methods
def test_signature(name):
    shown = [f"{p.name}={p.default!r}" for p in inspect.signature(getattr(tz.m, name)).parameters.values()]
    expected = {
        "ConjugateDescent": ["inner=None", "clip_beta=False", "reset_interval=None"],
        "FletcherReeves": ["reset_interval='auto'", "clip_beta=False", "inner=None"],
        "PolakRibiere": ["clip_beta=True", "reset_interval=None", "inner=None"],
    }
    assert shown == expected.get(name, ["reset_interval=None", "clip_beta=False", "inner=None"])


@methods
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("interval", [None, 3, "auto"])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_directions(name, clip, interval, factor):
    gradients = np.random.default_rng(2).normal(size=(18, 7))
    every = 8 if interval == "auto" else interval
    expected, d = [], None
    for t, g in enumerate(gradients):
        beta = 0.0
        if t and not (every and t % every == 0):
            beta = BETAS[name](g, gradients[t - 1], d)
            beta = max(beta, 0.0) if clip else beta
        d = -(factor or 1.0) * g + (beta * d if beta else 0.0)
        expected.append(-d)
    inner = {} if factor is None else dict(inner=tz.m.Mul(factor))
    ours = feed(getattr(tz.m, name)(clip_beta=clip, reset_interval=interval, **inner), gradients)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@methods
@pytest.mark.parametrize("n", [2, 6, 11])
def test_on_a_quadratic_with_exact_search_it_is_linear_cg(name, n):
    a, b = spd(n), torch.linspace(1, -2, n, dtype=F64)
    iterates = [np.zeros(n)]
    scipy.sparse.linalg.cg(a.numpy(), b.numpy(), rtol=1e-15, maxiter=n, callback=lambda x: iterates.append(x.copy()))
    params = [torch.zeros(s, dtype=F64, requires_grad=True) for s in ((n - 1,), (1,))]

    def loss(ps):
        x = torch.cat(ps)
        return x @ a @ x / 2 - b @ x

    optimizer = tz.Modular(params, getattr(tz.m, name)(), Exact())
    for expected in iterates[1:]:
        optimizer.step(closure_of(params, loss))
        x = torch.cat([p.detach() for p in params]).numpy()
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(x, np.linalg.solve(a.numpy(), b.numpy()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["DaiYuan", "HybridHS_DY", "HagerZhang"])
def test_directions_point_downhill(name):
    # Dai and Yuan: with the Wolfe conditions, whatever the function; Hager and Zhang: d'g ≤ −⅞g'g, whatever the search
    p = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=F64, requires_grad=True)
    search = tz.m.StrongWolfe(c2=0.4) if name != "HagerZhang" else tz.m.LR(1e-4)
    optimizer = tz.Modular([p], getattr(tz.m, name)(), search)
    seen = []
    optimizer.watch(lambda path, update: seen.append(update[0].clone()) if path.endswith(name) else None)

    def rosen(ps):
        x = ps[0]
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    for _ in range(40):
        (g,) = torch.autograd.grad(rosen([p]), p)
        optimizer.step(closure_of([p], rosen))
        slope = float(seen[-1] @ g / (g @ g))
        assert slope > 0 if name != "HagerZhang" else slope >= 7 / 8 - 1e-9


@methods
def test_it_finds_a_minimum(name):
    p = torch.tensor([-1.2, 1.0], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], getattr(tz.m, name)(reset_interval=5), tz.m.StrongWolfe(c2=0.1), deterministic=True)
    closure = closure_of([p], lambda ps: (1 - ps[0][0]) ** 2 + 100 * (ps[0][1] - ps[0][0] ** 2) ** 2)
    for _ in range(120):
        optimizer.step(closure)
    assert closure(False).item() < 1e-10 and math.isfinite(p.sum().item())
