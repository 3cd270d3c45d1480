"""What is saved, what is loaded, what is refused (K7)."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, run, same, tensors_in
from torchzero_core.core import Module

ROOT = Path(__file__).parents[2]
COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def chain():
    return [
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(max_ema_growth=1.1),
        tz.m.WeightDecay(1e-4),
        tz.m.LR(1e-1),
    ]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def tree(value):
    """Only tensors and plain values?"""
    if isinstance(value, dict):
        return all(isinstance(k, (str, int)) for k in value) and all(map(tree, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(tree, value))
    return type(value) is torch.Tensor or value is None or type(value) in (int, float, bool, str)


# -- format ------------------------------------------------------------------------------------------------------------
def test_the_format_is_torchs():
    params = make_params()
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = tz.Modular(groups, *chain())
    run(optimizer, params, 2)
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert set(saved["state"]) == {0, 1, 2}
    assert [g["params"] for g in saved["param_groups"]] == [[0, 1], [2]]
    assert [g["lr"] for g in saved["param_groups"]] == [0.1, 0.5]
    assert {"Adam.exp_avg", "Adam.exp_avg_sq", "Adam.step"} <= set(saved["state"][2])
    assert all(tree(v) for v in saved.values())
    everywhere = set.intersection(*map(set, saved["state"].values()))
    wide = {n for n in saved["state"][0] if n.startswith("NormalizeByEMA")} - everywhere
    assert wide == set() or all(n not in saved["state"][i] for i in (1, 2) for n in wide)


def test_names_of_parameters_are_kept():
    model = nn.Linear(2, 1)
    saved = tz.Modular(model, *chain()).state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_a_state_dict_shares_its_tensors_as_torchs_does_and_a_loaded_one_does_not():
    params = make_params()
    optimizer = tz.Modular(params, *chain())
    run(optimizer, params, 2)
    saved = optimizer.state_dict()
    assert saved["state"][0]["Adam.exp_avg"] is optimizer.state[params[0]]["Adam.exp_avg"]
    kept = copy.deepcopy(saved)
    others = [p.detach().clone().requires_grad_() for p in params]
    other = tz.Modular(others, *chain())
    other.load_state_dict(saved)
    run(other, others, 3)
    assert same(kept, saved)
    assert saved["state"][0].keys() == kept["state"][0].keys()


# -- resume ------------------------------------------------------------------------------------------------------------
RESUME = """
import sys, torch, torchzero_core as tz
from tests.core.test_checkpoint import chain
from tests.problems import make_params, run
saved = torch.load(sys.argv[1], weights_only=True)
params = make_params()
with torch.no_grad():
    for p, value in zip(params, saved["params"]):
        p.copy_(value)
optimizer = tz.Modular([{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "beta1": 0.5}], *chain())
optimizer.load_state_dict(saved["optimizer"])
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
scheduler.load_state_dict(saved["scheduler"])
for _ in range(4):
    run(optimizer, params, 1)
    scheduler.step()
