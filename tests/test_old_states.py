"""Runs that commit 29132e5 has saved are continued by the present code: same names, same shapes, same steps.

How far off a continuation may end is not guessed. The file says where the old code itself ended when each parameter
started one unit of rounding beside where it was (`noise`, see `tests/make_states.py`): what computes the same formulas
in another order makes errors of that kind, a few of them a step. A state that is not found, or read for another one, is
off by the size of a step, which is a thousand times as much. Where a rule is chaotic (the sign of a difference, a line
search in bfloat16) the noise is of the size of a step too, and only names and shapes are compared.
"""

import math
import re
import warnings
from pathlib import Path

import pytest
import torch

from tests.make_states import AFTER, build, continued, distance, outline
from tests.problems import run
from tests.registry import ENTRIES

FILE = Path(__file__).parent / "data" / "states_29132e5.pt"
CASES = torch.load(FILE, weights_only=True)
#: How many units of rounding, or of what one of them leads to, an end may be off.
ROUNDINGS = 4

#: Whose rule has changed since: it reads the old state, but goes on in another way, and may keep more than it did.
#: ClipNormByEMA and NormalizeByEMA hold the average itself to its growth now, and not only the norm that is used.
#: Searches behind conjugate gradients and quasi-Newton methods try another first step, and allow for the rounding of
#: the loss in float32.
#: NewtonCG begins with a looser tolerance, and has another one from then on.
CHANGED = (
    "NewtonCG (",
    "NewtonCG-search",
    "ClipNormByEMA",
    "NormalizeByEMA",
    "five modules",
    "LBFGS-search",
    "PolakRibiere-search",
    "newton (",
)

cases = pytest.mark.parametrize("name", CASES)


def assert_ends(params, case, end):
    """The parameters are where the old code ended, to rounding."""
    for p, expected, off, noise in zip(params, end, distance(params, end), case["noise"], strict=True):
        assert p.dtype == expected.dtype
        size = max(1.0, float(expected.abs().max()))
        assert off <= ROUNDINGS * max(torch.finfo(p.dtype).eps * size, noise), f"{p} is {off} from {expected}"


def assert_same_outline(now, then, where="state", *, changed=False):
    """The same names and shapes, or more names where a rule has changed; counts and words are equal, numbers close."""
    if isinstance(then, dict):
        if changed:
            now = {key: value for key, value in now.items() if key in then}
        assert now.keys() == then.keys(), f"{where}: {sorted(map(str, now.keys() ^ then.keys()))} on one side only"
        for key in then:
            assert_same_outline(now[key], then[key], f"{where}[{key!r}]", changed=changed)
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for i, (a, b) in enumerate(zip(now, then, strict=True)):
            assert_same_outline(a, b, f"{where}[{i}]", changed=changed)
    elif isinstance(then, float):
        assert isinstance(now, float), where
        assert changed or math.isclose(now, then, rel_tol=1e-3), f"{where}: {now} is not {then}"
    else:
        assert type(now) is type(then) and now == then, f"{where}: {now} is not {then}"


def test_every_entry_that_there_was_is_still_there():
    known = {e.id for e in ENTRIES} | {""}
    assert {case["spec"]["entry"] for case in CASES.values()} <= known
    assert len(CASES) >= 216
    assert FILE.stat().st_size < 500_000


@cases
def test_an_old_run_continues_as_it_did(name):
    params, optimizer = continued(CASES[name])
    changed = name.startswith(CHANGED)
    if not changed:
        assert_ends(params, CASES[name], CASES[name]["eager"])
    assert_same_outline(outline(optimizer.state_dict()["state"]), CASES[name]["state"], changed=changed)


def variants_slow():
    """The cases, those of an entry's variants slow: each is compiled by itself."""
    seen = set()
    for name in CASES:
        module, kind = re.fullmatch(r"([^-]*?)(?:-.*)? (\(.*\))", name).groups()
        yield pytest.param(name, marks=pytest.mark.slow if (module, kind) in seen else ())
        seen.add((module, kind))


@pytest.mark.parametrize("name", list(variants_slow()))
def test_an_old_run_continues_as_it_did_compiled(name):
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect")  # on the parts that are no rules
        params, optimizer = continued(case, compile=True)
    changed = name.startswith(CHANGED)
    if not changed:
        assert_ends(params, case, case["eager"] if case["compiled"] is None else case["compiled"])
    assert_same_outline(outline(optimizer.state_dict()["state"]), case["state"], changed=changed)


@pytest.mark.parametrize("name", ["Adam (float32)", "LBFGS (float32)", "muon and adam (mixed)"])
def test_the_state_is_what_decides_the_end(name):
    """The bound is so narrow that a run which starts with an empty state does not keep it."""
    case = CASES[name]
    params = [p.clone().requires_grad_() for p in case["saved"]["params"]]
    spec = case["spec"]
    optimizer = build(params, entry=spec["entry"], chain=spec["chain"], scale=spec["scale"])
    torch.manual_seed(1)
    run(optimizer, params, AFTER)
    with pytest.raises(AssertionError, match=" from "):
        assert_ends(params, case, case["eager"])
