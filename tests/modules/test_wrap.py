"""Wrap: other optimizers as modules."""

import copy

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, rosenbrock, run

m = tz.m


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_lbfgs_gets_its_closure():
    ours, theirs = ([torch.tensor([-1.1, 2.5], dtype=torch.float64, requires_grad=True)] for _ in range(2))
    wrapped = tz.Modular(
        ours, m.Wrap(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=5), deterministic=False
    )
    other = torch.optim.LBFGS(theirs, line_search_fn="strong_wolfe", max_iter=5)
    assert wrapped.requires_closure
    calls = 0
    closure = closure_of(ours, rosenbrock)

    def counted(backward=True):
        nonlocal calls
        calls += 1
        return closure(backward)

    for _ in range(12):
        first = rosenbrock(ours).item()
        before = calls
        assert wrapped.step(counted).item() == first
        other.step(closure_of(theirs, rosenbrock))
        assert equal(ours, theirs)
        assert wrapped.last_step.evaluations == calls - before
    assert rosenbrock(ours).item() < 1e-3
    state = other.state_dict()["state"][0]
    assert state["func_evals"] == calls


def test_schedulers_drive_it():
    ours, theirs = make_params(), make_params()
    wrapped = tz.Modular(ours, m.Wrap(torch.optim.AdamW, lr=0.1, weight_decay=0.1))
    other = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.1)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20, cycle_momentum=True)
        for o in (wrapped, other)
    ]
    for _ in range(20):
        for params, optimizer in ((ours, wrapped), (theirs, other)):
            backward(params)
            optimizer.step()
        assert wrapped.param_groups[0]["betas"] == other.param_groups[0]["betas"]
        if _ < 19:
            [s.step() for s in schedules]
    assert equal(ours, theirs)


def test_groups():
    a, b, c, d = (make_params(seed=s) for s in (0, 5, 0, 5))
    wrapped = tz.Modular([{"params": a}, {"params": b, "lr": 0.3, "momentum": 0.5}], m.Wrap(torch.optim.SGD, lr=0.1))
    other = torch.optim.SGD([{"params": c}, {"params": d, "lr": 0.3, "momentum": 0.5}], lr=0.1)
    for i in range(4):
        if i == 2:
            for o in (wrapped, other):
                o.param_groups[1]["momentum"] = 0.9
        for params, optimizer in (([*a, *b], wrapped), ([*c, *d], other)):
            backward(params)
            optimizer.step()
    assert equal([*a, *b], [*c, *d])


class Counting(torch.optim.SGD):
    """Keeps something in its groups, as schedule-free methods do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group["lr"] = group["lr"] / group["k"]
        return super().step(closure)


def test_what_it_keeps_in_its_groups_is_saved():
    params = make_params()
    optimizer = tz.Modular(params, m.Wrap(Counting, lr=0.1, momentum=0.9))
    run(optimizer, params, 3)
    others = [p.detach().clone().requires_grad_() for p in params]
    other = tz.Modular(others, m.Wrap(Counting, lr=0.1, momentum=0.9))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, 2)
    run(other, others, 2)
    assert equal(params, others)


def test_an_exception_in_its_closure_restores_the_parameters():
    params = make_params()
    optimizer = tz.Modular(params, m.Wrap(torch.optim.LBFGS, lr=0.01, max_iter=5))
    run(optimizer, params, 1)
    before, calls = bits(params), 0

    def closure(backward=True):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError
        return closure_of(params)(backward)

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert equal(before, params)
    run(optimizer, params, 2)


def test_wrong_arguments_show_at_once():
    with pytest.raises(TypeError, match="momentun"):
        m.Wrap(torch.optim.SGD, lr=0.1, momentun=0.9)
    with pytest.raises(TypeError, match="Wrap needs a torch optimizer"):
        m.Wrap(lambda params: params)


def test_tensors_that_autograd_does_not_know():
    """A gradient by hand is enough, and a parameter that is thawed joins in with a state of its own."""
    p = torch.zeros(2, dtype=torch.float64)
    p.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    tz.Modular([p], m.Wrap(torch.optim.SGD, lr=0.5)).step()
    assert p.tolist() == [-1.5, 2.0]

    a, b = (torch.zeros(1, dtype=torch.float64, requires_grad=needed) for needed in (True, False))
    optimizer = tz.Modular([a, b], m.Wrap(torch.optim.SGD, lr=1.0, momentum=0.5))
    for _ in range(2):
        a.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert (a.item(), b.item()) == (-2.5, 0.0)
    b.requires_grad_()
    a.grad, b.grad = (torch.ones(1, dtype=torch.float64) for _ in range(2))
    optimizer.step()
    assert (a.item(), b.item()) == (-2.5 - 1.75, -1.0)


def test_betas_of_other_modules_stay_theirs():
    """A group gets `betas`, for schedulers that cycle them, only where the whole chain agrees on them."""
    for first, has in ((m.Adam(), True), (m.Adam(beta1=0.5), False), (m.Debias(beta1=0.9), False)):
        p, q = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        optimizer = tz.Modular([p], first, m.Wrap(torch.optim.Adam, lr=0.1))
        assert ("betas" in optimizer.param_groups[0]) == has
        alone = torch.optim.Adam([q], lr=0.1)
        watched = []
        optimizer.watch(lambda path, update, w=watched: w.append(update[0].clone()))
        for _ in range(3):
            p.grad = p.detach() * torch.tensor([1.0, -2.0, 3.0])
            optimizer.step()
            q.grad = watched[-2]
            alone.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)
