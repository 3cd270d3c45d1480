"""What users' hands do between two steps, as torch.optim takes it, or a sentence and nothing changed."""

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchzero_core as tz

DOUBLE = torch.float64


def params(shapes=((3, 2), (4,), ())):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=DOUBLE).requires_grad_() for s in shapes]


def grads_of(ps, step):
    generator = torch.Generator().manual_seed(step)
    for p in ps:
        p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)


def closure_of(ps, optimizer):
    def closure(backward=True):
        loss = sum(((p - 1) ** 2).sum() for p in ps)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    return closure


def adam(ps, **options):
    return tz.Modular(ps, tz.m.Adam(), tz.m.LR(0.1), **options)


def same(ours, theirs, tolerance=1e-12):
    assert all(torch.allclose(p, q, rtol=tolerance, atol=tolerance) for p, q in zip(ours, theirs, strict=True))


def before(ps, optimizer):
    return [p.detach().clone() for p in ps], copy.deepcopy(list(optimizer.state.values()))


def unchanged(ps, optimizer, known):
    values, states = known
    assert all(torch.equal(p, v) for p, v in zip(ps, values, strict=True))
    for now, then in zip(optimizer.state.values(), states, strict=True):
        assert now.keys() == then.keys()
        for name, value in then.items():
            assert torch.equal(now[name], value) if isinstance(value, torch.Tensor) else now[name] == value


@pytest.mark.parametrize("compile", [False, True])
def test_a_list_in_a_group_that_is_written_to(compile):
    ours, theirs = params(), params()
    a, b = adam(ours, compile=compile), torch.optim.Adam(theirs, lr=0.1)
    for step in range(10):
        for ps, optimizer in ((ours, a), (theirs, b)):
            grads_of(ps, step)
            group = optimizer.param_groups[0]
            if step == 0:
                group["betas"] = [0.9, 0.999]
            if step == 4:
                group["betas"][0] = 0.5
            if step == 7:
                group["betas"][1] = 0.9
            optimizer.step()
        same(ours, theirs)


def test_a_number_of_numpy_in_a_group_that_is_written_to():
    ours, theirs = params(), params()
    a, b = adam(ours), torch.optim.Adam(theirs, lr=0.1)
    a.param_groups[0]["lr"] = np.array(0.1)
    for step in range(6):
        if step > 2:
            a.param_groups[0]["lr"][...] *= 0.5
            b.param_groups[0]["lr"] *= 0.5
        for ps, optimizer in ((ours, a), (theirs, b)):
            grads_of(ps, step)
            optimizer.step()
        same(ours, theirs)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_gradient_without_memory_is_refused(steps, compile):
    ps = params(((30, 20), (0,), (40,)))
    optimizer = adam(ps, compile=compile)
    for step in range(steps):
        grads_of(ps, step)
        optimizer.step()
    grads_of(ps, steps)
    held = ps[2].grad
    ps[2].grad = held.clone()
    ps[2].grad.untyped_storage().resize_(0)
    known = before(ps, optimizer)
    with pytest.raises(RuntimeError, match=r"memory of (gradient|tensor) 2, of shape \(40,\), has been given back"):
        optimizer.step()
    unchanged(ps, optimizer, known)
    ps[2].grad = held
    optimizer.step()
    assert optimizer.current_step == steps + 1


def test_a_gradient_without_memory_is_refused_by_what_is_no_rule():
    ps = params(((6, 4),))
    optimizer = tz.Modular(ps, tz.m.SOAP(), tz.m.LR(0.1))
    grads_of(ps, 0)
    ps[0].grad.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"memory of gradient 0, of shape \(6, 4\), has been given back"):
        optimizer.step()


@pytest.mark.parametrize("compile", [False, True])
def test_states_without_memory_are_refused(compile):
    ps = params(((30, 20), (40,)))
    optimizer = adam(ps, compile=compile)
    for step in range(3):
        grads_of(ps, step)
        optimizer.step()
    kept = {p: optimizer.state[p]["Adam.exp_avg"].clone() for p in ps}
    for p in ps:
        optimizer.state[p]["Adam.exp_avg"].untyped_storage().resize_(0)
    start = [p.detach().clone() for p in ps]
    with pytest.raises(RuntimeError, match="has been given back"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, start, strict=True))
    for p in ps:
        optimizer.state[p]["Adam.exp_avg"] = kept[p]
    optimizer.step()


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("value", ["3", None, -5, 1.5, float("nan"), torch.tensor([3, 4])], ids=repr)
def test_a_count_that_is_none_is_refused(value, compile):
    ps = params()
    optimizer = adam(ps, compile=compile)
    for step in range(3):
        grads_of(ps, step)
        optimizer.step()
    for p in ps:
        optimizer.state[p]["Adam.step"] = value
    start = [p.detach().clone() for p in ps]
    with pytest.raises(ValueError, match=r"The state 'Adam.step' is .* where there must be the number of steps"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ps, start, strict=True))


@pytest.mark.parametrize("value", [3.0, torch.tensor(3.0), np.int64(3)], ids=repr)
def test_a_count_of_another_kind_is_one(value):
    ours, theirs = params(), params()
    a, b = adam(ours), adam(theirs)
    for step in range(5):
        for ps, optimizer in ((ours, a), (theirs, b)):
            grads_of(ps, step)
            if step == 3 and optimizer is a:
                for p in ps:
                    a.state[p]["Adam.step"] = value
            optimizer.step()
    same(ours, theirs, 0)


