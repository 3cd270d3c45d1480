"""A run of torch's optimizers goes on with a chain, as torch's own would have."""

import copy

import pytest
import torch

import torchzero_core as tz

m, optim = tz.m, torch.optim

PAIRS = {
    "Adam": (lambda ps: optim.Adam(ps, 0.1), lambda: [m.Adam(), m.LR(0.1)]),
    "Adam, amsgrad and L2": (
        lambda ps: optim.Adam(ps, 0.1, amsgrad=True, weight_decay=0.1),
        lambda: [m.WeightDecay(0.1), m.Adam(amsgrad=True), m.LR(0.1)],
    ),
    "AdamW": (
        lambda ps: optim.AdamW(ps, 0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2),
        lambda: [m.Adam(0.8, 0.95, 1e-6), m.WeightDecay(0.2), m.LR(0.1)],
    ),
    "SGD": (lambda ps: optim.SGD(ps, 0.1, weight_decay=0.1), lambda: [m.WeightDecay(0.1), m.LR(0.1)]),
    "SGD, momentum": (
        lambda ps: optim.SGD(ps, 0.1, momentum=0.8, dampening=0.3),
        lambda: [m.HeavyBall(0.8, 0.3), m.LR(0.1)],
    ),
    "SGD, nesterov": (
        lambda ps: optim.SGD(ps, 0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
        lambda: [m.WeightDecay(0.1), m.NAG(0.8), m.LR(0.1)],
    ),
    "SGD, maximize": (
        lambda ps: optim.SGD(ps, 0.01, momentum=0.5, maximize=True),
        lambda: [m.Negate(), m.HeavyBall(0.5), m.LR(0.01)],
    ),
    "NAdam": (lambda ps: optim.NAdam(ps, 0.1), lambda: [m.NAdam(), m.LR(0.1)]),
    "RAdam": (lambda ps: optim.RAdam(ps, 0.1), lambda: [m.RAdam(), m.LR(0.1)]),
    "Adamax": (lambda ps: optim.Adamax(ps, 0.1), lambda: [m.Adamax(), m.LR(0.1)]),
    "Adadelta": (lambda ps: optim.Adadelta(ps, 0.5), lambda: [m.Adadelta(), m.LR(0.5)]),
    "Adagrad": (
        lambda ps: optim.Adagrad(ps, 0.1, lr_decay=0.01),
        lambda: [m.Adagrad(lr_decay=0.01), m.LR(0.1)],
    ),
    "RMSprop": (
        lambda ps: optim.RMSprop(ps, 0.1, centered=True, momentum=0.5),
        lambda: [m.RMSprop(init="zeros", centered=True), m.HeavyBall(0.5), m.LR(0.1)],
    ),
}


@pytest.fixture(autouse=True)
def double():
    """torch keeps single numbers of an optimizer in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def params():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator).requires_grad_() for s in ((3, 4), (5,), ())]


def train(optimizer, steps):
    ps = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - 0.3).square().sum() + 0.2 * (3 * p).cos().sum() for p in ps).backward()
        optimizer.step()
    return ps


def moved(ps):
    return [p.detach().clone().requires_grad_() for p in ps]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_goes_on_as_torch_would(name, compiled):
    theirs, chain = PAIRS[name]
    old = theirs(params())
    ps = moved(train(old, 7))
    new = tz.Modular(ps, *chain(), compile=compiled)
    tz.optim.load_torch_state(new, old.state_dict())
    for ours, reference in zip(train(new, 20), train(old, 20), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-13)


def test_settings_of_the_state_win_and_are_said():
    ps = params()
    old = optim.AdamW(
        [{"params": ps[:1], "lr": 0.05}, {"params": ps[1:], "betas": (0.5, 0.9)}], 0.1, eps=1e-5, weight_decay=0.2
    )
    here = moved(train(old, 3))
    new = tz.Modular([{"params": here[:1]}, {"params": here[1:]}], m.Adam(), m.WeightDecay(0.1), m.LR(1.0))
    said = r"Adam\.eps=1e-05, WeightDecay\.weight_decay=0\.2, Adam\.eps=1e-05, Adam\.beta1=0\.5, Adam\.beta2=0\.9, Wei"
    with pytest.warns(UserWarning, match=said):
        tz.optim.load_torch_state(new, old.state_dict())
    assert [group["lr"] for group in new.param_groups] == [0.05, 0.1]
    assert new.param_groups[1]["betas"] == (0.5, 0.9)
    for ours, reference in zip(train(new, 20), train(old, 20), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-13)


def test_others_in_the_chain_start_afresh_and_betas_are_those_of_one_module():
    old = optim.Adam(params(), 0.1, betas=(0.7, 0.9))
    ps = moved(train(old, 4))
    new = tz.Modular(ps, m.Lion(0.7, 0.9), m.Adam(), m.NormalizeByEMA(), m.LR(0.1), advice=False)
    with pytest.warns(UserWarning, match=r"Adam\.beta1=0\.7"):
        tz.optim.load_torch_state(new, old.state_dict())
    assert new.param_groups[0]["Adam.beta1"] == 0.7
    assert new.state[ps[0]]["Adam.step"] == 4 and "NormalizeByEMA.step" not in new.state[ps[0]]
    train(new, 1)
    assert new.state[ps[0]]["Adam.step"] == 5 and new.current_step == 5


def test_a_scheduler_goes_on():
    old = optim.SGD(params(), 0.1, momentum=0.9)
    torch.optim.lr_scheduler.ExponentialLR(old, 0.5)
    train(old, 1)
    new = tz.Modular(moved(train(old, 1)), m.HeavyBall(0.9), m.LR(3.0))
    tz.optim.load_torch_state(new, old.state_dict())
    assert new.param_groups[0]["initial_lr"] == 0.1 and new.param_groups[0]["lr"] == 0.1


REFUSED = {
    "none": (
        lambda ps: optim.Adam(ps),
        [m.Lion, lambda: m.LR(0.1)],
        "goes to the module tz.m.Adam, of which the chain",
    ),
    "two": (lambda ps: optim.Adam(ps), [m.Adam, m.Adam, lambda: m.LR(0.1)], "the chain has 2: Adam > Adam_2 > LR"),
    "decay": (lambda ps: optim.AdamW(ps), [m.Adam, lambda: m.LR(0.1)], "weight_decay=0.01, which takes one"),
    "side": (
        lambda ps: optim.AdamW(ps),
        [lambda: m.WeightDecay(0.1), m.Adam, lambda: m.LR(0.1)],
        "tz.m.WeightDecay behind Adam; the chain has none there",
    ),
    "other side": (
        lambda ps: optim.Adam(ps, weight_decay=0.1),
        [m.Adam, lambda: m.WeightDecay(0.1), lambda: m.LR(0.1)],
        "tz.m.WeightDecay in front of Adam; the chain has none there",
    ),
    "maximize": (lambda ps: optim.Adam(ps, maximize=True), [m.Adam, lambda: m.LR(0.1)], "put tz.m.Negate() in front"),
    "groups": (
        lambda ps: optim.Adam([{"params": ps[:1]}, {"params": ps[1:]}]),
        [m.Adam, lambda: m.LR(0.1)],
        "has 2 parameter groups",
    ),
    "unknown": (lambda ps: optim.Rprop(ps), [m.Rprop], "is that of no optimizer whose state can be taken over"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_go_on_otherwise_is_refused_and_changes_nothing(name):
    theirs, modules, message = REFUSED[name]
    old = theirs(params())
    train(old, 2)
    new = tz.Modular(params(), *(make() for make in modules), advice=False)
    train(new, 2)
    before = copy.deepcopy(new.state_dict())
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        tz.optim.load_torch_state(new, old.state_dict())
    after = new.state_dict()
    assert before["param_groups"] == after["param_groups"] and before["state"].keys() == after["state"].keys()
    for values, others in zip(before["state"].values(), after["state"].values(), strict=True):
        assert values.keys() == others.keys()
        torch.testing.assert_close(list(values.values()), list(others.values()), rtol=0, atol=0)
