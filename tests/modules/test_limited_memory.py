"""The limited-memory methods against recursions in numpy, and histories that change their length."""

import copy

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.modules.test_quasi_newton import (
    F64,
    closure_of,
    dense_inverse,
    joined,
    smooth,
    split,
    start,
    trajectory,
    wavy,
)


# -- LSR1 --------------------------------------------------------------------------------------------------------------
def lsr1_in_numpy(pairs, n, tol):
    """H = I + Σ ww'/w'y, pair by pair."""
    H = np.eye(n)
    for s, y in pairs:
        w = s - H @ y
        if abs(w @ y) > tol * np.linalg.norm(w) * np.linalg.norm(y):
            H = H + np.outer(w, w) / (w @ y)
    return H


@pytest.mark.parametrize("history", [1, 3, 10])
@pytest.mark.parametrize("tol", [1e-8, 0.3])
@pytest.mark.parametrize(("loss", "lr"), [(smooth, 0.1), (wavy, 0.05)])
@pytest.mark.parametrize("second", [True, False])
def test_lsr1_directions_are_those_of_the_dense_recursion(history, tol, loss, lr, second):
    params = split(start())
    module = tz.m.LSR1(history, tol, scale_second=second)
    xs, gs = trajectory(params, tz.Modular(params, module, tz.m.LR(lr)), loss, 16)
    for k in range(16):
        pairs = [(xs[i] - xs[i - 1], gs[i] - gs[i - 1]) for i in range(1, k + 1)][-history:]
        direction = lsr1_in_numpy(pairs, 7, tol) @ gs[k]
        if second and k == 1:
            direction = direction / max(1, np.abs(gs[k]).sum())
        np.testing.assert_allclose(
            (xs[k] - xs[k + 1]) / lr, direction, rtol=1e-6, atol=1e-8 * np.abs(direction).max(), err_msg=str(k)
        )


def test_lsr1_averages_and_counts_like_lbfgs():
    params = split(start())
    module = tz.m.LSR1(params_beta=0.3, grads_beta=0.6, update_freq=2, inner=tz.m.Mul(2.0), scale_second=False)
    xs, gs = trajectory(params, tz.Modular(params, module, tz.m.LR(0.05)), smooth, 12)
    pairs, ax, ag = [], xs[0], gs[0]
    for k in range(12):
        before = ax, ag
        ax, ag = (0.3 * ax + 0.7 * xs[k], 0.6 * ag + 0.4 * gs[k]) if k else (ax, ag)
        if k and k % 2 == 0:
            pairs.append((ax - before[0], ag - before[1]))
        direction = lsr1_in_numpy(pairs, 7, 1e-8) @ (2 * gs[k])
        np.testing.assert_allclose((xs[k] - xs[k + 1]) / 0.05, direction, rtol=1e-6, atol=1e-9)


def test_lsr1_with_full_memory_is_sr1():
    ours, theirs = split(start()), split(start())
    a = tz.Modular(ours, tz.m.LSR1(50, scale_second=False), tz.m.LR(0.1))
    b = tz.Modular(theirs, tz.m.SR1(init_scale=1.0, tol=1e-8, scale_first=False, tol_reset=False), tz.m.LR(0.1))
    for _ in range(15):
        a.step(closure_of(ours, smooth))
        b.step(closure_of(theirs, smooth))
        np.testing.assert_allclose(joined(ours), joined(theirs), rtol=1e-7, atol=1e-9)


def test_lsr1_goes_on_where_its_direction_pointed_uphill():
    p = torch.tensor([-1.1, 2.5], dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LSR1(), tz.m.StrongWolfe())
    seen = set()
    for _ in range(80):
        optimizer.step(closure_of([p], lambda ps: (1 - ps[0][0]) ** 2 + 100 * (ps[0][1] - ps[0][0] ** 2) ** 2))
        seen.add(optimizer.last_step.status)
    assert "not a descent direction" in seen
    assert (p - 1).abs().max() < 1e-5


# -- OnlineLBFGS -------------------------------------------------------------------------------------------------------
def batch_gradient(x, k):
    """The gradient of a loss that is another one at each step."""
    a = np.linspace(0.5, 3.0, len(x)) * (1 + 0.3 * np.sin(np.arange(len(x)) + k))
    return a * (x - np.cos(k)) + (x - 1) ** 3


