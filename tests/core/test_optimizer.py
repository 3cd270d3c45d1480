"""Modular is a torch optimizer: parameters, hooks, schedulers, copies, its tree (K1, K5)."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.optim.swa_utils import SWALR, AveragedModel

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, quadratic, run, same
from torchzero_core.core import Module


def difference(a, b):
    """The largest difference of two lists of tensors."""
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


# -- parameters --------------------------------------------------------------------------------------------------------
def test_params_may_be_tensors_names_groups_or_a_model():
    model = nn.Linear(3, 2)
    params = list(model.parameters())
    assert [p is q for p, q in zip(tz.Modular(params, tz.m.LR(1)).param_groups[0]["params"], params, strict=True)]
    named = tz.Modular(model.named_parameters(), tz.m.LR(1))
    assert named.param_groups[0]["param_names"] == ["weight", "bias"]
    groups = tz.Modular([{"params": params[:1], "lr": 0.5}, {"params": params[1]}], tz.m.LR(0.1))
    assert [g["lr"] for g in groups.param_groups] == [0.5, 0.1]
    assert all(type(g) is dict for g in groups.param_groups)
    whole = tz.Modular(model, tz.m.LR(1))
    assert whole.model is model
    assert named.model is None
    assert whole.param_groups[0]["param_names"] == ["weight", "bias"]
    assert all(p is q for p, q in zip(whole.param_groups[0]["params"], params, strict=True))


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (lambda p: [], ValueError, "empty list of parameters"),
        (lambda p: p, TypeError, "iterable of tensors or groups, not one tensor"),
        (lambda p: [p, p], ValueError, r"Parameter 1 of the group \(shape \(2,\)\) appears in the optimizer twice"),
        (lambda p: [{"params": [p]}, {"params": [p]}], ValueError, "appears in the optimizer twice"),
        (lambda p: [{"params": {p}}], TypeError, "must be in a list, not a set"),
        (lambda p: [p.detach().to(torch.complex128)], ValueError, "torch.view_as_real"),
        (lambda p: [p.detach().long()], ValueError, "only floating point can be optimized"),
    ],
)
def test_parameters_that_cannot_be_optimized(params, error, words):
    with pytest.raises(error, match=words):
        tz.Modular(params(torch.zeros(2, requires_grad=True)), tz.m.LR(1))


def test_a_chain_needs_modules():
    p = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="at least one module"):
        tz.Modular([p])
    with pytest.raises(TypeError, match=r"takes a module or a list of modules, not 0\.1"):
        tz.Modular([p], 0.1)
    with pytest.raises(TypeError, match=r"Did you mean Adam\(\)\?"):
        tz.Modular([p], tz.m.Adam)


def test_add_param_group():
    p, q = make_params([(2,), (3,)])
    optimizer = tz.Modular([p], tz.m.LR(0.5))
    optimizer.add_param_group({"params": q, "lr": 0.25})
    backward([p, q])
    start, grads = bits([p, q]), bits([p.grad, q.grad])
    optimizer.step()
    assert torch.equal(p, start[0] - 0.5 * grads[0])
    assert torch.equal(q, start[1] - 0.25 * grads[1])
    assert optimizer.param_groups[1]["params"] == [q]


def test_zero_grad():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LR(0.5))
    backward(params)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.count_nonzero() == 0 for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


# -- step --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chain", ["plain", "search", "approximation"])
def test_step_returns_the_loss_at_the_start(chain):
    modules = {
        "plain": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
        "search": lambda: [tz.m.LBFGS(), tz.m.Backtracking()],
        "approximation": lambda: [tz.m.SPSA(seed=0), tz.m.LR(1e-3)],
    }[chain]()
    params = make_params()
    optimizer = tz.Modular(params, *modules)
    for _ in range(3):
        expected = quadratic(params).item()
        loss = optimizer.step(closure_of(params))
        assert loss.item() == expected
        assert not loss.requires_grad
        assert quadratic(params).item() != expected


def test_step_without_a_closure_returns_none():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LR(0.1))
    backward(params)
    assert optimizer.step() is None


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (lambda: [tz.m.Adam(), tz.m.LR(1)], False),
        (lambda: [tz.m.LBFGS()], False),
        (lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()], True),
        (lambda: [tz.m.MeZO(), tz.m.LR(1)], True),
        (lambda: [tz.m.VectorProjection([tz.m.LBFGS(), tz.m.Backtracking()], project_params=True)], True),
    ],
)
def test_requires_closure(modules, expected):
    assert tz.Modular(make_params(), *modules()).requires_closure is expected


def test_unrolled_modules_are_depth_first():
    inner, outer = tz.m.EMA(0.9), tz.m.Add(1e-8)
    root = tz.m.RMSprop(0.99, inner=inner)
    divide = tz.m.DivModules(root, [tz.m.EMASquared(0.9), tz.m.Sqrt(), outer])
    last = tz.m.LR(0.1)
    optimizer = tz.Modular(make_params(), divide, last)
    names = [type(m).__name__ for m in optimizer.unrolled_modules]
    assert names == ["DivModules", "RMSprop", "EMA", "EMASquared", "Sqrt", "Add", "LR"]
    assert optimizer.unrolled_modules[2] is inner
    assert optimizer.unrolled_modules[5] is outer
    assert optimizer.modules == (divide, last)


# -- hooks -------------------------------------------------------------------------------------------------------------
def test_step_hooks_run_in_order_and_may_replace_the_closure():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LR(0.1))
    calls = []

    def before(opt, args, kwargs):
        calls.append(("before", opt is optimizer, params[0].detach().clone()))

        def shifted(backward=True):
            return args[1](backward) + 1000

        return (args[0], shifted), kwargs

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(
            lambda opt, args, kwargs: calls.append(("after", opt is optimizer, params[0].detach().clone()))
        ),
    ]
    start, expected = params[0].detach().clone(), quadratic(params).item() + 1000
    loss = optimizer.step(closure_of(params))
    assert loss.item() == expected
    assert [c[:2] for c in calls] == [("before", True), ("after", True)]
    assert torch.equal(calls[0][2], start)
    assert not torch.equal(calls[1][2], start)
    for handle in handles:
        handle.remove()
    optimizer.step(closure_of(params))
    assert len(calls) == 2


def test_global_step_hooks():
    params, calls = make_params(), []
    optimizer = tz.Modular(params, tz.m.LR(0.1))
    handles = [
        register_optimizer_step_pre_hook(lambda opt, args, kwargs: calls.append(("before", opt))),
        register_optimizer_step_post_hook(lambda opt, args, kwargs: calls.append(("after", opt))),
    ]
    try:
        run(optimizer, params, 2)
    finally:
        for handle in handles:
            handle.remove()
    run(optimizer, params, 1)
    assert calls == [("before", optimizer), ("after", optimizer)] * 2


def test_state_dict_hooks():
    params, calls = make_params(), []
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    run(optimizer, params, 2)
    optimizer.register_state_dict_pre_hook(lambda opt: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda opt, state: {**state, "more": 7})
    saved = optimizer.state_dict()
    assert saved["more"] == 7
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: calls.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda opt: calls.append("loaded"))
    optimizer.load_state_dict(saved)
    assert calls == ["save", "load", "loaded"]


def test_a_load_hook_may_replace_the_state_dict():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    saved = optimizer.state_dict()

    def halve(opt, state):
        return {**state, "param_groups": [{**g, "lr": g["lr"] / 2} for g in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_the_profiler_sees_the_step():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LR(0.1))
    backward(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#Modular.step" in {e.key for e in profile.key_averages()}


def test_watch_sees_the_update_after_every_module():
    p = torch.tensor([4.0, -8.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.ClipValue(5), tz.m.Mul(2), tz.m.LR(0.1))
    seen = []
    handle = optimizer.watch(lambda path, update: seen.append((path, update[0].tolist())))
    p.grad = p.detach().clone()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [("ClipValue", [4, -5]), ("Mul", [8, -10]), ("LR", [0.8, -1.0])]
    assert torch.allclose(p, torch.tensor([4 - 1.6, -8 + 2.0], dtype=torch.float64), atol=1e-15, rtol=0)


# -- copies ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_copy_continues_alone(copied, compile):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    optimizer = tz.Modular(model, tz.m.ClipNorm(1), tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1), compile=compile)
    optimizer.modules[1].set_param_groups([{"params": [model[0].weight], "beta1": 0.5}])
    params = list(model.parameters())
    run(optimizer, params, 2)
    other = copied(optimizer)
    others = other.param_groups[0]["params"]
    assert other.model is not model
    assert all(a is b for a, b in zip(others, other.model.parameters(), strict=True))
    assert other.modules[1].settings[others[0]]["beta1"] == 0.5  # the override moved to the copied parameter
    assert other.modules[1].settings[others[1]]["beta1"] == 0.9
    after = bits(params)
    run(other, others, 3)
    assert same(bits(params), after)
    run(optimizer, params, 3)
    assert same(bits(params), bits(others))
    assert other.compile is compile
    assert same(optimizer.state_dict(), other.state_dict())


def test_a_copied_optimizer_may_be_copied_before_its_first_step():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    others, other = copy.deepcopy((params, optimizer))
    run(optimizer, params, 2)
    run(other, others, 2)
    assert same(bits(params), bits(others))


# -- its tree ----------------------------------------------------------------------------------------------------------
def test_repr_is_a_tree():
    params = make_params([(4,), (2, 3)])
    groups = [{"params": params[0]}, {"params": params[1], "lr": 0.2}]
    optimizer = tz.Modular(groups, tz.m.RMSprop(0.99, inner=[tz.m.EMA(0.9), tz.m.Sign()]), tz.m.LR(0.1))
    lines = repr(optimizer).splitlines()
    assert lines[0] == "Modular("
    assert lines[1].startswith("  RMSprop(smoothing=0.99, ")
    assert lines[2].rstrip() == "    inner:"
    assert lines[3].startswith("      EMA(")
    assert lines[4] == "      Sign()"
    assert lines[5] == "  LR(lr=0.1)"
    assert lines[6].startswith("  group 0: 1 tensors, 4 parameters, lr=0.1")
    assert lines[7].startswith("  group 1: 1 tensors, 6 parameters, lr=0.2")
    assert lines[8] == ")"
    assert repr(tz.Modular(make_params(), tz.m.LR(0.1), compile=True)).startswith("Modular(compile=True")


def test_summary_has_the_bytes_of_state_by_module():
    params = make_params([(64, 8), (8,)])
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.EMA(0.9), tz.m.LR(0.1))
    assert optimizer.summary().endswith("state: 12.2 KiB from the first steps on")
    run(optimizer, params, 1)
    text = optimizer.summary()
    adam = 2 * 520 * 8 + 2 * 8  # two averages, and two step counts of eight bytes
    ema = 520 * 8
    line = next(line for line in text.splitlines() if line.strip().startswith("Adam("))
    assert line.endswith(f"[{adam / 1024:.1f} KiB]")
    line = next(line for line in text.splitlines() if line.strip().startswith("EMA("))
    assert line.endswith(f"[{ema / 1024:.1f} KiB]")
    line = next(line for line in text.splitlines() if line.strip().startswith("LR("))
    assert line.endswith("[0 B]")


# -- lr in every chain, schedulers -------------------------------------------------------------------------------------
def test_every_chain_has_an_lr():
    assert tz.Modular(make_params(), tz.m.Adam()).param_groups[0]["lr"] == 1.0
    assert tz.Modular(make_params(), tz.m.Adam(), tz.m.LR(0.3)).param_groups[0]["lr"] == 0.3
    assert tz.Modular(make_params(), tz.m.LBFGS(), tz.m.StrongWolfe()).param_groups[0]["lr"] == 1.0


def test_without_an_lr_module_the_lr_scales_the_final_update():
    for modules in (lambda: [tz.m.Sign()], lambda: [Flip()]):  # a rule; a module that is no rule
        p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        optimizer = tz.Modular([p], *modules())
        p.grad = torch.tensor([3.0, -0.5], dtype=torch.float64)
        optimizer.step()
        assert p.tolist() == [0.0, -1.0]
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.step()
        assert p.tolist() == [-0.25, -0.75]


class Flip(Module):
    """The sign of the update, as a module with a loop."""

    def step(self, var):
        for u in var.get_update():
            u.sign_()
        return var


def test_several_lr_modules_that_differ_keep_their_own():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(0.5), tz.m.LR(0.25))
    p.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert p.item() == -0.125
    optimizer.param_groups[0]["lr"] = 0.5  # scales the final update
    optimizer.step()
    assert p.item() == -0.125 - 0.0625


def _exponential(optimizer):
    return lr_scheduler.LambdaLR(optimizer, lambda t: 0.9**t)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "Cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20),
    "OneCycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=30),
    "Plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=0.3),
    "Lambda": _exponential,
    "Sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], [5]
    ),
}
#: torch's optimizer, the same with an LR module, and where the learning rate scales the final update.
OPTIMIZERS = {
    "Adam": (
        lambda ps: torch.optim.Adam(ps, lr=0.1),
        lambda: [tz.m.Adam(), tz.m.LR(0.1)],
        lambda: [tz.m.Adam()],
    ),
    "AdamW": (
        lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1),
        lambda: [tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1)],
        lambda: [tz.m.Adam(), tz.m.WeightDecay(0.1)],
    ),
    "SGD": (
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
        lambda: [tz.m.HeavyBall(0.9), tz.m.LR(0.1)],
        lambda: [tz.m.HeavyBall(0.9)],
    ),
}


def scheduled(optimizer, params, make):
    """Thirty steps under a scheduler; the settings it made."""
    scheduler = make(optimizer)
    keys = [k for k in ("lr", "momentum", "betas") if k in optimizer.param_groups[0]]
    trace = []
    for i in range(30):
        backward(params)
        optimizer.step()
        if i < 29:  # OneCycleLR has no step after its last
            scheduler.step(1 / (1 + i // 3)) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else (
                scheduler.step()
            )
        trace.append([optimizer.param_groups[0][k] for k in keys])
    return trace


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("lr_module", [True, False], ids=["LR", "final"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_schedulers_do_as_with_torch(schedule, kind, lr_module, compile):
    reference, with_lr, without = OPTIMIZERS[kind]
    theirs, ours = make_params(), make_params()
    expected = scheduled(reference(theirs), theirs, SCHEDULERS[schedule])
    optimizer = tz.Modular(ours, *(with_lr() if lr_module else without()), compile=compile)
    if not lr_module:
        optimizer.param_groups[0]["lr"] = 0.1
    assert scheduled(optimizer, ours, SCHEDULERS[schedule]) == expected
    assert len({lr for lr, *_ in expected}) > 3  # the schedule did something
    assert difference(ours, theirs) < 2e-14


def test_one_cycle_needs_something_to_cycle():
    optimizer = tz.Modular(make_params(), tz.m.Sign(), tz.m.LR(0.1))
    with pytest.raises(ValueError, match="momentum"):
        lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=30)
    lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=30, cycle_momentum=False)


def test_schedulers_know_groups():
    p, q = make_params([(2,), (3,)])
    optimizer = tz.Modular([{"params": p, "lr": 0.5}, {"params": q}], tz.m.LR(0.25))
    lr_scheduler.LambdaLR(optimizer, [lambda t: 0.5, lambda t: 2.0])
    start = bits([p, q])
    backward([p, q])
    optimizer.step()
    assert difference([p], [start[0] - 0.25 * p.grad]) < 1e-15
    assert difference([q], [start[1] - 0.5 * q.grad]) < 1e-15


def test_weight_averaging():
    model = nn.Linear(2, 1).double()
    params = list(model.parameters())
    optimizer = tz.Modular(model, tz.m.Adam(), tz.m.LR(0.1))
    averaged = AveragedModel(model)
    schedule = SWALR(optimizer, swa_lr=0.01, anneal_epochs=4, anneal_strategy="linear")
    seen, lrs = [], []
    for _ in range(4):
        backward(params)
        optimizer.step()
        averaged.update_parameters(model)
        schedule.step()
        seen.append(params[0].detach().clone())
        lrs.append(optimizer.param_groups[0]["lr"])
    assert torch.allclose(averaged.module.weight, torch.stack(seen).mean(0), atol=1e-14)
    assert lrs == pytest.approx([0.0775, 0.055, 0.0325, 0.01])


def test_maximal_precision_of_a_long_run():
    """The bias corrections of a long run stay those of torch (they are numbers, not running products)."""
    theirs, ours = make_params(), make_params()
    expected, optimizer = torch.optim.Adam(theirs, lr=1e-2), tz.Modular(ours, tz.m.Adam(), tz.m.LR(1e-2))
    for _ in range(300):
        backward(theirs)
        expected.step()
        backward(ours)
        optimizer.step()
    assert difference(ours, theirs) < 1e-13
    assert math.isfinite(quadratic(ours).item())
