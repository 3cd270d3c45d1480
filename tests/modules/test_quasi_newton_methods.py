"""Every quasi-Newton formula against the published one in numpy, scipy, and what the theory says of it."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

import torchzero_core as tz
from tests.modules.test_quasi_newton import (
    F64,
    Exact,
    closure_of,
    joined,
    numpy_gradient,
    smooth,
    spd,
    split,
    start,
    trajectory,
    wavy,
)


# -- the formulas, as published ----------------------------------------------------------------------------------------
def rank_one(covector):
    """H + (s − Hy)c'/c'y."""

    def update(H, s, y, g0, memory, tol):
        c = covector(H, s, y, g0, memory)
        if abs(c @ y) <= tol * np.linalg.norm(c) * np.linalg.norm(y):
            return H
        return H + np.outer(s - H @ y, c) / (c @ y)

    return update


def positive(formula):
    """Skipped when s'y ≤ tol·‖s‖‖y‖."""

    def update(H, s, y, g0, memory, tol):
        return formula(H, s, y) if s @ y > tol * np.linalg.norm(s) * np.linalg.norm(y) else H

    return update


def bfgs(H, s, y):
    v = np.eye(len(s)) - np.outer(y, s) / (s @ y)
    return v.T @ H @ v + np.outer(s, s) / (s @ y)


def dfp(H, s, y):
    Hy = H @ y
    return H + np.outer(s, s) / (s @ y) - np.outer(Hy, Hy) / (y @ Hy)


def reaches(a, b):
    """a ≥ b, where the first scaling makes them equal to rounding."""
    return a >= b * (1 - 1e-9)


def fletcher(H, s, y):
    return bfgs(H, s, y) if reaches(s @ y, y @ H @ y) else dfp(H, s, y)


def hoshino(H, s, y):
    sy, yHy = s @ y, y @ H @ y
    middle = (1 + 2 * yHy / sy) * np.outer(s, s) - np.outer(s, y) @ H - H @ np.outer(y, s) - H @ np.outer(y, y) @ H
    return H + middle / (sy + yHy)


def ssvm(switch):
    def formula(H, s, y):
        sigma, tau, epsilon = s @ y, y @ H @ y, s @ np.linalg.solve(H, s)
        if isinstance(switch, tuple):
            phi, theta = switch
        elif switch in (1, 3):
            if reaches(sigma, epsilon):
                phi, theta = epsilon / sigma, 0
            elif reaches(sigma, tau):
                phi, theta = sigma / tau, 1
            else:
                above = epsilon - sigma if switch == 1 else tau - sigma
                phi, theta = 1, sigma * above / (epsilon * tau - sigma**2)
        else:
            phi = math.sqrt(epsilon / tau)
            theta = 1 / (1 + math.sqrt(epsilon * tau) / sigma) if switch == 2 else 0.5
        v = math.sqrt(tau) * (s / sigma - H @ y / tau)
        return phi * (H - np.outer(H @ y, y @ H) / tau + theta * np.outer(v, v)) + np.outer(s, s) / sigma

    return positive(formula)


def thomas(H, s, y, g0, memory):
    R, length = memory.get("R", np.eye(len(s))), np.linalg.norm(s)
    d = (R + np.eye(len(s)) * length / 2) @ s
    memory["R"] = (1 + length) * (length * np.eye(len(s)) + R - np.outer(d, d) / (d @ s))
    return H.T @ d


def column(H, s, y, g0, memory):
    return np.eye(len(y))[np.argmax(np.abs(y))]


