"""Settings that a closure changes count in the same step, as torch's optimizers read their groups after it."""

import pytest
import torch

import torchzero_core as tz

m = tz.m


def train(make, setting, values, **options):
    """Steps whose closure first sets a value of the group; where they lead."""
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = make([p], **options)
    now = {}

    def closure(backward=True):
        for group in optimizer.param_groups:
            group[setting] = now["value"]
        loss = (p**2 + p).sum()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    for value in values:
        now["value"] = value
        optimizer.step(closure)
    return p.detach()


def chain(*modules):
    return lambda params, **options: tz.Modular(params, *(module() for module in modules), **options)


def sgd(**options):
    return lambda params: torch.optim.SGD(params, **{"lr": 0.1, **options})


LR = lambda: m.LR(0.1)  # noqa: E731
CASES = {
    "lr": ((LR,), "lr", sgd()),
    "lr of the update": ((lambda: m.Mul(0.1), lambda: m.Identity()), "lr", sgd()),
    "momentum": ((lambda: m.HeavyBall(0.5), LR), "momentum", sgd(momentum=0.5)),
    "weight_decay": ((lambda: m.WeightDecay(0.1), LR), "weight_decay", sgd(weight_decay=0.1)),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_as_torch(case, compiled):
    modules, setting, torch_s = CASES[case]
    values = [0.2, 0.2, 0.05, 0.3, 0.3]
    ours = train(chain(*modules), setting, values, compile=compiled)
    if case == "lr of the update":  # 0.1 of the module times the group's
        expected = train(sgd(), setting, [0.1 * v for v in values])
    else:
        expected = train(torch_s, setting, values)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_adam(compiled):
    values = [0.1, 0.1, 0.001, 0.5]
    ours = train(chain(m.Adam, LR), "lr", values, compile=compiled)
    theirs = train(lambda params: torch.optim.Adam(params, 0.1), "lr", values)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)


def test_a_learning_rate_behind_a_search_that_needs_the_closure():
    """The step of SPSA is its estimate times the lr, which a module behind it applies."""
    make = chain(lambda: m.SPSA(seed=0), LR)
    ones = train(make, "lr", [1.0])
    fixed = train(chain(lambda: m.SPSA(seed=0), lambda: m.LR(1.0)), "lr", [1.0])
    assert torch.equal(ones, fixed)


def test_a_bad_value_changes_nothing():
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], m.Adam(), m.LR(0.1))

    def closure(lr):
        def evaluate(backward=True):
            optimizer.param_groups[0]["lr"] = lr
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        return evaluate

    optimizer.step(closure(0.1))
    before, state = p.detach().clone(), dict(optimizer.state[p].items())
    with pytest.raises(ValueError, match="lr"):
        optimizer.step(closure(-1.0))
    assert torch.equal(p, before) and optimizer.state[p].keys() == state.keys()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step(closure(0.1))
    q = torch.ones(2, requires_grad=True)
    other = torch.optim.Adam([q], 0.1)
    for _ in range(2):
        q.grad = 2 * q.detach()
        other.step()
    torch.testing.assert_close(p, q)


def test_a_setting_that_a_module_refuses_undoes_the_step():
    """Two groups get different values of a setting that the module takes once; Adam before it must not have learnt."""
    p, q = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = tz.Modular([{"params": [p]}, {"params": [q]}], m.Adam(), m.NormalizeByEMA(tensorwise=False), m.LR(0.1))
    bad = False

    def closure(backward=True):
        optimizer.param_groups[1]["max_ema_growth"] = 2.0 if bad else 1.5
        optimizer.zero_grad()
        loss = p.square().sum() + q.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()}
    bad = True
    with pytest.raises(ValueError, match="max_ema_growth"):
        optimizer.step(closure)
    assert all(torch.equal(torch.as_tensor(optimizer.state[p][k]), v) for k, v in before.items())


def test_the_weight_decay_of_the_chain_stands_in_its_groups():
    p, q = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = tz.Modular([p], m.Adam(), m.WeightDecay(0.1), m.LR(0.1))
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    groups = [{"params": [p], "weight_decay": 0.0}, {"params": [q]}]
    optimizer = tz.Modular(groups, m.DirectWeightDecay(0.2), m.LR(0.1))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.2]
    two = tz.Modular([p], m.WeightDecay(0.1), m.Adam(), m.WeightDecay(0.2), m.LR(0.1))
    assert "weight_decay" not in two.param_groups[0]  # each keeps its own
    assert "weight_decay" not in tz.Modular([p], m.LR(0.1)).param_groups[0]