def batch_closure(params, k, calls):
    def closure(backward=True):
        x = torch.cat([p.reshape(-1) for p in params])
        a = torch.linspace(0.5, 3.0, len(x), dtype=F64) * (1 + 0.3 * torch.sin(torch.arange(len(x), dtype=F64) + k))
        loss = (a * (x - np.cos(k)) ** 2).sum() / 2 + ((x - 1) ** 4).sum() / 4
        calls.append(joined(params))
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("settings", [{}, dict(history_size=2), dict(damping=True, eigval_bounds=(0.9, 2))], ids=str)
def test_online_lbfgs_takes_both_gradients_from_one_batch(when, settings):
    params, calls = split(start()), []
    optimizer = tz.Modular(params, tz.m.OnlineLBFGS(sample_grads=when, **settings), tz.m.LR(0.1))
    x, pairs, before = start().numpy(), [], None
    for k in range(15):
        if when == "before" and before is not None:
            pairs.append((x - before, batch_gradient(x, k) - batch_gradient(before, k)))
        damped = []
        for s, y in pairs:
            if settings.get("damping"):
                curvature, tau = s @ y / (s @ s), 0.9
                tau = min(tau, 0.1 / (1 - curvature)) if curvature < 0.9 else tau
                tau = min(tau, 1 / (curvature - 1)) if curvature > 2 else tau
                y = tau * y + (1 - tau) * s
            damped.append((s, y))
        g = batch_gradient(x, k)
        direction = dense_inverse(damped[-settings.get("history_size", 10) :], 7) @ g
        if not pairs:
            direction = direction / max(1, np.abs(g).sum())
        calls.clear()
        optimizer.step(batch_closure(params, k, calls))
        before, x = x, x - 0.1 * direction
        if when == "after":
            pairs.append((x - before, batch_gradient(x, k) - batch_gradient(before, k)))
        np.testing.assert_allclose(joined(params), x, rtol=1e-8, atol=1e-10)
        assert len(calls) == (1 if when == "before" and k == 0 else 2) == optimizer.last_step.evaluations


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_closure_that_fails_leaves_everything_as_it_was(when):
    params, twin = split(start()), split(start())
    a, b = (tz.Modular(ps, tz.m.OnlineLBFGS(sample_grads=when), tz.m.LR(0.1)) for ps in (params, twin))
    for k in range(4):
        a.step(batch_closure(params, k, []))
        b.step(batch_closure(twin, k, []))
    inner, calls = batch_closure(params, 4, []), []

    def failing(backward=True):
        calls.append(backward)
        if len(calls) == 2:
            raise KeyError("data")
        return inner(backward)

    before = joined(params)
    with pytest.raises(KeyError):
        a.step(failing)
    np.testing.assert_array_equal(joined(params), before)
    for k in range(4, 8):
        a.step(batch_closure(params, k, []))
        b.step(batch_closure(twin, k, []))
    if when == "before":
        np.testing.assert_allclose(joined(params), joined(twin), rtol=1e-12)
    assert np.isfinite(joined(params)).all()


def test_online_lbfgs_needs_a_closure_and_the_parameters_themselves():
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"OnlineLBFGS has to evaluate"):
        tz.Modular([p], tz.m.OnlineLBFGS()).step()
    optimizer = tz.Modular([p], tz.m.VectorProjection(tz.m.OnlineLBFGS(sample_grads="after"), project_params=True))
    with pytest.raises(RuntimeError, match="use sample_grads='before'"):
        optimizer.step(closure_of([p], smooth))
    optimizer = tz.Modular([p], tz.m.VectorProjection(tz.m.OnlineLBFGS(), project_params=True), tz.m.LR(0.3))
    for _ in range(40):
        optimizer.step(closure_of([p], lambda ps: (ps[0] ** 2 * torch.tensor([1.0, 3.0])).sum()))
    assert p.abs().max() < 1e-4


# -- the length of the history -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("first", "then"), [(6, 3), (3, 6), (6, 1), (1, 2)])
@pytest.mark.parametrize("warm", [1, 2, 9])
def test_the_newest_pairs_stay_when_a_group_changes_history_size(first, then, warm):
    params = split(start())
    optimizer = tz.Modular([{"params": params, "history_size": first}], tz.m.LBFGS(), tz.m.LR(0.2))
    xs, gs = trajectory(params, optimizer, smooth, warm)
    optimizer.param_groups[0]["history_size"] = then
    more, grads = trajectory(params, optimizer, smooth, 10)
    xs, gs = np.concatenate([xs, more[1:]]), np.concatenate([gs, grads])
    for k in range(warm, warm + 10):
        pairs = [(xs[i] - xs[i - 1], gs[i] - gs[i - 1]) for i in range(1, k + 1)]
        kept = pairs[: warm - 1][-first:] + pairs[warm - 1 :] if then > first else pairs
        direction = dense_inverse(kept[-then:], 7) @ gs[k]
        np.testing.assert_allclose((xs[k] - xs[k + 1]) / 0.2, direction, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["LBFGS", "LSR1", "OnlineLBFGS"])
def test_a_history_may_change_its_length_at_any_step(name):
    params = split(start())
    optimizer = tz.Modular([{"params": params, "history_size": 3}], getattr(tz.m, name)(), tz.m.LR(0.1))
    for size in (3, 5, 5, 1, 4, 2.0, 7, 7, 7, 2):
        optimizer.param_groups[0]["history_size"] = size
        optimizer.step(closure_of(params, smooth))
    resumed = split(torch.tensor(joined(params)))
    other = tz.Modular([{"params": resumed, "history_size": 2}], getattr(tz.m, name)(), tz.m.LR(0.1))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(closure_of(params, smooth))
        other.step(closure_of(resumed, smooth))
    np.testing.assert_array_equal(joined(params), joined(resumed))