METHODS = {
    "BFGS": positive(bfgs),
    "DFP": positive(dfp),
    "FletcherVMM": positive(fletcher),
    "Hoshino": positive(hoshino),
    "SSVM": ssvm(3),
    "BroydenBad": rank_one(lambda H, s, y, g0, memory: y),
    "BroydenGood": rank_one(lambda H, s, y, g0, memory: H.T @ s),
    "ColumnUpdatingMethod": rank_one(column),
    "Greenstadt1": rank_one(lambda H, s, y, g0, memory: g0),
    "Greenstadt2": rank_one(lambda H, s, y, g0, memory: H @ (H @ y)),
    "McCormick": rank_one(lambda H, s, y, g0, memory: s),
    "Pearson": rank_one(lambda H, s, y, g0, memory: H @ y),
    "SR1": rank_one(lambda H, s, y, g0, memory: s - H @ y),
    "ThomasOptimalMethod": rank_one(thomas),
}
SECANT = [*METHODS, "PSB"]


def simulate(
    x,
    gradient,
    steps,
    lr,
    update,
    init_scale="auto",
    tol=1e-10,
    reset_interval=None,
    beta=None,
    update_freq=1,
    scale_first=True,
    scale_second=False,
    inner=lambda u: u,
    on_reset=None,
):
    """The common rules of the catalogue around a formula."""
    n, memory = len(x), {}
    first = np.eye(n) * (1.0 if init_scale == "auto" else init_scale)
    H, fresh, xs, before = first, True, [x], None
    for t in range(steps):
        g, small = gradient(x), t == 0
        if t and reset_interval and t % reset_interval == 0:
            if on_reset is None:
                H, fresh, small = first, True, True
                memory.clear()
            else:
                H = on_reset(memory)
        elif t and t % update_freq == 0:
            s, y = x - before[0], g - before[1]
            if np.abs(y).max() <= tol:
                H, fresh, small = first, True, True
            else:
                if fresh and init_scale == "auto" and s @ y > tol * np.linalg.norm(s) * np.linalg.norm(y):
                    H, fresh = H * (s @ y) / (y @ y), False
                new = update(H, s, y, before[1], memory, tol)
                H = new if beta is None else beta * H + (1 - beta) * new
        before = x, g
        direction = H @ inner(g)
        if (small and scale_first) or (t == 1 and scale_second):
            direction = direction / max(1, np.abs(g).sum())
        x = x - lr * direction
        xs.append(x)
    return np.array(xs)


