"""A step is made or it is not: exceptions and a Ctrl-C leave parameters and state of a whole number of steps (K12)."""

import copy
import signal
import sys
import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, same
from tests.registry import ENTRIES, variants_slow
from torchzero_core.core import Module


class Trouble(Exception):
    """What somebody else's code raises."""


def snapshot(optimizer, params):
    """All that a step may change."""
    state = {k: v for k, v in copy.deepcopy(optimizer.state_dict())["state"].items() if v}
    return bits(params), state, optimizer.current_step


def failing_at(params, n):
    """A closure that raises at its n-th evaluation."""
    inner, calls = closure_of(params), []

    def closure(backward=True):
        calls.append(backward)
        if len(calls) == n:
            raise Trouble
        return inner(backward)

    return closure


def step(optimizer, params, closure):
    if closure is None:
        backward(params)
    optimizer.step(closure)


def pair_of(make):
    """Two optimizers that are the same to the last bit."""
    out = []
    for _ in range(2):
        torch.manual_seed(1)
        params = make_params()
        out.append((tz.Modular(params, *make()), params))
    return out


# -- exceptions of the closure -----------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", variants_slow(ENTRIES))
def test_a_closure_that_raises_at_any_evaluation(entry):
    search = [] if entry.closure else [tz.m.Backtracking]
    (optimizer, params), (twin, others) = pair_of(lambda: [*entry.build(), *(m() for m in search)])
    raised = 0
    for i in range(3):
        for n in (1, 2, 3, 5, None):  # the last one makes the step, unless one before has had fewer evaluations
            before = snapshot(optimizer, params)
            torch.manual_seed(i)
            try:
                optimizer.step(failing_at(params, n))
            except Trouble:
                raised += 1
                assert same(before, snapshot(optimizer, params)), (i, n)
            else:
                break
        torch.manual_seed(i)
        twin.step(closure_of(others))
    assert raised >= 3
    assert optimizer.current_step == twin.current_step == 3
    assert same(snapshot(optimizer, params), snapshot(twin, others))


#: What a closure may raise that somebody on the way might take for his own.
ERRORS = [
    torch.OutOfMemoryError("of the user"),
    RuntimeError("graph of the loss"),
    KeyboardInterrupt(),
    ValueError("of the user"),
    TypeError("closure() got an unexpected keyword argument 'backward'"),
    torch.linalg.LinAlgError("of the user"),
    StopIteration(),
    MemoryError(),
    OverflowError(),
    SystemExit(1),
    AttributeError("of the user"),
    KeyError("of the user"),
    ZeroDivisionError(),
    AssertionError(),
    NotImplementedError(),
    GeneratorExit(),
]


