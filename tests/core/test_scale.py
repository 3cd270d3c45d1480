"""Thousands of tensors, a group for each: what a step costs grows with their number, and no faster."""

from __future__ import annotations

import cProfile
import pstats

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import load, save
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import torchzero_core as tz


def _calls(fn):
    """How many calls, Python's and C's, something takes."""
    profile = cProfile.Profile()
    profile.runcall(fn)
    return pstats.Stats(profile).total_calls


def _problem(n, shape=(2, 2)):
    params = [nn.Parameter(torch.full(shape, 1.0 + i / n)) for i in range(n)]
    for i, p in enumerate(params):
        p.grad = torch.linspace(-1, 1 + i / n, p.numel()).view(shape)
    return params


def _growth(make):
    """By what the calls of each part grow where there are twice as many tensors."""
    counts = []
    for n in (100, 200):
        parts = make(n)
        counts.append([_calls(part) for part in parts])
    return [b / a for a, b in zip(*counts, strict=True)]


def test_a_group_for_each_parameter():
    def parts(n):
        params = _problem(n)
        optimizer = tz.Modular(
            [{"params": [p], "lr": 0.1 + i / n} for i, p in enumerate(params)], tz.m.Adam(), tz.m.LR(1)
        )
        return optimizer.step, optimizer.step, optimizer.step

    assert max(_growth(parts)) < 2.2


def test_a_setting_of_the_module_for_each_parameter():
    def parts(n):
        params = _problem(n)
        optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
        groups = [{"params": [p], "beta1": 0.5 + i / (4 * n)} for i, p in enumerate(params)]
        return lambda: optimizer.modules[0].set_param_groups(groups), optimizer.step, optimizer.step

    assert max(_growth(parts)) < 2.2


@pytest.mark.parametrize("modules", [lambda: [tz.m.LBFGS(), tz.m.LR(0.1)], lambda: [tz.m.PolakRibiere(), tz.m.LR(0.1)]])
def test_methods_that_see_one_vector(modules):
    """A few calls of torch, not some for each tensor; 4,000 tensors in 1,200 groups took four times torch's time."""
    params = _problem(400)
    optimizer = tz.Modular([{"params": params[i::100]} for i in range(100)], *modules())
    optimizer.step(), optimizer.step()
    assert _calls(optimizer.step) < 8 * len(params)


@pytest.mark.parametrize("compile", [False, True])
def test_groups_that_set_the_same_run_together(compile):
    """As long as they do: a schedule may drive them apart at any step, and together again."""
    ours, theirs = _problem(6), _problem(6)
    optimizer = tz.Modular([{"params": [p]} for p in ours], tz.m.Adam(), tz.m.LR(0.1), compile=compile)
    twin = torch.optim.Adam([{"params": [p]} for p in theirs], lr=0.1)
    for lrs in ([0.1] * 6, [0.1] * 6, [0.1, 0.2] * 3, [0.3, 0.2] * 3, [0.05] * 6, [0.01, *[0.05] * 5], [0.5] * 6):
        for o in (optimizer, twin):
            for group, lr in zip(o.param_groups, lrs, strict=True):
                group["lr"] = lr
            o.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q)


def test_settings_of_one_group_are_not_taken_for_those_of_another():
    params = _problem(3)
    optimizer = tz.Modular([{"params": [p]} for p in params], tz.m.ClipValue(0.5), tz.m.LR(1.0))
    before = [p.detach().clone() for p in params]
    optimizer.step()
    optimizer.param_groups[1]["value"] = 0.25
    optimizer.step()
    moved = [(b - p).abs().max().item() for b, p in zip(before, params, strict=True)]
    assert moved == pytest.approx([1.0, 0.75, 1.0])


# -- torch.distributed.checkpoint ------------------------------------------------------------------------------------
CHAINS = {
    "Adam": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
    "LBFGS, StrongWolfe": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
    "BFGS, StrongWolfe": lambda: [tz.m.BFGS(), tz.m.StrongWolfe()],
    "CG, StrongWolfe": lambda: [tz.m.PolakRibiere(), tz.m.StrongWolfe()],
    "NewtonCG, Backtracking": lambda: [tz.m.NewtonCG(warm_start=True), tz.m.Backtracking()],
    "NewtonCG by autograd": lambda: [tz.m.NewtonCG(hvp_method="autograd"), tz.m.Backtracking()],
    "MeZO, Adam": lambda: [tz.m.MeZO(seed=1), tz.m.Adam(), tz.m.LR(0.1)],
    "SPSA, LBFGS": lambda: [tz.m.SPSA(seed=0), tz.m.LBFGS(), tz.m.LR(0.1)],
    "PolyakStepSize": lambda: [tz.m.PolyakStepSize()],
    "in a projection": lambda: [tz.m.VectorProjection([tz.m.LBFGS(), tz.m.StrongWolfe()], project_params=True)],
}


def _model(seed, modules, **options):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return model, tz.Modular(model, *modules(), **options)


def _train(model, optimizer, steps):
    def closure(backward=True):
        loss = (model(torch.linspace(-1, 1, 8).view(2, 4)) - 1).square().mean()
        if backward:
            model.zero_grad()
            loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_distributed_checkpoints(name, tmp_path):
    model, optimizer = _model(0, CHAINS[name])
    _train(model, optimizer, 3)
    saved = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    save(saved, checkpoint_id=tmp_path, no_dist=True)
    other, resumed = _model(5, CHAINS[name])
    state = {"model": other.state_dict(), "optimizer": get_optimizer_state_dict(other, resumed)}
    load(state, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(state["model"])
    set_optimizer_state_dict(other, resumed, state["optimizer"])
    assert resumed.current_step == 3
    _train(model, optimizer, 3), _train(other, resumed, 3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_making_the_state_moves_nothing(name, deterministic):
    model, optimizer = _model(0, CHAINS[name], deterministic=deterministic)
    before = [p.detach().clone() for p in model.parameters()]
    get_optimizer_state_dict(model, optimizer)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.param_groups[0]["lr"] == (0.1 if "lr" in str(optimizer.modules[-1].defaults) else 1.0)
    _train(model, optimizer, 2)
    assert not any(map(torch.equal, before, model.parameters()))


def test_a_forgotten_closure_is_still_an_error():
    model, optimizer = _model(0, CHAINS["LBFGS, StrongWolfe"])
    with pytest.raises(RuntimeError, match=r"call optimizer\.step"):
        optimizer.step()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(RuntimeError, match=r"call optimizer\.step"):
        optimizer.step()