def compare(module, expected, steps=20, lr=0.1, loss=smooth, rtol=1e-6):
    params = split(start())
    xs, _ = trajectory(params, tz.Modular(params, module, tz.m.LR(lr)), loss, steps)
    np.testing.assert_allclose(xs, expected, rtol=rtol, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("loss", [smooth, wavy])
@pytest.mark.parametrize("settings", [{}, dict(init_scale=0.2, scale_first=False), dict(update_freq=2)], ids=str)
def test_the_formula_is_the_published_one(name, loss, settings):
    lr = 0.1 if loss is smooth else 0.02  # some wander off where the loss is not convex
    steps = 20 if loss is smooth else 12
    expected = simulate(start().numpy(), numpy_gradient(loss), steps, lr, METHODS[name], **settings)
    assert np.isfinite(expected).all()
    compare(getattr(tz.m, name)(**settings), expected, steps, lr, loss)


@pytest.mark.parametrize("name", ["DFP", "SR1", "Pearson", "ThomasOptimalMethod"])
@pytest.mark.parametrize("settings", [dict(reset_interval=6), dict(beta=0.5), dict(scale_second=True)], ids=str)
def test_the_common_rules_hold_for_all(name, settings):
    expected = simulate(start().numpy(), numpy_gradient(smooth), 20, 0.1, METHODS[name], **settings)
    compare(getattr(tz.m, name)(**settings), expected)


@pytest.mark.parametrize("switch", [1, 2, 3, 4, (1.0, 0.5), (0.8, 0.0)], ids=str)
@pytest.mark.parametrize("factor", [None, 2.0])
def test_self_scaling(switch, factor):
    inner = {} if factor is None else dict(inner=tz.m.Mul(factor))
    expected = simulate(
        start().numpy(), numpy_gradient(smooth), 20, 0.1, ssvm(switch), inner=lambda g: g * (factor or 1.0)
    )
    compare(tz.m.SSVM(switch, **inner), expected)


def test_self_scaling_knows_the_inverse_where_the_step_is_not_along_the_direction():
    params, module = split(start()), tz.m.SSVM(2)
    optimizer = tz.Modular(params, module, tz.m.ClipValue(0.05))
    H, fresh, x, g = np.eye(7), True, None, None
    for _ in range(12):
        before = joined(params)
        optimizer.step(closure_of(params, smooth))
        gradient = np.concatenate([p.grad.reshape(-1).numpy() for p in params])
        if x is not None:
            s, y = before - x, gradient - g
            H = ssvm(2)(H * (s @ y) / (y @ y) if fresh else H, s, y, g, {}, 1e-10)
            fresh = False
            np.testing.assert_allclose(module.global_state["H"].numpy(), H, rtol=1e-7, atol=1e-10)
        x, g = before, gradient


@pytest.mark.parametrize("switch", [0, 5, 2.5, "3", (0.0, 1.0), (1.0,), None], ids=str)
def test_an_unknown_switch_is_refused(switch):
    with pytest.raises(ValueError, match="switch"):
        tz.m.SSVM(switch)


def projected(H, s, y, g0, memory, tol):
    Hy = H @ y
    R = memory.get("R", np.eye(len(s)))
    memory["R"] = R + np.outer(s - R @ y, Hy) / (y @ Hy)
    return H - np.outer(Hy, y @ H) / (y @ Hy)


@pytest.mark.parametrize("interval", [4, 6])
def test_projected_newton_raphson(interval):
    expected = simulate(
        start().numpy(),
        numpy_gradient(smooth),
        22,
        0.1,
        projected,
        reset_interval=interval,
        on_reset=lambda memory: memory["R"].copy(),
    )
    compare(tz.m.ProjectedNewtonRaphson(reset_interval=interval), expected, 22, rtol=1e-5)


def test_projected_gradients():
    settings = dict(reset_interval=5, scale_first=False, init_scale=1.0)
    expected = simulate(start().numpy(), numpy_gradient(smooth), 20, 0.02, projected, **settings)
    compare(tz.m.ProjectedGradientMethod(reset_interval=5), expected, 20, 0.02)
    for every in (None, "auto"):
        ours = tz.m.ProjectedGradientMethod(reset_interval=every)
        assert ours.reset_every(7, ours.defaults) == 8


def psb(B, s, y):
    r, ss = y - B @ s, s @ s
    return B + (np.outer(r, s) + np.outer(s, r)) / ss - (r @ s) * np.outer(s, s) / ss**2


@pytest.mark.parametrize("tol_reset", [True, False])
@pytest.mark.parametrize("name", ["ThomasOptimalMethod", "ProjectedNewtonRaphson"])
def test_nothing_is_learnt_where_the_update_rests(name, tol_reset):
    """Neither by H nor by R; a reset makes R the identity again where it forgets, which Pearson's method does not."""
    p = torch.tensor([1.0, -2.0, 0.5], dtype=F64, requires_grad=True)
    module = getattr(tz.m, name)(tol=0.1, tol_reset=tol_reset)
    optimizer = tz.Modular([p], module, tz.m.LR(0.1))
    gradients = [[1.0, 2.0, -3.0], [0.5, 2.5, -1.0], [0.2, 1.5, -0.5], [0.15, 1.45, -0.55]]
    matrices = []
    for g in gradients:
        p.grad = torch.tensor(g, dtype=F64)
        optimizer.step()
        state = module.global_state
        matrices.append([state[key].clone() if key in state else torch.eye(3, dtype=F64) for key in ("H", "R")])
    (H, R), (H_flat, R_flat) = matrices[-2:]
    one = torch.eye(3, dtype=F64)
    assert not torch.equal(H, one)
    assert not torch.equal(R, one)
    assert torch.equal(H_flat, one if tol_reset else H)
    assert torch.equal(R_flat, one if tol_reset and name == "ThomasOptimalMethod" else R)


@pytest.mark.parametrize(("make", "scale"), [(tz.m.BFGS, 1e100), (tz.m.LBFGS, 1e100), (tz.m.LBFGS, 1e-100)])
def test_a_cosine_does_not_depend_on_the_size_of_the_problem(make, scale):
    """A pair of cosine 0.6 is taken with tol=0.5 and not with 0.7, however long its vectors are."""

    def second(tol):
        p = torch.tensor([0.0, 0.0], dtype=F64, requires_grad=True)
        optimizer = tz.Modular([p], make(tol=tol), tz.m.LR(1.0))
        for k in range(2):
            with torch.no_grad():
                p.copy_(torch.tensor([k * scale, 0.0], dtype=F64))
            p.grad = torch.tensor([1.0 + 0.6 * k, 0.8 * k], dtype=F64) * scale
            optimizer.step()
        return (torch.tensor([scale, 0.0], dtype=F64) - p.detach()) / scale

    plain = torch.tensor([1.6, 0.8], dtype=F64)
    unknown = plain if make is tz.m.BFGS else plain / max(1.0, 2.4 * scale)
    taken, refused = second(0.5), second(0.7)
    assert torch.allclose(refused, unknown, rtol=1e-12)
    s, y, one = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.6, 0.8], dtype=F64), torch.eye(2, dtype=F64)
    V = one - torch.outer(s, y) / 0.6
    assert torch.allclose(taken, (0.6 * V @ V.T + torch.outer(s, s) / 0.6) @ plain, rtol=1e-12)


