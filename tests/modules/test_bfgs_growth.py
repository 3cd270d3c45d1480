"""BFGS right before a search that corrects lengths: H grows while pairs ask for it, and nowhere else."""

import numpy as np
import pytest
import scipy.optimize
import torch

import torchzero_core as tz
from tests.modules.test_quasi_newton import closure_of, joined, smooth, split, start, wavy

F64 = torch.float64


def stretched(ps):
    """A quadratic with curvatures from 1 to 1e4, of which the first pair sees the largest."""
    x = torch.cat([p.reshape(-1) for p in ps])
    return (torch.logspace(0, 4, len(x), dtype=x.dtype) * x**2).sum() / 2


def pairs_and_h(chain, loss, steps, params=None):
    """Points and gradients at the start of each step, and H as the method has it then."""
    params = split(start()) if params is None else params
    optimizer = tz.Modular(params, *chain)
    module = next(m for m in optimizer.unrolled_modules if isinstance(m, tz.m.BFGS))
    xs, gs, hs = [], [], []
    for _ in range(steps):
        xs.append(joined(params))
        optimizer.step(closure_of(params, loss))
        gs.append(np.concatenate([g.reshape(-1).numpy() for g in gradient_at(xs[-1], loss)]))
        hs.append(module.global_state["H"].numpy().copy())
    return xs, gs, hs, optimizer, module


def gradient_at(x, loss):
    params = split(torch.as_tensor(x))
    return torch.autograd.grad(loss(params), params)


def written_out(xs, gs, *, grows, interval=None):
    """H at every step by the formulas as published, and by how much it grew."""
    n, h, fresh, content, out, growths = len(xs[0]), np.eye(len(xs[0])), True, 0, [], []
    for t in range(len(xs)):
        if t and interval and t % interval == 0:
            h, fresh = np.eye(n), True
        elif t:
            s, y = xs[t] - xs[t - 1], gs[t] - gs[t - 1]
            sy = s @ y
            if sy > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
                if fresh:
                    h, content = h * sy / (y @ y), 0
                elif grows and content < 2:
                    growth = s @ np.linalg.solve(h, s) / sy
                    content += growth <= 1
                    h = h * min(max(1.0, growth), 2.0)
                    growths.append(growth)
                fresh = False
                v = np.eye(n) - np.outer(y, s) / sy
                h = v.T @ h @ v + np.outer(s, s) / sy
        out.append(h)
    return out, growths


def assert_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * np.abs(b).max())


@pytest.mark.parametrize("interval", [None, 9])
@pytest.mark.parametrize("loss", [smooth, wavy, stretched])
def test_h_is_that_of_the_formulas(loss, interval):
    chain = [tz.m.BFGS(reset_interval=interval), tz.m.StrongWolfe()]
    xs, gs, hs, _, module = pairs_and_h(chain, loss, 12)
    expected, growths = written_out(xs, gs, grows=True, interval=interval)
    assert_close(hs, expected)
    if loss is stretched:
        assert max(growths) > 2
    if loss is smooth and interval is None:  # the first that does not ask for more is not yet the end of it
        assert [growth > 1 for growth in growths] == [False, True, False]
        assert int(module.global_state["content"]) == 2


@pytest.mark.parametrize(
    "chain",
    [
        lambda: [tz.m.BFGS(), tz.m.LR(0.02)],
        lambda: [tz.m.BFGS(), tz.m.Mul(1.0), tz.m.StrongWolfe()],
        lambda: [tz.m.BFGS(), tz.m.Backtracking()],
    ],
    ids=["LR", "something between", "Backtracking"],
)
def test_h_grows_nowhere_else(chain):
    xs, gs, hs, _, module = pairs_and_h(chain(), stretched, 10)
    assert_close(hs, written_out(xs, gs, grows=False)[0])
    assert "content" not in module.global_state


def test_a_given_h0_is_left_alone():
    xs, gs, hs, _, module = pairs_and_h([tz.m.BFGS(init_scale=1e-3), tz.m.StrongWolfe()], stretched, 10)
    other = scipy.optimize.BFGS(init_scale=1e-3)
    other.initialize(7, "inv_hess")
    for t in range(1, 10):
        other.update(xs[t] - xs[t - 1], gs[t] - gs[t - 1])
        theirs = other.get_matrix()
        np.testing.assert_allclose(hs[t], theirs, rtol=1e-7, atol=1e-9 * np.abs(theirs).max())
    assert "content" not in module.global_state


def test_a_chain_inside_another_module_is_a_chain_too():
    both = [tz.m.BFGS(), tz.m.StrongWolfe()]
    inside = pairs_and_h([tz.m.Split(lambda p: True, both, None)], stretched, 8)
    beside = pairs_and_h([tz.m.BFGS(), tz.m.StrongWolfe()], stretched, 8)
    for a, b in zip(inside[2], beside[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("after", [2, 3, 5, 8])
def test_a_resumed_run_goes_on_bit_for_bit(after):
    chain = lambda: [tz.m.BFGS(), tz.m.StrongWolfe()]  # noqa: E731
    params = split(start())
    _, _, _, optimizer, _ = pairs_and_h(chain(), stretched, after, params)
    twin = [p.detach().clone().requires_grad_() for p in params]
    other = tz.Modular(twin, *chain())
    other.load_state_dict(optimizer.state_dict())
    for _ in range(6):
        optimizer.step(closure_of(params, stretched))
        other.step(closure_of(twin, stretched))
    assert all(torch.equal(a, b) for a, b in zip(params, twin, strict=True))


def test_a_matrix_from_before_there_was_growth_goes_on_as_it_did():
    params = split(start())
    xs, gs, hs, optimizer, module = pairs_and_h([tz.m.BFGS(), tz.m.StrongWolfe()], stretched, 3, params)
    del module.global_state["content"]
    x, h = joined(params), hs[-1]
    optimizer.step(closure_of(params, stretched))
    s, y = x - xs[-1], np.concatenate([g.reshape(-1).numpy() for g in gradient_at(x, stretched)]) - gs[-1]
    v = np.eye(7) - np.outer(y, s) / (s @ y)
    assert_close([module.global_state["H"].numpy()], [v.T @ h @ v + np.outer(s, s) / (s @ y)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_growth_saves_evaluations_where_curvatures_differ(dtype):
    x = torch.randn(100, dtype=F64, generator=torch.Generator().manual_seed(1)).to(dtype)
    curvatures = torch.logspace(0, 3, 100, dtype=dtype)
    counts = []
    for between in ([], [tz.m.Identity()]):
        p, count = x.clone().requires_grad_(), 0
        optimizer = tz.Modular([p], tz.m.BFGS(), *between, tz.m.StrongWolfe(), deterministic=True)
        while count < 600 and float((curvatures * p.detach() ** 2).sum()) > 1e-6 * float((curvatures * x**2).sum()):
            optimizer.step(closure_of([p], lambda ps: (curvatures * ps[0] ** 2).sum() / 2))
            count += optimizer.last_step.evaluations
        counts.append(count)
    assert counts[0] < 0.9 * counts[1] < 540, counts
