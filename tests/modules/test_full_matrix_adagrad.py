"""Full-matrix Adagrad against its closed form in numpy."""

import inspect

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.parity import compared
from tests.problems import bits, make_params, same, values

F64 = torch.float64
SHAPES = [(3, 2), (4,), ()]


def trajectory(optimizer, params, steps=6):
    """Gradients and steps, as vectors for each parameter."""
    gs, outs = [], []
    for seed in range(steps):
        for i, p in enumerate(params):
            p.grad = values(p.shape, seed + 10 * i).to(p.dtype)
        before = bits(params)
        optimizer.step()
        gs.append([p.grad.flatten().numpy() for p in params])
        outs.append([(b - p.detach()).flatten().numpy() for b, p in zip(before, params, strict=True)])
    return gs, outs


def in_numpy(gs, beta=None, decay=None, sqrt=True, update_freq=1, ema=None):
    """The steps for one parameter."""
    n = len(gs[0])
    matrix, m, outs = np.eye(n), np.zeros(n), []
    for t, g in enumerate(gs):
        old, new = (decay or 1.0, 1.0) if beta is None else (beta, 1 - beta)
        matrix = old * matrix + new * np.outer(g, g)
        m = g if ema is None else ema * m + (1 - ema) * g
        if t % update_freq == 0:
            w, v = np.linalg.eigh(matrix)
            root = (v / np.sqrt(w)) @ v.T if sqrt else np.linalg.inv(matrix)
        outs.append(root @ m)
    return outs


def test_signature():
    found = inspect.signature(tz.m.FullMatrixAdagrad).parameters.values()
    shown = [f"{p.name}={p.default!r}" for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert ", ".join(shown) == "beta=None, decay=None, sqrt=True, concat_params=False, update_freq=1, inner=None"


@pytest.mark.parametrize(
    "settings",
    [{}, dict(beta=0.9), dict(decay=0.7), dict(sqrt=False), dict(update_freq=3), dict(beta=0.5, sqrt=False)],
    ids=str,
)
@compared("FullMatrixAdagrad", "closed form by numpy's eigh")
def test_closed_form(settings):
    params = make_params(SHAPES)
    gs, outs = trajectory(tz.Modular(params, tz.m.FullMatrixAdagrad(**settings)), params)
    for i in range(len(SHAPES)):
        expected = in_numpy([g[i] for g in gs], **settings)
        for out, want in zip(outs, expected, strict=True):
            np.testing.assert_allclose(out[i], want, rtol=1e-10, atol=1e-13)


@compared("FullMatrixAdagrad(concat_params=True)", "closed form by numpy's eigh")
def test_concatenated():
    params = make_params(SHAPES)
    gs, outs = trajectory(tz.Modular(params, tz.m.FullMatrixAdagrad(concat_params=True)), params)
    expected = in_numpy([np.concatenate(g) for g in gs])
    for out, want in zip(outs, expected, strict=True):
        np.testing.assert_allclose(np.concatenate(out), want, rtol=1e-10, atol=1e-13)


@compared("FullMatrixAdagrad(beta=0.999, inner=EMA(0.9))", "full-matrix Adam in numpy")
def test_full_matrix_adam():
    params = make_params(SHAPES)
    module = tz.m.FullMatrixAdagrad(beta=0.999, inner=tz.m.EMA(0.9))
    gs, outs = trajectory(tz.Modular(params, module), params)
    for i in range(len(SHAPES)):
        for out, want in zip(outs, in_numpy([g[i] for g in gs], beta=0.999, ema=0.9), strict=True):
            np.testing.assert_allclose(out[i], want, rtol=1e-10, atol=1e-13)


def test_the_first_step_by_hand():
    # (I + gg')^(−½) g = g / √(1 + ‖g‖²)
    p = torch.zeros(2, dtype=F64, requires_grad=True)
    p.grad = torch.tensor([2.0, 2.0], dtype=F64)
    tz.Modular([p], tz.m.FullMatrixAdagrad()).step()
    np.testing.assert_allclose(p.detach(), [-2 / 3, -2 / 3], rtol=1e-14)


def test_the_floor():
    # with beta=0 the matrix is gg': what is orthogonal to g has the eigenvalue 0, floored at eps
    p = torch.zeros(2, dtype=F64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.FullMatrixAdagrad(beta=0.0, eps=0.25, update_freq=2))
    for g, step in (([3.0, 0.0], [1.0, 0.0]), ([0.0, 5.0], [0.0, 10.0])):
        p.grad = torch.tensor(g, dtype=F64)
        before = p.detach().clone()
        optimizer.step()
        np.testing.assert_allclose(before - p.detach(), step, rtol=1e-13)


def test_concatenated_parameters_start_anew_when_others_have_gradients():
    params = make_params([(2,), (3,)])
    optimizer = tz.Modular(params, tz.m.FullMatrixAdagrad(concat_params=True))
    trajectory(optimizer, params)
    params[1].grad = None
    params[0].grad = torch.tensor([2.0, 2.0], dtype=F64)
    before = params[0].detach().clone()
    optimizer.step()
    np.testing.assert_allclose(before - params[0].detach(), [2 / 3, 2 / 3], rtol=1e-14)


def test_a_decomposition_that_does_not_converge(monkeypatch):
    params = make_params([(3,)])
    optimizer = tz.Modular(params, tz.m.FullMatrixAdagrad())
    trajectory(optimizer, params, 2)
    state = optimizer.state[params[0]]
    root = state["FullMatrixAdagrad.factor"].clone()

    def stubborn(a):
        raise torch.linalg.LinAlgError("failed to converge")

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", stubborn)
        gs, outs = trajectory(optimizer, params, 4)
        assert same(state["FullMatrixAdagrad.factor"], root) and int(state["FullMatrixAdagrad.failures"]) == 4
        np.testing.assert_allclose(outs[-1][0], root.numpy() @ gs[-1][0], rtol=1e-14)
        with pytest.raises(RuntimeError, match=r"FullMatrixAdagrad could not .* of shape \(3,\) 5 times in a row"):
            optimizer.step()
    trajectory(optimizer, params, 1)
    assert int(state["FullMatrixAdagrad.failures"]) == 0


def test_beta_and_decay_are_one_or_the_other():
    with pytest.raises(ValueError, match=r"beta=0\.9, decay=0\.5\): give beta or decay, not both"):
        tz.m.FullMatrixAdagrad(beta=0.9, decay=0.5)
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="not both"):
        tz.Modular([{"params": [p], "decay": 0.5}], tz.m.FullMatrixAdagrad(beta=0.9))


@pytest.mark.parametrize("setting", [dict(update_freq=0), dict(beta=1.0), dict(decay=-0.1), dict(eps=-1.0)], ids=str)
def test_ranges(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        tz.m.FullMatrixAdagrad(**setting)