@pytest.mark.parametrize("init_scale", ["auto", 0.5])
@pytest.mark.parametrize("loss", [smooth, wavy])
def test_psb(init_scale, loss):
    x, xs, B, before, fresh = start().numpy(), [], None, None, init_scale == "auto"
    gradient = numpy_gradient(loss)
    for t in range(15):
        xs.append(x)
        g = gradient(x)
        if before is None:
            B = np.eye(7) / (1.0 if init_scale == "auto" else init_scale)
        else:
            s, y = x - before[0], g - before[1]
            if fresh and s @ y > 1e-10 * np.linalg.norm(s) * np.linalg.norm(y):
                B, fresh = B * (y @ y) / (s @ y), False
            B = psb(B, s, y)
        before = x, g
        step = np.linalg.solve(B, g)
        x = x - 0.05 * (step / max(1, np.abs(g).sum()) if t == 0 else step)
    compare(tz.m.PSB(init_scale=init_scale), np.array([*xs, x]), 15, 0.05, loss)


# -- next to scipy -----------------------------------------------------------------------------------------------------
def test_sr1_is_that_of_scipy():
    params, module = split(start()), tz.m.SR1(init_scale=0.5, tol=1e-8)
    optimizer = tz.Modular(params, module, tz.m.LR(0.2))
    xs, gs = trajectory(params, optimizer, smooth, 15)
    other = scipy.optimize.SR1(min_denominator=1e-8, init_scale=0.5)
    other.initialize(7, "inv_hess")
    for k in range(1, 15):
        other.update(xs[k] - xs[k - 1], gs[k] - gs[k - 1])
    np.testing.assert_allclose(module.global_state["H"].numpy(), other.get_matrix(), rtol=1e-6, atol=1e-9)