torch.save([p.detach() for p in params], sys.argv[1])
"""


def test_resumes_bit_for_bit_with_its_scheduler_in_a_fresh_process(tmp_path):
    params = make_params()
    optimizer = tz.Modular([{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "beta1": 0.5}], *chain())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for i in range(8):
        if i == 4:
            state = dict(params=bits(params), optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
            torch.save(state, tmp_path / "state.pt")
        run(optimizer, params, 1)
        scheduler.step()
    file = tmp_path / "state.pt"
    command = [sys.executable, "-W", "error", "-c", RESUME, str(file)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert same(torch.load(file, weights_only=True), bits(params))


@pytest.mark.parametrize("start", [False, True], ids=["from eager", "from compiled"])
def test_eager_and_compiled_load_each_others_state(start):
    params = make_params()
    first = tz.Modular(params, *chain(), compile=start)
    run(first, params, 3)
    others = [p.detach().clone().requires_grad_() for p in params]
    second = tz.Modular(others, *chain(), compile=not start)
    second.load_state_dict(through_a_file(first.state_dict()))
    run(first, params, 4)
    run(second, others, 4)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(params, others, strict=True)) < 1e-14
    ours, theirs = first.state_dict()["state"], second.state_dict()["state"]
    assert {i: list(s) for i, s in ours.items()} == {i: list(s) for i, s in theirs.items()}
    for i in ours:
        for name, value in ours[i].items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == theirs[i][name].dtype
                assert value.shape == theirs[i][name].shape
            else:
                assert value == theirs[i][name]


@COMPILE
def test_loading_into_an_optimizer_in_use(compile):
    """Rolling back: what was resolved, bound and pointed to is forgotten."""
    params = make_params()
    optimizer = tz.Modular(params, *chain(), compile=compile)
    run(optimizer, params, 2)
    start, saved = bits(params), through_a_file(optimizer.state_dict())
    run(optimizer, params, 3)
    end = bits(params)
    optimizer.param_groups[0]["lr"] = 99.0
    with torch.no_grad():
        torch._foreach_copy_(params, start)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.1
    run(optimizer, params, 3)
    assert same(bits(params), end)


def test_the_count_of_steps_is_saved():
    seen = []

    class Look(Module):
        def step(self, var):
            seen.append(var.current_step)
            return var

    params = make_params()
    optimizer = tz.Modular(params, Look(), tz.m.LR(0.1))
    run(optimizer, params, 2)
    other = tz.Modular(params, Look(), tz.m.LR(0.1))
    other.load_state_dict(optimizer.state_dict())
    run(other, params, 1)
    assert seen == [0, 1, 2]


# -- parameters, dtypes, devices ---------------------------------------------------------------------------------------
def test_loading_leaves_the_parameters_alone():
    params = make_params()
    optimizer = tz.Modular(params, *chain())
    run(optimizer, params, 2)
    saved = through_a_file(optimizer.state_dict())
    run(optimizer, params, 1)
    before, pointers = bits(params), [p.data_ptr() for p in params]
    optimizer.load_state_dict(saved)
    assert same(bits(params), before)
    assert [p.data_ptr() for p in params] == pointers
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], params, strict=True))
    assert all(p in optimizer.state for p in params)


class Mixed(Module):
    """State of dtypes and shapes that are not the parameter's."""

    def step(self, var):
        for p in var.params:
            s = self.state[p]
            s.setdefault("double", torch.full((2, 2), 1 / 3, dtype=torch.float64))
            s.setdefault("half", torch.ones(3, dtype=torch.bfloat16))
            s.setdefault("index", torch.arange(4))
            s.setdefault("mask", torch.tensor([True, False]))
            s.setdefault("nested", {"list": [torch.zeros(1, dtype=torch.float64), 1, "text"], "pair": (1.5, None)})
        return var


def test_state_tensors_keep_their_dtype():
    """torch.optim casts floating state to the parameter's dtype; here a float64 statistic stays one."""
    params = make_params(dtype=torch.bfloat16)
    optimizer = tz.Modular(params, Mixed(), tz.m.LR(0.1))
    run(optimizer, params, 1)
    other = tz.Modular(make_params(dtype=torch.bfloat16), Mixed(), tz.m.LR(0.1))
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    before = optimizer.state_dict()["state"]
    after = other.state_dict()["state"]
    assert same(before, after)
    assert [t.dtype for t in tensors_in(after[0])] == [t.dtype for t in tensors_in(before[0])]
    assert type(after[0]["Mixed.nested"]["pair"]) is tuple


# -- refused -----------------------------------------------------------------------------------------------------------
def trained(*modules, params=None):
    params = make_params() if params is None else params
    optimizer = tz.Modular(params, *modules)
    run(optimizer, params, 2)
    return params, optimizer


