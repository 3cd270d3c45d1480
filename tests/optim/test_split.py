"""tz.optim.Split: several optimizers behave as one torch optimizer."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import torchzero_core as tz

Split = tz.optim.Split


def two():
    """Two parameters."""
    a = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    return a, b


def problem(a, b, calls=None):
    def closure(backward=True):
        if calls is not None:
            calls.append(backward)
        loss = (a**2).sum() + 0.5 * (b - a.sum()).square().sum() + (b**4).sum() / 10
        if backward:
            a.grad = b.grad = None
            loss.backward()
        return loss

    return closure


def mixed(a, b):
    return Split(torch.optim.SGD([a], lr=0.05, momentum=0.9), tz.Modular([b], tz.m.Adam(), tz.m.LR(0.1)))


def state_of(optimizer):
    out = io.BytesIO()
    torch.save(optimizer.state_dict(), out)
    out.seek(0)
    return torch.load(out, weights_only=True)


def test_it_is_what_its_optimizers_are_by_themselves():
    a, b = two()
    split = mixed(a, b)
    c, d = two()
    alone = torch.optim.SGD([c], lr=0.05, momentum=0.9), torch.optim.Adam([d], lr=0.1)
    for _ in range(10):
        loss = split.step(problem(a, b))
        expected = problem(c, d)()
        for optimizer in alone:
            optimizer.step()
        assert loss.item() == expected.item() and not loss.requires_grad
        torch.testing.assert_close((a, b), (c, d), rtol=1e-13, atol=0)
    problem(a, b)()
    assert split.step() is None
    assert isinstance(split, torch.optim.Optimizer)


@pytest.mark.parametrize("first", [True, False])
def test_how_often_the_closure_is_evaluated(first):
    a, b = two()
    calls = []
    split = Split(torch.optim.SGD([a], lr=0.1), torch.optim.Adam([b]))
    split.step(problem(a, b, calls))
    assert calls == [True]
    calls.clear()
    optimizers = [torch.optim.LBFGS([a], max_iter=1), torch.optim.SGD([b], lr=0.1)]
    split = Split(*(optimizers if first else reversed(optimizers)))
    loss = split.step(problem(a, b, calls))
    assert calls == [True, True]  # one for all that need gradients, one by LBFGS
    calls.clear()
    a, b = two()
    split = Split(torch.optim.LBFGS([a], max_iter=1), tz.Modular([b], tz.m.BFGS(), tz.m.Backtracking()))
    expected = problem(a, b)(False).item()
    loss = split.step(problem(a, b, calls))
    assert float(loss) == expected
    assert len(calls) == 1 + split.optimizers[1].last_step.evaluations


def test_optimizers_that_need_gradients_get_those_of_the_start():
    a, b = two()
    (slope,) = torch.autograd.grad(problem(a, b)(False), b)
    before = b.detach().clone()
    split = Split(torch.optim.LBFGS([a], max_iter=5), torch.optim.SGD([b], lr=0.1))
    split.step(problem(a, b))
    torch.testing.assert_close(b.detach(), before - 0.1 * slope, rtol=1e-14, atol=0)


def test_an_optimizer_that_needs_a_closure_says_so():
    a, b = two()
    split = Split(torch.optim.SGD([a], lr=0.1), torch.optim.LBFGS([b]))
    assert split.requires_closure and not mixed(*two()).requires_closure
    with pytest.raises(RuntimeError, match="LBFGS in a Split has to evaluate the loss"):
        split.step()


def test_state_resumes_bit_for_bit():
    a, b = two()
    split = mixed(a, b)
    for _ in range(3):
        split.step(problem(a, b))
    saved = state_of(split)
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    assert set(saved["state"]) == {0, 1} and "momentum_buffer" in saved["state"][0]
    c, d = (p.detach().clone().requires_grad_() for p in (a, b))
    other = mixed(c, d)
    other.load_state_dict(saved)
    for _ in range(3):
        split.step(problem(a, b))
        other.step(problem(c, d))
    assert torch.equal(a, c) and torch.equal(b, d)


def test_a_state_of_others_is_refused_and_changes_nothing():
    a, b = two()
    split = mixed(a, b)
    split.step(problem(a, b))
    before = str(split.state_dict())
    c, d = two()
    with pytest.raises(ValueError, match=r"groups with \[2\] parameters; the groups of this Split have \[1, 1\]"):
        split.load_state_dict(torch.optim.SGD([c, d]).state_dict())
    wrong = Split(torch.optim.SGD([c], lr=7.0, momentum=0.9), tz.Modular([d], tz.m.Lion(), tz.m.LR(0.1)))
    wrong.step(problem(c, d))
    with pytest.raises(ValueError, match="Lion"):
        split.load_state_dict(wrong.state_dict())
    assert str(split.state_dict()) == before and split.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(copied):
    a, b = two()
    split = mixed(a, b)
    split.step(problem(a, b))
    (c, d), other = copied(((a, b), split))
    for _ in range(3):
        split.step(problem(a, b))
        other.step(problem(c, d))
    assert torch.equal(a, c) and torch.equal(b, d) and other.optimizers[0] is not split.optimizers[0]


def test_schedulers_drive_all():
    a, b = two()
    split = mixed(a, b)
    scheduler = torch.optim.lr_scheduler.StepLR(split, 1, 0.5)
    for _ in range(2):
        split.step(problem(a, b))
        scheduler.step()
    assert [group["lr"] for group in split.param_groups] == pytest.approx([0.0125, 0.025], rel=1e-15)
    assert split.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.025, rel=1e-15)
    pickle.loads(pickle.dumps(split)).step(problem(a, b))


def test_groups_state_and_gradients_are_those_of_the_optimizers():
    a, b = two()
    split = mixed(a, b)
    assert [group["params"][0] is p for group, p in zip(split.param_groups, (a, b), strict=True)] == [True, True]
    split.step(problem(a, b))
    assert split.state[a] is split.optimizers[0].state[a] and len(split.state) == 2 and set(split.state) == {a, b}
    split.state[a] = {"momentum_buffer": torch.zeros_like(a)}
    assert not split.optimizers[0].state[a]["momentum_buffer"].any() and b in split.state
    del split.state[b]
    assert not split.optimizers[1].state
    split.zero_grad()
    assert a.grad is None and b.grad is None
    assert repr(split).startswith("Split(\n  SGD (") and "Adam" in repr(split)


def test_a_group_goes_to_one_of_the_optimizers():
    a, b = two()
    split = mixed(a, b)
    c = torch.ones(1, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"split\.optimizers\[i\]\.add_param_group"):
        split.add_param_group({"params": [c]})
    split.optimizers[0].add_param_group({"params": [c], "lr": 1.0})
    assert [len(group["params"]) for group in split.param_groups] == [1, 1, 1]
    c.grad = torch.ones(1)
    split.step()
    assert c.item() == 0
    other = mixed(*two())
    other.optimizers[0].add_param_group({"params": [torch.ones(1, requires_grad=True)]})
    other.load_state_dict(split.state_dict())
    assert other.param_groups[1]["lr"] == 1.0


def test_hooks():
    a, b = two()
    split = mixed(a, b)
    seen = []
    split.register_step_pre_hook(lambda *_: seen.append("pre"))
    split.register_step_post_hook(lambda *_: seen.append("post"))
    split.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    split.register_state_dict_post_hook(lambda _, state: {**state, "mine": 1})
    split.register_load_state_dict_pre_hook(lambda _, state: seen.append(state.pop("mine")))
    split.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    split.step(problem(a, b))
    split.load_state_dict(split.state_dict())
    assert seen == ["pre", "post", "saving", 1, "loaded"]


def test_a_split_in_a_split():
    a, b = two()
    c = torch.ones(1, requires_grad=True)
    split = Split(mixed(a, b), torch.optim.SGD([c], lr=0.5, momentum=0.5))
    c.grad = torch.ones(1)
    problem(a, b)()
    split.step()
    assert c.item() == 0.5
    other = Split(mixed(*two()), torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1))
    other.load_state_dict(state_of(split))
    assert str(other.state_dict()["state"]) == str(split.state_dict()["state"])


def test_mistakes():
    a, b = two()
    with pytest.raises(ValueError, match="at least one optimizer"):
        Split()
    with pytest.raises(TypeError, match="torch optimizers, not as a list of them; argument 0 is a list"):
        Split([torch.optim.SGD([a])])
    with pytest.raises(TypeError, match="argument 1 is a LR"):
        Split(torch.optim.SGD([a]), tz.m.LR(0.1))
    with pytest.raises(ValueError, match=r"shape \(2,\) belongs to two optimizers"):
        Split(torch.optim.SGD([a]), torch.optim.SGD([b, a]))
