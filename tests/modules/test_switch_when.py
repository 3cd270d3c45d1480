"""SwitchWhen: when it changes, what it asks, that it is resumed."""

import copy

import pytest
import torch

import torchzero_core as tz

m, s = tz.m, tz.stopping


def closure_of(p, optimizer):
    def closure(backward=True):
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    return closure


def rosenbrock_chain():
    p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    rule = s.MaxSteps(60) | s.LossChange(1e-2, patience=5)
    chain = m.SwitchWhen(
        [m.Adam(), m.LR(0.05)], [m.LBFGS(), m.StrongWolfe()], m.LR(0.0), rules=[rule, s.GradNorm(1e-7)]
    )
    optimizer = tz.Modular([p], chain)
    return p, optimizer, chain, closure_of(p, optimizer)


def test_each_rule_ends_its_turn():
    p = torch.zeros(1, requires_grad=True)
    rules = [s.MaxSteps(2), [s.GradNorm(0.5), s.MaxSteps(10)]]
    optimizer = tz.Modular([p], m.SwitchWhen(m.Identity(), m.Mul(10), m.Mul(100), rules=rules))
    turns, moved = [], []
    for grad in (1.0, 1.0, 1.0, 0.5, 1.0, 0.1):
        p.grad = torch.tensor([grad])
        before = p.item()
        optimizer.step()
        turns.append(optimizer.modules[0].turn)
        moved.append(before - p.item())
    assert turns == [0, 1, 1, 2, 2, 2]
    assert moved == pytest.approx([1, 1, 10, 5, 100, 10])


def test_adam_until_it_stalls_then_lbfgs_to_the_minimum():
    p, optimizer, chain, closure = rosenbrock_chain()
    turns = []
    for _ in range(120):
        optimizer.step(closure)
        turns.append(chain.turn)
    assert turns == sorted(turns) and 5 < turns.index(1) < 60 and turns[-1] == 2
    where = p.detach().clone()
    optimizer.step(closure)
    assert torch.equal(p, where)  # the last turn does not move it
    torch.testing.assert_close(where, torch.ones_like(where), atol=1e-8, rtol=0)


@pytest.mark.parametrize("after", [3, 30, 80])
def test_it_is_resumed_bit_for_bit(after, tmp_path):
    p, optimizer, chain, closure = rosenbrock_chain()
    for _ in range(after):
        optimizer.step(closure)
    torch.save({"p": p, "state": optimizer.state_dict()}, tmp_path / "run.pt")
    q, other, again, closure_again = rosenbrock_chain()
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    q.data.copy_(saved["p"])
    other.load_state_dict(saved["state"])
    copied = copy.deepcopy((p, optimizer, chain))
    for _ in range(60):
        optimizer.step(closure)
        other.step(closure_again)
        copied[1].step(closure_of(copied[0], copied[1]))
        assert torch.equal(p, q) and torch.equal(p, copied[0])
        assert chain.turn == again.turn == copied[2].turn


def test_reset_begins_with_the_first():
    _, optimizer, chain, closure = rosenbrock_chain()
    for _ in range(100):
        optimizer.step(closure)
    assert chain.turn > 0
    optimizer.reset()
    assert chain.turn == 0
    for _ in range(61):
        optimizer.step(closure)
    assert chain.turn >= 1


def test_it_costs_no_evaluation():
    counts = []
    for rules in (s.LossChange(0.0, patience=9) | s.GradNorm(0.0), s.MaxSteps(10**6)):
        p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        optimizer = tz.Modular([p], m.SwitchWhen([m.BFGS(), m.StrongWolfe()], m.LR(0.1), rules=rules))
        closure = closure_of(p, optimizer)
        total = 0
        for _ in range(20):
            optimizer.step(closure)
            total += optimizer.last_step.evaluations
        counts.append((total, p.tolist()))
    assert counts[0] == counts[1]


def test_evaluations_are_those_of_the_turn():
    p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    chain = m.SwitchWhen(m.LR(1e-4), [m.BFGS(), m.StrongWolfe()], m.LR(0.0), rules=[s.MaxSteps(3), s.MaxEvaluations(8)])
    optimizer = tz.Modular([p], chain)
    spent = 0
    while chain.turn < 2:
        turn = chain.turn
        optimizer.step(closure_of(p, optimizer))
        spent += optimizer.last_step.evaluations if turn == 1 else 0
    assert spent >= 8 and spent - optimizer.last_step.evaluations < 8


def test_a_step_that_waits_is_none():
    p = torch.zeros(1, requires_grad=True)
    chain = m.SwitchWhen(m.GradientAccumulation(m.LR(1.0), 2), m.LR(0.0), rules=s.MaxSteps(2))
    optimizer = tz.Modular([p], chain)
    turns = []
    for _ in range(5):
        p.grad = torch.ones(1)
        optimizer.step()
        turns.append(chain.turn)
    assert turns == [0, 0, 0, 1, 1]


def test_an_error_in_the_closure_changes_nothing():
    p, optimizer, _, closure = rosenbrock_chain()
    q, other, _, closure_again = rosenbrock_chain()
    for i in range(90):
        optimizer.step(closure)

        def failing(backward=True):
            raise ArithmeticError

        if i % 7 == 0:
            with pytest.raises(ArithmeticError):
                other.step(failing)
        other.step(closure_again)
        assert torch.equal(p, q)


def test_refusals():
    with pytest.raises(ValueError, match="has 2 modules and 2 rules; give one for each but the last"):
        m.SwitchWhen(m.Adam(), m.Lion(), rules=[s.MaxSteps(1), s.GradNorm(1.0)])
    with pytest.raises(ValueError, match="needs at least one module"):
        m.SwitchWhen(rules=[])
    with pytest.raises(TypeError, match="A stopping rule is wanted"):
        m.SwitchWhen(m.Adam(), m.Lion(), rules=[5])
    p = torch.zeros(1, requires_grad=True)
    optimizer = tz.Modular([p], m.SwitchWhen(m.Adam(), m.Lion(), rules=s.LossBelow(1.0)), m.LR(0.1))
    assert optimizer.requires_closure
    p.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"SwitchWhen has to evaluate the loss: call optimizer.step\(closure\)"):
        optimizer.step()


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_resumed_rule_remembers_how_long_it_has_stalled(after):
    def make():
        p = torch.zeros(1, requires_grad=True)
        chain = m.SwitchWhen(m.LR(0.0), m.LR(1.0), rules=s.LossChange(0.0, patience=4) | s.MaxEvaluations(99))
        return p, tz.Modular([p], chain), chain

    def step(p, optimizer):
        def closure(backward=True):
            loss = p.sum() + 1
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)

    p, optimizer, _ = make()
    for _ in range(after):
        step(p, optimizer)
    q, other, chain = make()
    other.load_state_dict(optimizer.state_dict())
    turns = []
    for _ in range(6 - after):
        step(q, other)
        turns.append(chain.turn)
    assert turns == [0, 0, 0, 0, 1, 1][after:]