REFUSED = {
    "extra": (
        lambda: [tz.m.Adam(), tz.m.EMA(0.9), tz.m.LR(0.1)],
        ["another chain", "it has EMA, which this chain does not", "saved: Adam > EMA > LR", "here:  Adam > LR"],
    ),
    "missing": (lambda: [tz.m.LR(0.1)], ["this chain has Adam, which it does not", "saved: LR"]),
    "both": (lambda: [tz.m.Lion(), tz.m.LR(0.1)], ["it has Lion, which", "this chain has Adam, which it does not"]),
    "order": (lambda: [tz.m.LR(0.1), tz.m.Adam()], ["the same modules stand in another order", "saved: LR > Adam"]),
    "child": (lambda: [tz.m.RMSprop(inner=tz.m.EMA(0.9)), tz.m.LR(0.1)], ["it has RMSprop, RMSprop.inner.EMA"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_state_of_another_chain_is_refused_and_nothing_changes(case):
    make, words = REFUSED[case]
    _, other = trained(*make())
    params, optimizer = trained(tz.m.Adam(), tz.m.LR(0.1))
    before, values = copy.deepcopy(optimizer.state_dict()), bits(params)
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict(through_a_file(other.state_dict()))
    for word in words:
        assert word in str(error.value)
    assert same(before, optimizer.state_dict())
    assert same(values, bits(params))
    run(optimizer, params, 1)


def test_torchs_own_state_is_refused():
    _, optimizer = trained(tz.m.Adam(), tz.m.LR(0.1))
    plain = torch.optim.Adam(make_params())
    backward(plain.param_groups[0]["params"])
    plain.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"one of torch's optimizers\. .* tz\.optim\.load_torch_state\(optimizer"):
        optimizer.load_state_dict(plain.state_dict())
    of_others = plain.state_dict()
    del of_others["param_groups"][0]["maximize"]  # which all of torch's have
    with pytest.raises(ValueError, match=r"keeps step, exp_avg, exp_avg_sq, .* tz\.optim\.load_torch_state\(optimizer"):
        optimizer.load_state_dict(of_others)
    assert same(before, optimizer.state_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "2 parameter groups, .* different number"),
        (lambda s: s["param_groups"][0]["params"].pop(), "group 0 has 2 parameters, here 3"),
        (lambda s: s["state"][1].update({"Adam.exp_avg": torch.zeros(7)}), r"shape \(7,\), its parameter here \(4,\)"),
    ],
)
def test_the_state_of_another_model_is_refused(change, words):
    _, optimizer = trained(tz.m.Adam(), tz.m.LR(0.1))
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved)
    assert same(before, optimizer.state_dict())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: tz.m.HeavyBall(0.9), "HeavyBall.exp_avg"),
        (lambda: tz.m.NAG(0.9), "NAG.velocity"),
        (lambda: tz.m.Adagrad(), "Adagrad.sq_sum"),
    ],
)
def test_shapes_of_every_elementwise_state_are_checked(make, name):
    """A state of another shape would be read out of bounds by compiled code."""
    _, other = trained(make(), tz.m.LR(0.1), params=make_params([(2,), (3,)]))
    _, optimizer = trained(make(), tz.m.LR(0.1), params=make_params([(2,), (5,)]))
    before = copy.deepcopy(optimizer.state_dict())
    assert name in before["state"][1]
    with pytest.raises(ValueError, match=r"shape \(3,\), its parameter here \(5,\)"):
        optimizer.load_state_dict(other.state_dict())
    assert same(before, optimizer.state_dict())


@COMPILE
@pytest.mark.parametrize("modules", [chain, lambda: [tz.m.Adam(), tz.m.LR(0.1)]], ids=["five", "Adam"])
@pytest.mark.parametrize("what", ["dtype", "layout"])
def test_a_state_of_another_dtype_or_layout_is_brought_to_the_parameters(what, modules, compile):
    """Kernels and compiled code go by memory order and by the parameter's dtype."""
    params = make_params([(4, 5), (2, 3, 2, 2)])
    optimizer = tz.Modular(params, *modules(), compile=compile)
    run(optimizer, params, 3)
    if what == "dtype":
        others = [p.detach().float() for p in params]
    else:
        a, b = bits(params)
        others = [a.t().contiguous().t(), b.contiguous(memory_format=torch.channels_last)]
    others = [p.requires_grad_() for p in others]
    other = tz.Modular(others, *modules(), compile=compile)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, 3)
    run(other, others, 3)
    for a, b in zip(params, others, strict=True):
        assert torch.allclose(a, b.double(), rtol=0, atol=1e-5 if what == "dtype" else 1e-13)