def test_dfp_is_the_dual_of_the_bfgs_of_scipy():
    params, module = split(start()), tz.m.DFP(init_scale=0.5)
    optimizer = tz.Modular(params, module, tz.m.LR(0.2))
    xs, gs = trajectory(params, optimizer, smooth, 15)
    other = scipy.optimize.BFGS(init_scale=0.5)  # of the Hessian of a function whose s and y have changed places
    other.initialize(7, "inv_hess")
    for k in range(1, 15):
        other.update(gs[k] - gs[k - 1], xs[k] - xs[k - 1])
    # scipy scales its start once more where it knows s and y, so that both begin with the same matrix here
    H = np.eye(7) * 0.5
    for k in range(1, 15):
        s, y = xs[k] - xs[k - 1], gs[k] - gs[k - 1]
        B = np.linalg.inv(H)
        H = np.linalg.inv(bfgs(B, y, s))
    np.testing.assert_allclose(module.global_state["H"].numpy(), H, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.get_matrix() @ (xs[14] - xs[13]), gs[14] - gs[13], rtol=1e-8)


# -- what the theory says ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SECANT)
def test_the_secant_equation_holds_after_every_update(name):
    # after a scaling that makes y'Hy = s'y the denominator of SR1 is zero
    params, module = split(start()), getattr(tz.m, name)(init_scale=1.0 if name == "SR1" else "auto")
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    x = g = None
    for _ in range(20):
        before = joined(params)
        optimizer.step(closure_of(params, smooth))
        gradient = np.concatenate([p.grad.reshape(-1).numpy() for p in params])
        if x is not None:
            s, y = before - x, gradient - g
            if name == "PSB":
                np.testing.assert_allclose(module.global_state["B"].numpy() @ s, y, rtol=1e-6, atol=1e-9)
            else:
                np.testing.assert_allclose(module.global_state["H"].numpy() @ y, s, rtol=1e-6, atol=1e-9)
        x, g = before, gradient


CONJUGATE = ["BFGS", "DFP", "FletcherVMM", "Hoshino", "SSVM"]


@pytest.mark.parametrize("name", [*CONJUGATE, "ProjectedGradientMethod"])
@pytest.mark.parametrize("n", [2, 5, 8])
def test_on_a_quadratic_with_exact_search_it_is_conjugate_gradients(name, n):
    a, b = spd(n, 30.0), torch.linspace(1, -2, n, dtype=F64)
    iterates = [np.zeros(n)]
    scipy.sparse.linalg.cg(a.numpy(), b.numpy(), rtol=1e-15, maxiter=n, callback=lambda x: iterates.append(x.copy()))
    p = torch.zeros(n, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], getattr(tz.m, name)(), Exact())
    xs, _ = trajectory([p], optimizer, lambda ps: ps[0] @ a @ ps[0] / 2 - b @ ps[0], n)
    for x, expected in zip(xs, iterates, strict=False):
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6 * np.abs(iterates[-1]).max())


