"""Steps are counted for each parameter (K6)."""

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, make_params, same, segments

SHAPES = [(3, 2), (4,), (1,)]
COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def difference(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


def chains():
    """torch's optimizers, and the chains that are the same."""
    return {
        "Adam": (lambda ps: torch.optim.Adam(ps, lr=0.1), lambda: [tz.m.Adam(), tz.m.LR(0.1)]),
        "clipped Adam": (
            lambda ps: torch.optim.Adam(ps, lr=0.1),
            lambda: [tz.m.ClipValue(99), tz.m.Adam(), tz.m.LR(0.1)],
        ),
        "AdamW": (
            lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.3),
            lambda: [tz.m.Adam(), tz.m.WeightDecay(0.3), tz.m.LR(0.1)],
        ),
        "SGD": (lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), lambda: [tz.m.HeavyBall(0.9), tz.m.LR(0.1)]),
        "Nesterov": (
            lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
            lambda: [tz.m.NAG(0.9), tz.m.LR(0.1)],
        ),
        "Adagrad": (lambda ps: torch.optim.Adagrad(ps, lr=0.1), lambda: [tz.m.Adagrad(), tz.m.LR(0.1)]),
    }


def step(optimizer, params, missing=()):
    backward(params)
    for i in missing:
        params[i].grad = None
    optimizer.step()


@COMPILE
@pytest.mark.parametrize("kind", chains())
def test_gradients_that_come_and_go(kind, compile):
    reference, modules = chains()[kind]
    ours, theirs = make_params(SHAPES), make_params(SHAPES)
    optimizer, expected = tz.Modular(ours, *modules(), compile=compile), reference(theirs)
    for missing in ([1], [], [0, 1], [2], [0, 1, 2], [], [1, 2], []):
        before = bits(ours)
        step(optimizer, ours, missing)
        step(expected, theirs, missing)
        assert all(torch.equal(ours[i], before[i]) for i in missing)  # no momentum, no weight decay
    assert difference(ours, theirs) < 1e-14


@COMPILE
@pytest.mark.parametrize("kind", chains())
def test_a_parameter_added_later(kind, compile):
    reference, modules = chains()[kind]
    ours, theirs = make_params(SHAPES), make_params(SHAPES)
    optimizer, expected = tz.Modular(ours[:2], *modules(), compile=compile), reference(theirs[:2])
    for _ in range(3):
        step(optimizer, ours)
        step(expected, theirs)
    optimizer.add_param_group({"params": ours[2:], "lr": 0.2})
    expected.add_param_group({"params": theirs[2:], "lr": 0.2})
    for missing in ([], [0], [2], []):
        step(optimizer, ours, missing)
        step(expected, theirs, missing)
    assert difference(ours, theirs) < 1e-14


def test_the_counts_are_state():
    params = make_params(SHAPES)
    optimizer = tz.Modular(params[:2], tz.m.Adam(), tz.m.LR(0.1))
    step(optimizer, params)
    step(optimizer, params, [0])
    optimizer.add_param_group({"params": params[2]})
    step(optimizer, params)
    state = optimizer.state_dict()["state"]
    assert [state[i]["Adam.step"] for i in range(3)] == [2, 3, 1]


def test_the_first_step_of_a_late_parameter_is_as_long_as_of_an_early_one():
    """Without own counts the bias corrections would make it 1 − β₁ and so on of it."""
    p, q = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1))
    for _ in range(5):
        p.grad = torch.ones_like(p)
        optimizer.step()
    optimizer.add_param_group({"params": q})
    q.grad = torch.full_like(q, 3.0)
    optimizer.step()
    assert q.item() == pytest.approx(-0.1, rel=1e-8)


@pytest.mark.parametrize("module", [lambda: tz.m.EMA(0.9, debiased=True), lambda: tz.m.Debias(beta1=0.9)])
def test_rules_other_than_adam_count_too(module):
    p, q = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = tz.Modular([p, q], module(), tz.m.LR(1.0))
    first = 0.0
    for i in range(4):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q) if i == 3 else None
        before = p.item()
        optimizer.step()
        if i == 0:
            first = p.item()
    assert q.item() == first
    assert abs(p.item() - before) <= abs(first) + 1e-12


def test_no_gradient_at_all():
    params = make_params(SHAPES)
    optimizer = tz.Modular(params, tz.m.ClipNorm(1), tz.m.Adam(), tz.m.WeightDecay(0.1), tz.m.LR(0.1))
    before = bits(params)
    optimizer.step()
    assert same(bits(params), before)
    step(optimizer, params)
    assert optimizer.state_dict()["state"][0]["Adam.step"] == 1


@COMPILE
def test_many_patterns_of_missing_gradients_keep_caches_small(compile):
    """A mixture of experts uses others at every step."""
    params = make_params([(2,)] * 12)
    theirs = make_params([(2,)] * 12)
    optimizer = tz.Modular(params, tz.m.ClipValue(99), tz.m.Adam(), tz.m.LR(0.1), compile=compile)
    expected = torch.optim.Adam(theirs, lr=0.1)
    for i in range(60):
        missing = [j for j in range(12) if (i * 7 + j * j * 5) % 11 < 4]
        step(optimizer, params, missing)
        step(expected, theirs, missing)
    assert difference(params, theirs) < 1e-13
    assert all(len(segment.programs) <= 4 for segment in segments(optimizer))