# -- names -------------------------------------------------------------------------------------------------------------
def names(*modules):
    _, optimizer = trained(*modules)
    return {n for s in optimizer.state_dict()["state"].values() for n in s}


def test_another_module_renames_nothing():
    plain = names(tz.m.EMA(0.9), tz.m.RMSprop(inner=tz.m.EMA(0.5)), tz.m.LR(0.1))
    more = names(
        tz.m.ClipNorm(1), tz.m.EMA(0.9), tz.m.Adam(), tz.m.RMSprop(inner=tz.m.EMA(0.5)), tz.m.LR(0.1), tz.m.Lion()
    )
    assert plain < more
    assert {n for n in plain if "EMA" in n} == {"EMA.exp_avg", "RMSprop.inner.EMA.exp_avg"} | {
        n for n in plain if n.endswith("EMA.step")
    }


def test_only_a_repeated_name_gets_a_number():
    found = names(tz.m.EMA(0.9), tz.m.EMA(0.8), tz.m.EMA(0.7), tz.m.LR(0.1))
    assert {n.split(".")[0] for n in found} == {"EMA", "EMA_2", "EMA_3", "Modular"}


# -- torch.distributed.checkpoint --------------------------------------------------------------------------------------
def _distributed(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    return model, list(model.parameters()), tz.Modular(model, *make())


DISTRIBUTED = {
    "five": chain,
    "search": lambda: [tz.m.LBFGS(history_size=3), tz.m.Backtracking()],
    "random": lambda: [tz.m.SPSA(), tz.m.Adam(), tz.m.LR(0.1)],
}


@pytest.mark.parametrize("case", DISTRIBUTED)
@pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::UserWarning:torch.distributed")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated", "ignore:torch.distributed is ")
def test_distributed_checkpoint(case, tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model, params, optimizer = _distributed(DISTRIBUTED[case])
    run(optimizer, params, 3)
    dcp.save(get_optimizer_state_dict(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    start = bits(params)
    run(optimizer, params, 3)

    other_model, others, other = _distributed(DISTRIBUTED[case])
    run(other, others, 1)  # loading needs a state to load into
    with torch.no_grad():
        torch._foreach_copy_(others, start)
    target = get_optimizer_state_dict(other_model, other)
    dcp.load(target, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(other_model, other, target)
    assert same(bits(others), start)
    run(other, others, 3)
    assert same(bits(others), bits(params))


@pytest.mark.parametrize("case", DISTRIBUTED)
def test_a_flat_state_dict_keeps_everything(case):
    """Checkpoints of names: each entry of the state under the name of its parameter."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model, params, optimizer = _distributed(DISTRIBUTED[case])
    run(optimizer, params, 3)
    saved = through_a_file(get_optimizer_state_dict(model, optimizer, options=options))
    other_model, others, other = _distributed(DISTRIBUTED[case])
    run(other, others, 1)
    with torch.no_grad():
        torch._foreach_copy_(others, params)
    set_optimizer_state_dict(other_model, other, saved, options=options)
    run(optimizer, params, 3)
    run(other, others, 3)
    assert same(bits(others), bits(params))


def test_a_refused_load_in_the_middle_of_training():
    params, optimizer = trained(*chain())
    with pytest.raises(ValueError):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="has 'state' and 'param_groups', and this one has not"):
        optimizer.load_state_dict({"state": {}})
    optimizer.step(closure_of(params))
