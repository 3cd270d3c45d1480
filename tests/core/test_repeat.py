"""A step that differs from the one before in numbers only takes a short way, and nothing else does."""

import pytest
import torch

import torchzero_core as tz
from torchzero_core.core.modular import Modular

ADAM = dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8)


@pytest.fixture
def taken(monkeypatch):
    """Whether each step took the short way."""
    found = []
    before = Modular._repeated

    def repeated(self, rules):
        found.append(before(self, rules))
        return found[-1]

    monkeypatch.setattr(Modular, "_repeated", repeated)
    return found


def params():
    torch.manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 2), (4,), ())]


def grads_of(ps, step):
    generator = torch.Generator().manual_seed(step)
    for p in ps:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def twins(*modules, compile=False):
    ours, theirs = params(), params()
    return ours, theirs, tz.Modular(ours, *modules, compile=compile), torch.optim.Adam(theirs, **ADAM)


def equal(ours, theirs):
    assert all(torch.allclose(p, q, rtol=1e-13, atol=1e-15) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("compile", [False, True])
def test_steps_like_the_one_before_take_the_short_way(taken, compile):
    ours, theirs, a, b = twins(tz.m.Adam(), tz.m.LR(0.1), compile=compile)
    for step in range(6):
        grads_of(ours, step)
        grads_of(theirs, step)
        if step == 3:  # a schedule: the long way once
            a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.05
        a.step()
        b.step()
        equal(ours, theirs)
    assert taken == [False, True, True, False, True, True]
    assert a.current_step == 6 and a.state[ours[0]]["Modular.step"] == 6


@pytest.mark.parametrize("compile", [False, True])
def test_what_somebody_does_between_two_steps_is_seen(taken, compile):
    ours, theirs, a, b = twins(tz.m.Adam(), tz.m.LR(0.1), compile=compile)
    for step in range(12):
        grads_of(ours, step)
        grads_of(theirs, step)
        if step == 2:  # a missing gradient
            ours[1].grad = theirs[1].grad = None
        if step == 4:  # other memory
            for ps in (ours, theirs):
                ps[0].data = ps[0].data.clone() * 2
        if step == 6:  # state of somebody's own
            a.state[ours[0]]["Adam.exp_avg"] = torch.ones(3, 2, dtype=torch.float64)
            b.state[theirs[0]]["exp_avg"] = torch.ones(3, 2, dtype=torch.float64)
        if step == 8:  # a gradient in another order
            for ps in (ours, theirs):
                ps[0].grad = ps[0].grad.t().contiguous().t()
        if step == 10:
            a.state[ours[1]]["Adam.step"] = 20
            b.state[theirs[1]]["step"] = torch.tensor(20.0)
        a.step()
        b.step()
        equal(ours, theirs)
    assert any(taken)


def test_random_rules_take_the_long_way(taken):
    ours = params()
    optimizer = tz.Modular(ours, tz.m.Dropout(0.5, seed=0), tz.m.LR(0.1))
    for step in range(3):
        grads_of(ours, step)
        optimizer.step()
    assert not any(taken)
    saved = optimizer.state_dict()
    copy = params()
    other = tz.Modular(copy, tz.m.Dropout(0.5, seed=0), tz.m.LR(0.1))
    with torch.no_grad():
        for p, q in zip(copy, ours, strict=True):
            p.copy_(q)
    other.load_state_dict(saved)
    for ps, opt in ((ours, optimizer), (copy, other)):
        grads_of(ps, 9)
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, copy, strict=True))
