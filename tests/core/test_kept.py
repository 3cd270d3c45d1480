"""What modules keep is declared: a rule's state by slots, the rest by ``kept``; a file can make no step crash."""

import copy
import math

import pytest
import torch

import torchzero_core as tz
from tests.fuzz.check import refusal
from tests.problems import bits, closure_of, make_params, run, same
from tests.registry import ENTRIES, variants_slow
from torchzero_core.core import Transform
from torchzero_core.core.kept import kept_of

m = tz.m
Tensor = torch.Tensor
UNIVERSAL = {"step", "epoch", "members"}


def owner(optimizer, key):
    """The module that a state belongs to, and its name there; None where it is the optimizer's own."""
    here = key.rsplit("/", 1)[-1]
    modules = [x for x in optimizer.unrolled_modules if here.startswith(x.prefix)]
    if not modules:
        return None, here
    module = max(modules, key=lambda x: len(x.prefix))
    return module, here.removeprefix(module.prefix).removeprefix("global.")


@pytest.mark.parametrize("entry", variants_slow(ENTRIES))
@pytest.mark.filterwarnings("ignore")
def test_every_state_is_declared(entry):
    torch.manual_seed(0)
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    for state in optimizer.state.values():
        for key, value in state.items():
            module, name = owner(optimizer, key)
            if module is None or name in UNIVERSAL or name.startswith("generator:") or isinstance(module, m.Wrap):
                continue
            if isinstance(module, Transform) and name in module.slots:
                continue
            kind = kept_of(type(module)).get(name)
            assert kind is not None, f"{type(module).__name__} keeps {name!r} and does not declare it"
            assert same(kind.taken(key, value), value)


# -- damaged files -----------------------------------------------------------------------------------------------------
def is_number(v):
    return isinstance(v, (int, float)) and not isinstance(v, bool)


def several(v):
    return isinstance(v, Tensor) and v.numel() > 1


def floating(v):
    return isinstance(v, Tensor) and v.is_floating_point()


#: By name, what becomes of a value, and of which values.
DAMAGES = {
    "half": (lambda v: v.flatten()[: v.numel() // 2].clone(), several),
    "longer": (lambda v: torch.cat([v.flatten(), v.flatten()]), lambda v: isinstance(v, Tensor)),
    "more dimensions": (lambda v: v[None], several),
    "transposed": (lambda v: v.mT.contiguous(), lambda v: isinstance(v, Tensor) and v.ndim > 1),
    "empty": (lambda v: v.flatten()[:0].clone(), lambda v: isinstance(v, Tensor)),
    "complex": (lambda v: v.to(torch.complex64), lambda v: isinstance(v, Tensor)),
    "whole": (lambda v: v.to(torch.int64), floating),
    "truth": (lambda v: v.to(torch.bool), floating),
    "a number": (lambda v: 0.5, lambda v: isinstance(v, Tensor)),
    "not a number": (lambda v: v * math.nan, lambda v: is_number(v) or floating(v)),
    "infinite": (lambda v: v + math.inf, lambda v: is_number(v) or floating(v)),
    "negative": (lambda v: -v - 7, lambda v: is_number(v) or (isinstance(v, Tensor) and v.dtype is torch.int64)),
    "huge": (lambda v: 10**9, lambda v: isinstance(v, int)),
    "a fraction": (lambda v: v + 0.5, lambda v: isinstance(v, int)),
    "three": (lambda v: torch.full((3,), float(v)), is_number),
    "nothing": (lambda v: None, lambda v: True),
    "text": (lambda v: "text", lambda v: True),
    "a list": (lambda v: [v, v], lambda v: True),
    "missing": (None, lambda v: True),
}


def damaged(saved, index, key, change):
    """The state dict with one value changed."""
    out = copy.deepcopy(saved)
    if change is None:
        del out["state"][index][key]
    else:
        out["state"][index][key] = change(out["state"][index][key])
    return out


def look(entry, saved, index, key, change, compile):
    """Load a damaged state and make two steps: refused by a sentence with nothing changed, or it goes on."""
    params = make_params()
    optimizer = entry.optimizer(params, compile=compile)
    closure = closure_of(params)
    optimizer.step(closure)
    before, start = copy.deepcopy(optimizer.state_dict()), bits(params)
    try:
        optimizer.load_state_dict(damaged(saved, index, key, change))
    except ValueError as error:
        assert refusal(error), repr(error)
        assert same(before, optimizer.state_dict())
        optimizer.step(closure)
        return
    for _ in range(2):
        start = bits(params)
        try:
            optimizer.step(closure)
        except (ValueError, RuntimeError, TypeError) as error:
            assert refusal(error) or "after load_state_dict" in str(error), repr(error)
            assert same(start, bits(params))
            optimizer.reset()
            optimizer.step(closure)
            return


def damages(entry):
    torch.manual_seed(0)
    params = make_params()
    optimizer = entry.optimizer(params)
    run(optimizer, params, 3)
    saved, seen = copy.deepcopy(optimizer.state_dict()), set()
    for index, state in saved["state"].items():
        for key, value in state.items():
            if key not in seen:
                seen.add(key)
                for name, (change, applies) in DAMAGES.items():
                    if applies(value):
                        yield saved, index, key, name, change


#: Those whose modules keep more than rules do, and some whose rules keep a lot.
KEEPERS = [e for e in ENTRIES if kept_of(type(e.module())) or e.name in ("Adam", "MedianAveraging", "Wrap", "Dropout")]


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
@pytest.mark.filterwarnings("ignore")
def test_no_damaged_state_crashes_a_step(entry, compile):
    for saved, index, key, name, change in damages(entry):
        try:
            look(entry, saved, index, key, change, compile and entry.compiles)
        except Exception as error:
            raise AssertionError(f"{key}, {name}: {error!r}") from error


@pytest.mark.parametrize("entry", [e for e in KEEPERS if not e.variant], ids=lambda e: e.id)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_state_crashes_no_step(entry):
    """Every eleventh of the same."""
    for i, (saved, index, key, name, change) in enumerate(damages(entry)):
        if i % 11 == len(entry.name) % 11:
            try:
                look(entry, saved, index, key, change, compile=False)
            except Exception as error:
                raise AssertionError(f"{key}, {name}: {error!r}") from error