@pytest.mark.parametrize("make", [tz.m.LBFGS, tz.m.LSR1, tz.m.OnlineLBFGS])
def test_a_history_that_is_a_whole_number_of_another_kind(make):
    ends = []
    for size in (2, 2.0, np.int64(2)):
        params = split(start())
        optimizer = tz.Modular(params, make(history_size=size), tz.m.LR(0.1))
        for _ in range(6):
            optimizer.step(closure_of(params, smooth))
        ends.append(joined(params))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    for wrong in (0, 2.5, -1, None, "two"):
        with pytest.raises(ValueError, match="history_size"):
            make(history_size=wrong)


@pytest.mark.parametrize(
    "settings", [dict(reset_interval=0), dict(reset_interval=-1), dict(update_freq=0), dict(init_scale=0), dict(beta=1)]
)
@pytest.mark.parametrize("name", ["BFGS", "PSB", "SSVM"])
def test_settings_out_of_range_are_refused_at_once(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        getattr(tz.m, name)(**settings)


# -- in plain numbers and on an accelerator ----------------------------------------------------------------------------
def stepped(chain, dtype, steps=25):
    params = [p.to(dtype) for p in split(start())]
    params = [p.detach().requires_grad_() for p in params]
    optimizer = tz.Modular(params, *chain)
    points = []
    for _ in range(steps):
        optimizer.step(closure_of(params, wavy))
        points.append(torch.tensor(joined(params)))
    return torch.stack(points), optimizer.state_dict()["state"][0]


@pytest.mark.parametrize("history", [1, 4, 10])
@pytest.mark.parametrize(
    "chain", [lambda h: [tz.m.LBFGS(h), tz.m.StrongWolfe()], lambda h: [tz.m.LBFGS(h), tz.m.LR(0.3)]]
)
def test_plain_numbers_give_what_the_triangular_systems_give(history, chain, monkeypatch):
    few, _ = stepped(chain(history), F64)
    monkeypatch.setattr("torchzero_core.modules.quasi_newton.lbfgs.FEW", -1)
    many, _ = stepped(chain(history), F64)
    assert torch.allclose(few, many, rtol=1e-9, atol=1e-9) and (few[-1] - few[0]).norm() > 1e-3


@pytest.mark.parametrize("few", [16, -1])
@pytest.mark.parametrize("tile", [1, 90, 150])
def test_rows_in_pieces_give_what_whole_rows_give(few, tile, monkeypatch):
    def run():
        return stepped([tz.m.LBFGS(4), tz.m.StrongWolfe()], F64, steps=12)[0]  # then rounding decides where it stops

    monkeypatch.setattr("torchzero_core.modules.quasi_newton.lbfgs.FEW", few)
    whole = run()
    monkeypatch.setattr("torchzero_core.modules.quasi_newton.lbfgs.TILE", tile)
    pieces = run()
    assert torch.allclose(whole, pieces, rtol=1e-12, atol=1e-12) and (whole[-1] - whole[0]).norm() > 1e-3


def test_products_found_on_the_way_hold_for_the_update_as_it_was(monkeypatch):
    """A method is applied as often as one likes, and may overwrite what it is applied to."""
    monkeypatch.setattr("torchzero_core.modules.quasi_newton.lbfgs.TILE", 1)
    p = torch.tensor([1.0, -2.0, 3.0], dtype=F64, requires_grad=True)
    found = []

    class Twice(tz.m.LBFGS):
        def apply(self, unit, x):
            before = x.clone()
            found.append((super().apply(unit, 2 * x) / 2, super().apply(unit, before)))
            return super().apply(unit, x)

    optimizer = tz.Modular([p], Twice(), tz.m.LR(0.1))
    for n in range(5):
        p.grad = torch.tensor([1.0, 4.0, 9.0], dtype=F64) * p.detach() ** 3
        before = p.detach().clone()
        optimizer.step()
        one, other = found[-1]
        assert torch.allclose(one, other, rtol=1e-12)
        assert n == 0 or torch.allclose(before - p.detach(), 0.1 * one, rtol=1e-9)  # the first is as long as 1


@pytest.mark.parametrize("method", [lambda: tz.m.LBFGS(4), lambda: tz.m.LSR1(4), lambda: tz.m.OnlineLBFGS(4)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_where_nobody_may_wait_the_pairs_are_the_same(method, dtype, monkeypatch):
    """The way of an accelerator, on the CPU: no truth value is asked for."""
    asked, state = stepped([method(), tz.m.LR(0.1)], dtype)
    for name in ("modules.quasi_newton.pairs", "modules.quasi_newton.lbfgs", "core.vector_method"):
        monkeypatch.setattr(f"torchzero_core.{name}.at_hand", lambda tensor: False)
    waiting, other = stepped([method(), tz.m.LR(0.1)], dtype)
    exact = 1e-9 if dtype is F64 else 1e-4
    assert torch.allclose(asked, waiting, rtol=exact, atol=exact) and asked.isfinite().all()
    for name in (n for n in state if n.endswith((".valid", ".spare"))):
        assert torch.equal(state[name], other[name])