@pytest.mark.parametrize("size", [10**30, 2**62])
@pytest.mark.parametrize("make", [lambda n: tz.m.LBFGS(history_size=n), lambda n: tz.m.Previous(n)])
def test_a_history_that_no_memory_holds(make, size):
    with pytest.raises(ValueError, match="is out of range"):
        make(size)


class OutOfMemory(TorchDispatchMode):
    """Fails at one call into torch."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls, self.failed = at, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if self.calls == self.at and not any(word in str(func) for word in ("copy_", "detach")):
            self.failed = True
            raise torch.OutOfMemoryError("injected")
        return func(*args, **(kwargs or {}))


def test_a_first_step_short_of_memory_leaves_nothing():
    def make():
        ps = params(((3, 2),))
        chain = tz.m.Adam(), tz.m.NormalizeByEMA(max_ema_growth=1.1), tz.m.LR(0.1)
        grads_of(ps, 0)
        return ps, tz.Modular(ps, *chain)

    theirs, other = make()
    other.step()
    at, failures = 0, 0
    while True:
        at += 1
        ours, optimizer = make()
        start = [p.detach().clone() for p in ours]
        mode = OutOfMemory(at)
        try:
            with mode:
                optimizer.step()
        except torch.OutOfMemoryError:
            failures += 1
            assert all(torch.equal(p, q) for p, q in zip(ours, start, strict=True)), at
            assert not optimizer.state, at
            optimizer.step()
            same(ours, theirs, 0)
        if mode.calls < at:
            break
    assert failures > 10


@pytest.mark.parametrize("make", [lambda: (tz.m.Adam(),), lambda: (tz.m.SOAP(),), lambda: (tz.m.Shampoo(),)])
def test_steps_within_and_outside_of_inference_mode(make):
    ours, theirs = params(((3, 2),)), params(((3, 2),))
    a, b = tz.Modular(ours, *make(), tz.m.LR(0.1)), tz.Modular(theirs, *make(), tz.m.LR(0.1))
    for step in range(4):
        grads_of(ours, step)
        grads_of(theirs, step)
        with torch.inference_mode(step < 2):
            a.step()
        b.step()
    same(ours, theirs, 0)


def test_a_closure_within_inference_mode():
    ours, theirs = params(), params()
    a, b = (tz.Modular(ps, tz.m.LBFGS(), tz.m.StrongWolfe()) for ps in (ours, theirs))
    for _ in range(3):
        with torch.inference_mode():
            a.step(closure_of(ours, a))
        b.step(closure_of(theirs, b))
    same(ours, theirs, 0)


STATES = [
    (lambda: (tz.m.LBFGS(), tz.m.StrongWolfe()), "LBFGS.global.gamma", 0.5),
    (lambda: (tz.m.LBFGS(), tz.m.StrongWolfe()), "LBFGS.global.sy", [1.0]),
    (lambda: (tz.m.BFGS(), tz.m.Backtracking()), "BFGS.global.H", "x"),
    (lambda: (tz.m.SOAP(), tz.m.LR(0.1)), "SOAP.GG", None),
]


@pytest.mark.parametrize(("make", "name", "value"), STATES, ids=[name for _, name, _ in STATES])
def test_a_state_of_another_kind_is_named(make, name, value):
    ps = params(((3, 2),))
    optimizer = tz.Modular(ps, *make())
    for _ in range(2):
        optimizer.step(closure_of(ps, optimizer))
    good = optimizer.state[ps[0]][name]
    optimizer.state[ps[0]][name] = value
    start = ps[0].detach().clone()
    with pytest.raises(ValueError, match=rf"nothing has changed\. The state '{name}' is .*; set it right, or"):
        optimizer.step(closure_of(ps, optimizer))
    assert torch.equal(ps[0], start)
    optimizer.state[ps[0]][name] = good
    optimizer.step(closure_of(ps, optimizer))


def test_parameters_in_a_set_are_refused():
    with pytest.raises(TypeError, match="in a list, not a set"):
        tz.Modular(set(params()), tz.m.Adam(), tz.m.LR(0.1))


HANDS = {
    "state emptied": lambda ps, o: o.state.clear(),
    "state replaced": lambda ps, o: setattr(o, "state", defaultdict(dict)),
    "states halved": lambda ps, o: [s["Adam.exp_avg"].mul_(0.5) for s in o.state.values()],
    "group's order": lambda ps, o: o.param_groups[0]["params"].reverse(),
    "first dropped": lambda ps, o: o.param_groups[0]["params"].pop(0),
    "betas": lambda ps, o: o.param_groups[0].update(betas=[0.5, 0.9]),
    "a gradient missing": lambda ps, o: setattr(ps[1], "grad", None),
    "other memory": lambda ps, o: setattr(ps[0], "data", ps[0].data.clone()),
    "transposed gradient": lambda ps, o: setattr(ps[0], "grad", ps[0].grad.t().contiguous().t()),
    "shallow copy": lambda ps, o: copy.copy(o),
}


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("hand", HANDS)
def test_the_short_way_is_the_long_way(hand, compile, monkeypatch):
    short = tz.Modular._repeated
    monkeypatch.setattr(tz.Modular, "_repeated", lambda self, rules: self is not b and short(self, rules))
    ours, theirs, b = params(), params(), None
    a, b = adam(ours, compile=compile), adam(theirs, compile=compile)
    for step in range(7):
        for ps, optimizer in ((ours, a), (theirs, b)):
            grads_of(ps, step)
            if step in (3, 5):
                HANDS[hand](ps, optimizer)
            optimizer.step()
        same(ours, theirs, 1e-13)
