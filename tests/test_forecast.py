"""What `summary()` says before the first step is what is held after some."""

import re

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import bits, closure_of, make_params, run, same
from tests.registry import ENTRIES
from torchzero_core.core.forecast import forecast
from torchzero_core.core.show import sizes

#: What they keep depends on numbers that come with the first steps.
UNKNOWN = {
    "HigherOrderNewton",
    "HigherOrderNewton-proximal",
    "TrustCG-lbfgs",
    "LevenbergMarquardt",
    "LevenbergMarquardt-plain",
    "GaussNewton",
}
MORE_LATER = {"TrustRegion", "Switch-search", "SwitchWhen"}
FEW = [e for e in ENTRIES if not e.variant][::6] + [e for e in ENTRIES if e.name in ("SOAP", "Shampoo", "Adafactor")]


def check(entry, dtype=torch.float64):
    params = make_params(dtype=dtype)
    optimizer = entry.optimizer(params)
    paths = [m.path for m in optimizer.unrolled_modules]
    found = forecast(optimizer)
    assert (found is None) == (entry.id in UNKNOWN)
    assert not any(optimizer.state_dicts()) and all(p.grad is None for p in params)
    if found is None:
        return
    run(optimizer, params, 4)
    said, held = sizes(found.state, paths), sizes(optimizer.state_dicts(), paths)
    if entry.id in MORE_LATER:
        assert found.at_least and all(n <= held[path] for path, n in said.items())
    else:
        assert said == held


@pytest.mark.parametrize("entry", FEW, ids=lambda e: e.id)
def test_the_bytes_of_each_module_are_known_before_the_first_step(entry):
    check(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_the_bytes_of_every_entry_are_known_before_the_first_step(entry):
    check(entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.bfloat16 is True and e.compiles], ids=lambda e: e.id)
def test_the_bytes_of_every_rule_are_known_in_bfloat16(entry):
    check(entry, torch.bfloat16)


def test_what_declares_its_state_is_known_exactly():
    for entry in FEW:
        later = any(m.state_comes_later for m in entry.build())
        if entry.compiles and not entry.syncs and not entry.closure and not later:
            assert not forecast(entry.optimizer(make_params())).at_least, entry.id


def last(text):
    return text.splitlines()[-1]


def test_the_summary_says_when_it_speaks_of_the_future():
    params = make_params([(64, 8), (8,)])
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1), compile=True)
    said = optimizer.summary()
    assert last(said) == "state: 8.1 KiB from the first steps on"
    run(optimizer, params, 2)
    assert last(optimizer.summary()) == "state: 8.1 KiB"
    assert said.splitlines()[:-1] == optimizer.summary().splitlines()[:-1]


def test_groups_models_and_lazy_layers():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = tz.Modular(model, tz.m.Split("hidden_matrices", tz.m.Muon(), tz.m.Adam(amsgrad=True)), tz.m.LR(0.1))
    said = last(optimizer.summary())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert said == f"{last(optimizer.summary())} from the first steps on"
    groups = [
        {"params": [torch.zeros(3, requires_grad=True)], "amsgrad": True},
        {"params": [torch.zeros(5).requires_grad_()]},
    ]
    assert last(tz.Modular(groups, tz.m.Adam()).summary()).startswith(f"state: {3 * 12 + 5 * 8 + 2 * 8 + 8 - 8} B")
    assert last(tz.Modular(nn.LazyLinear(2), tz.m.Adam()).summary()) == "state: unknown until the first step"


def test_a_frozen_parameter_has_no_state():
    params = make_params([(6,), (4,)])
    params[1].requires_grad_(False)
    optimizer = tz.Modular(params, tz.m.EMA(0.9), tz.m.LR(0.1))
    assert last(optimizer.summary()).startswith("state: 48 B")


def test_nobody_elses_code_runs_for_it():
    called = []

    class ByHand(tz.Module):
        def step(self, var):
            called.append(1)
            return var

    lines = []
    params = make_params()
    optimizer = tz.Modular(params, ByHand(), tz.m.PrintUpdate(print_fn=lines.append), tz.m.EMA(0.9), tz.m.LR(0.1))
    before, rng = bits(params), torch.get_rng_state()
    text = optimizer.summary()
    assert not called and not lines
    assert "ByHand()  [unknown until the first step]" in text
    assert last(text) == "state: at least 88 B from the first steps on"
    assert same(before, bits(params)) and torch.equal(rng, torch.get_rng_state())


def test_the_trial_leaves_no_trace_in_what_follows():
    def end(*, looks):
        torch.manual_seed(0)
        params = make_params()
        optimizer = tz.Modular(params, tz.m.RandomizedFDM(), tz.m.Adam(), tz.m.LR(0.1))
        if looks:
            optimizer.summary()
        for _ in range(3):
            optimizer.step(closure_of(params))
        return bits(params), optimizer.state_dict()["state"]

    assert same(end(looks=True), end(looks=False))


@pytest.mark.parametrize("module", [tz.m.Shampoo, tz.m.SOAP, tz.m.Muon, tz.m.Adafactor])
def test_an_embedding_takes_no_memory_to_ask(module):
    """Nothing of the size of 50257² is ever wanted, and nothing at all is allocated to know it."""
    params = [torch.empty(s, device="meta", requires_grad=True) for s in [(50257, 768), (768, 3072), (768,)]]
    text = tz.Modular(params, module(), tz.m.LR(0.1)).summary()
    amount, unit = re.fullmatch(r"state: ([\d.]+) (MiB|GiB|KiB) from the first steps on", last(text)).groups()
    assert float(amount) * {"KiB": 1, "MiB": 2**10, "GiB": 2**20}[unit] < 1.5 * 2**20, text