def test_a_denominator_that_is_rounding_is_none():
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        module = tz.m.SR1()
        p = torch.zeros(20, requires_grad=True)
        optimizer = tz.Modular([p], module, tz.m.LR(0.5))
        a, b = torch.rand(2, 20, generator=generator) + 0.5
        for g in (a, 0.3 * b):  # the scaling turns z across y, to rounding
            p.grad = g.clone()
            optimizer.step()
        s, y = -0.5 * a / a.sum(), 0.3 * b - a
        np.testing.assert_allclose(module.global_state["H"], torch.eye(20) * (s @ y) / (y @ y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["SR1", "PSB", "BFGS", "DFP", "Hoshino", "SSVM"])
def test_matrices_stay_symmetric(name):
    params, module = split(start()), getattr(tz.m, name)()
    optimizer = tz.Modular(params, module, tz.m.LR(0.1))
    trajectory(params, optimizer, smooth, 30)
    matrix = module.global_state["B" if name == "PSB" else "H"]
    assert (matrix - matrix.T).abs().max() <= 1e-12 * matrix.abs().max()


def test_bfgs_has_full_memory_in_lbfgs():
    ours, theirs = split(start()), split(start())
    # H0 of the newest pair is that of the only one at the second step; with more, start both from the same matrix
    a = tz.Modular(ours, tz.m.LBFGS(history_size=50), tz.m.LR(0.2))
    xs, gs = trajectory(ours, a, smooth, 12)
    del theirs
    for k in range(1, 12):
        pairs = [(xs[i] - xs[i - 1], gs[i] - gs[i - 1]) for i in range(1, k + 1)]
        s, y = pairs[-1]
        H = np.eye(7) * (s @ y) / (y @ y)
        for s, y in pairs:
            H = bfgs(H, s, y)
        np.testing.assert_allclose((xs[k] - xs[k + 1]) / 0.2, H @ gs[k], rtol=1e-8, atol=1e-12)


def test_two_names_of_one():
    assert tz.m.Horisho is tz.m.Hoshino


# -- correction of the gradient ----------------------------------------------------------------------------------------
def test_gradient_correction():
    params = split(start())
    xs, gs = trajectory(params, tz.Modular(params, tz.m.GradientCorrection(), tz.m.LR(0.05)), smooth, 10)
    for k in range(10):
        expected = gs[k]
        if k:
            s, y = xs[k] - xs[k - 1], gs[k] - gs[k - 1]
            expected = gs[k] - y * (s @ gs[k]) / (s @ y)
            assert abs(expected @ s) <= 1e-10 * np.linalg.norm(expected) * np.linalg.norm(s)
        np.testing.assert_allclose((xs[k] - xs[k + 1]) / 0.05, expected, rtol=1e-8, atol=1e-11)


def test_gradient_correction_where_there_is_none():
    p = torch.zeros(2, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.GradientCorrection())
    for _ in range(2):  # y is zero
        p.grad = torch.tensor([1.0, 2.0], dtype=F64)
        optimizer.step()
    assert p.tolist() == [-2.0, -4.0]


def test_gradient_correction_makes_an_inexact_search_exact():
    a, n = spd(6, 30.0), 6
    p = start(n).clone().requires_grad_()

    class Sloppy(Exact):
        def search(self, update, var):
            return 0.7 * super().search(update, var)

    optimizer = tz.Modular([p], tz.m.GradientCorrection(), tz.m.HestenesStiefel(), Sloppy())
    (_, gs) = trajectory([p], optimizer, lambda ps: ps[0] @ a @ ps[0] / 2, n)
    assert np.isfinite(gs).all()
    y, s = gs[1] - gs[0], None  # the first step ended at 0.7 of the way: what the module hands on is the rest
    direction = gs[0]
    s = -direction
    corrected = gs[1] - y * (s @ gs[1]) / (s @ y)
    exact = gs[0] - a.numpy() @ direction * (direction @ direction) / (direction @ a.numpy() @ direction)
    np.testing.assert_allclose(corrected, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [tz.m.BFGS, tz.m.DFP, tz.m.SSVM, tz.m.SR1, tz.m.PSB])
@pytest.mark.parametrize(
    "settings", [{}, {"init_scale": 0.5}, {"tol_reset": False}, {"reset_interval": 4}, {"beta": 0.3}]
)
def test_where_nobody_may_wait_the_matrices_are_the_same(method, settings, monkeypatch):
    """The way of an accelerator, on the CPU: no truth value is asked for."""

    def points():
        params = split(start())
        optimizer = tz.Modular(params, method(**settings), tz.m.LR(0.1))
        out = []
        for step in range(16):
            if step not in (9, 10):  # with the same gradient twice max|y| is 0
                optimizer.step(closure_of(params, wavy))
            else:
                for p in params:
                    p.grad = torch.zeros_like(p)
                optimizer.step()
            out.append(joined(params))
        return np.stack(out)

    asked = points()
    for name in ("base", "rank_two"):
        monkeypatch.setattr(f"torchzero_core.modules.quasi_newton.{name}.told", lambda condition: None)
    assert np.allclose(asked, points(), rtol=1e-9, atol=1e-9) and np.isfinite(asked).all()