def check_errors(entry, errors):
    """Each comes through at some evaluation, and leaves everything as it was."""
    search = [] if entry.closure else [tz.m.Backtracking()]
    torch.manual_seed(1)
    params = make_params()
    optimizer = tz.Modular(params, *entry.build(), *search)
    optimizer.step(closure_of(params))
    before, n, raised = snapshot(optimizer, params), 1, 0
    for error in errors:
        while True:
            inner, calls = closure_of(params), []

            def closure(backward=True, error=error, inner=inner, calls=calls, n=n):
                calls.append(backward)
                if len(calls) == n:
                    raise error
                return inner(backward)

            twin = copy.deepcopy((optimizer, params)) if n > 1 else None
            try:
                optimizer.step(closure)
            except BaseException as caught:
                assert caught is error, (repr(caught), repr(error), n)
                assert same(before, snapshot(optimizer, params)), (repr(error), n)
                raised, n = raised + 1, n + 1
                break
            assert len(calls) < n, (repr(error), n)  # there are fewer evaluations
            assert twin is not None
            (optimizer, params), n = twin, 1
    assert raised == len(errors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", variants_slow(ENTRIES))
def test_whatever_a_closure_raises_comes_through(entry):
    first = sum(map(ord, entry.id)) % len(ERRORS)  # others for each
    check_errors(entry, [ERRORS[(first + 3 * i) % len(ERRORS)] for i in range(4)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_whatever_a_closure_raises_anywhere_comes_through(entry):
    for i in range(len(ERRORS)):
        check_errors(entry, ERRORS[i:] + ERRORS[:i])


# -- exceptions of modules and hooks -----------------------------------------------------------------------------------
class Fails(Module):
    """Raises where it is told to."""

    def __init__(self, where):
        super().__init__()
        self.where, self.on = where, False

    def step(self, var):
        state = self.state[var.params[0]]
        state.setdefault("seen", []).append(1)
        state.setdefault("sum", torch.zeros(())).add_(1)
        if self.on and self.where == "step":
            raise Trouble
        return var

    def post_step(self, var):
        self.global_state["n"] = self.global_state.get("n", 0) + 1
        if self.on and self.where == "post_step":
            raise Trouble


class Calls(tz.core.Transform):
    """A rule with a function that raises between two states that it writes."""

    first = tz.core.Slot()
    second = tz.core.Slot()
    on = False

    def rule(self, u, ctx):
        ctx.state.first = ctx.state.first + u
        u = ctx.call(self.function, u + ctx.state.first)
        ctx.state.second = ctx.state.second + u
        return u

    def function(self, tensors):
        if self.on:
            raise Trouble
        return [t.clone() for t in tensors]


TROUBLES = {
    "last": lambda: [tz.m.Adam(), tz.m.LR(0.1), Fails("step")],
    "between": lambda: [tz.m.Adam(), Fails("step"), tz.m.LR(0.1)],
    "after": lambda: [tz.m.Adam(), Fails("post_step"), tz.m.LR(0.1)],
    "after, last": lambda: [Fails("post_step"), tz.m.Adam(), tz.m.LR(0.1)],
    "no rule at the end": lambda: [Fails("post_step"), tz.m.NewtonCG()],
    "nested": lambda: [tz.m.Split(lambda p: p.ndim > 1, [tz.m.EMA(0.9), Fails("step")], tz.m.RMSprop()), tz.m.LR(0.1)],
    "child of a rule": lambda: [tz.m.EMA(0.5), tz.m.Add([tz.m.EMA(), Fails("step")]), tz.m.LR(0.1)],
    "called": lambda: [tz.m.EMA(0.5), Calls(), tz.m.LR(0.1)],
    "moved before": lambda: [tz.m.ClipValue(0.1, target="params_direct"), Fails("step"), tz.m.LR(0.1)],
    "curvature": lambda: [tz.m.LBFGS(), Fails("step")],
    "matrix": lambda: [tz.m.BFGS(), Fails("step")],
    "projection": lambda: [tz.m.VectorProjection([tz.m.Adam(), Fails("step")]), tz.m.LR(0.1)],
    "wrapped": lambda: [tz.m.Wrap(torch.optim.AdamW, lr=0.1), Fails("step")],
}


def culprit(optimizer):
    return next(m for m in optimizer.unrolled_modules if isinstance(m, (Fails, Calls)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", TROUBLES)
def test_a_module_that_raises(name, compile):
    pairs = pair_of(TROUBLES[name])
    for optimizer, _ in pairs:
        optimizer.compile = compile
        optimizer.invalidate()
    (optimizer, params), (twin, others) = pairs
    for _ in range(4):
        culprit(optimizer).on = True
        before = snapshot(optimizer, params)
        for _ in range(2):
            with pytest.raises(Trouble):
                step(optimizer, params, closure_of(params))
            assert same(before, snapshot(optimizer, params))
        culprit(optimizer).on = False
        step(optimizer, params, closure_of(params))
        step(twin, others, closure_of(others))
    assert same(snapshot(optimizer, params), snapshot(twin, others))


def test_a_watcher_that_raises():
    (optimizer, params), (twin, others) = pair_of(lambda: [tz.m.Adam(), tz.m.LR(0.1)])

    def look(path, update):
        if path == "LR":
            raise Trouble

    for _ in range(3):
        handle = optimizer.watch(look)
        before = snapshot(optimizer, params)
        with pytest.raises(Trouble):
            step(optimizer, params, None)
        assert same(before, snapshot(optimizer, params))
        handle.remove()
        step(optimizer, params, None)
        step(twin, others, None)
    assert same(snapshot(optimizer, params), snapshot(twin, others))


def test_a_hook_that_raises_before_the_step():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    step(optimizer, params, None)
    before = snapshot(optimizer, params)

    def hook(*_):
        raise Trouble

    handle = optimizer.register_step_pre_hook(hook)
    with pytest.raises(Trouble):
        step(optimizer, params, None)
    handle.remove()
    assert same(before, snapshot(optimizer, params))
    step(optimizer, params, None)


def test_a_warning_that_is_an_error():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.LBFGS(), tz.m.LR(0.1), compile=True)
    backward(params)
    before = snapshot(optimizer, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no effect"):
            optimizer.step()
        assert same(before, snapshot(optimizer, params))
        optimizer.step()
    assert optimizer.current_step == 1


def test_a_refused_step_leaves_the_parameters():
    p, q = torch.full((3,), 5.0, requires_grad=True), torch.ones(2, requires_grad=True)
    modules = tz.m.ClipValue(1.0, target="params_direct"), tz.m.LBFGS(), tz.m.LR(0.1)
    optimizer = tz.Modular([{"params": [p]}, {"params": [q]}], *modules)
    for tol in (None, 1e-3):  # at the first step, and where the setting changes later
        p.grad, q.grad = torch.ones(3), torch.ones(2)
        if tol is None:
            optimizer.step()
            continue
        p.data.fill_(5.0)
        optimizer.param_groups[1]["LBFGS.tol"] = tol
        before = snapshot(optimizer, [p, q])
        with pytest.raises(ValueError, match="takes one tol"):
            optimizer.step()
        assert same(before, snapshot(optimizer, [p, q]))


def test_the_first_step_leaves_no_half_made_state(monkeypatch):
    """Memory runs out while states are made."""
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    backward(params)
    empty_like, calls = torch.empty_like, []

    def short(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("out of memory")
        return empty_like(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", short)
        patch.setattr("torchzero_core.engine.kernels.supports", lambda *a, **k: False)
        with pytest.raises(torch.OutOfMemoryError):
            optimizer.step()
    assert not any(optimizer.state.values())
    assert same(bits(params), bits(make_params()))
    step(optimizer, params, None)
    assert optimizer.current_step == 1


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------
class Interrupter:
    """Sends a real SIGINT at the n-th line that the library runs."""

    def __init__(self, at):
        self.at, self.lines = at, 0

    def __call__(self, frame, event, arg):
        if "torchzero_core" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                signal.raise_signal(signal.SIGINT)
        return self

    def run(self, function):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function()
        finally:
            sys.settrace(before)


INTERRUPTED = {
    "Adam": (lambda: [tz.m.Adam(), tz.m.LR(0.1)], False),
    "rules": (lambda: [tz.m.ClipNorm(1.0), tz.m.EMA(0.9), tz.m.RMSprop(), tz.m.LR(0.1)], False),
    "with a closure": (lambda: [tz.m.Adam(), tz.m.LR(0.1)], True),
    "search": (lambda: [tz.m.Adam(), tz.m.Backtracking()], True),
    "curvature": (lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()], True),
    "approximation": (lambda: [tz.m.SPSA(seed=0), tz.m.Adam(), tz.m.LR(0.1)], True),
    "newton": (lambda: [tz.m.NewtonCG(), tz.m.Backtracking()], True),
    "projection": (lambda: [tz.m.VectorProjection([tz.m.LBFGS(), tz.m.Backtracking()], project_params=True)], True),
    "split": (lambda: [tz.m.Split(lambda p: p.ndim > 1, tz.m.Muon(), tz.m.Adam()), tz.m.LR(0.1)], False),
    "wrapped": (lambda: [tz.m.Wrap(torch.optim.AdamW, lr=0.1)], False),
}


def interrupted(name, stride, first=1, compile=False):
    """Interrupt the third step at every ``stride``-th of its lines; how often it was."""
    make, closure = INTERRUPTED[name]
    count, at = 0, first
    while True:
        (optimizer, params), (twin, others) = pair_of(make)
        for i in range(4):
            for o, ps in ((optimizer, params), (twin, others)):
                if i != 2 or o is twin:
                    o.compile = compile
                    step(o, ps, closure_of(ps) if closure else None)
                    continue
                if not closure:
                    backward(ps)
                before, given = snapshot(o, ps), closure_of(ps) if closure else None
                trace = Interrupter(at)
                try:
                    trace.run(lambda o=o, given=given: o.step(given))
                except KeyboardInterrupt:
                    pass
                else:
                    assert trace.lines < at, "the signal was lost"
                    return count
                count += 1
                assert o.current_step in (2, 3), at
                if o.current_step == 2:
                    assert same(before, snapshot(o, ps)), at
                    step(o, ps, closure_of(ps) if closure else None)
        assert same(snapshot(optimizer, params), snapshot(twin, others)), at
        at += stride


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_ctrl_c_leaves_a_whole_number_of_steps(name):
    assert interrupted(name, stride=97) > 2


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", INTERRUPTED)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_a_ctrl_c_at_every_line(name, compile):
    assert interrupted(name, stride=1, compile=compile) > 50


def test_the_handler_of_ctrl_c_is_the_users_again():
    """Where somebody has a handler of his own, it is asked; when the optimizer is gone, it is in its place."""
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    mine = signal.getsignal(signal.SIGINT)
    try:
        params = make_params()
        optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
        step(optimizer, params, None)
        signal.raise_signal(signal.SIGINT)
        assert calls == [1]
        del optimizer
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_somebody_puts_back_is_what_it_was():
    """What stands there between two steps is ours: who replaces it for a while puts it back, and not his own."""
    calls, user = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: calls.append("user"))
    try:
        params = make_params()
        optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
        step(optimizer, params, None)
        found = signal.signal(signal.SIGINT, lambda *_: calls.append("for a while"))
        step(optimizer, params, None)
        signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, found)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            step(optimizer, params, None)
        assert calls == ["for a while", "user", "user"]
    finally:
        signal.signal(signal.SIGINT, user)
