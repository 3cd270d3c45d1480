"""Closures as people write them: their arguments, what they return, what they forget, what outlives them."""

import functools
import gc
import math
import warnings
import weakref

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, closure_of, make_params, run, same
from torchzero_core.core import Module


def gradient_only():
    return [tz.m.Adam(), tz.m.LR(0.1)]


def step_of(optimizer, p, x=None):
    """A closure body: backward of Σ x·p, if it is asked for."""
    x = torch.tensor([2.0, 3.0]) if x is None else x

    def body(backward=True):
        loss = (p * x).sum()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    return body


# -- arguments ---------------------------------------------------------------------------------------------------------
class Callable:
    def __init__(self, fn):
        self.fn = fn

    def __call__(self, backward=True):
        return self.fn(backward)

    def method(self, backward=True):
        return self.fn(backward)

    def plain(self):
        return self.fn()


def passing_on(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def passing_on_unsaid(fn):
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


def with_default(fn):
    def closure(x="batch", scale=1.0):
        assert x is not True
        assert scale == 1.0
        return fn()

    return closure


TAKING = {
    "function": lambda f: f,
    "object": Callable,
    "method": lambda f: Callable(f).method,
    "lambda": lambda f: lambda backward=True: f(backward),
    "by name only": lambda f: lambda *, backward=True: f(backward),
    "required": lambda f: lambda b: f(b),
    "decorated": passing_on,
    "decorated, unsaid": passing_on_unsaid,
    "partial": lambda f: functools.partial(lambda x, backward=True: f(backward), 1.0),
    "partial of it": lambda f: functools.partial(f, backward=True),
    "with more defaults": lambda f: lambda x=1.0, backward=True, y=2.0: f(backward),
}
NOT_TAKING = {
    "default": with_default,
    "partial": lambda f: functools.partial(with_default(f), torch.ones(2)),
    "any": lambda f: lambda *args: f(),
    "method": lambda f: Callable(f).plain,
    "decorated": lambda f: passing_on(lambda: f()),
    "decorated, unsaid": lambda f: passing_on_unsaid(lambda: f()),
}


@pytest.mark.parametrize("name", TAKING)
def test_the_argument_is_found(name):
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.Backtracking())
    asked, body = [], step_of(optimizer, p)

    def closure(backward=True):
        asked.append(backward)
        return body(backward)

    optimizer.step(TAKING[name](closure))
    assert asked == [True, False]
    assert p.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("name", NOT_TAKING)
def test_other_arguments_keep_their_defaults(name):
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(1.0))
    optimizer.step(NOT_TAKING[name](step_of(optimizer, p)))
    assert p.tolist() == [-1.0, -2.0]


def test_a_type_error_of_the_closure_itself_is_the_users():
    p = torch.ones(2, requires_grad=True)
    calls = []

    def closure(**kwargs):
        calls.append(kwargs)
        raise TypeError("backward is the wrong way")

    with pytest.raises(TypeError, match="the wrong way"):
        tz.Modular([p], tz.m.LR(1.0)).step(closure)
    assert calls == [{"backward": True}]


# -- what it returns ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("modules", [gradient_only, lambda: [tz.m.LBFGS(), tz.m.LR(0.1)], lambda: [tz.m.NewtonCG()]])
def test_no_loss_where_none_is_needed(modules):
    params, others = make_params(), make_params()
    ours, theirs = tz.Modular(params, *modules()), tz.Modular(others, *modules())
    inner = closure_of(params)

    def closure(backward=True):
        inner(backward)

    for _ in range(3):
        assert ours.step(closure) is None
        run(theirs, others, 1)
    assert same(bits(params), bits(others))
    assert ours.last_step.loss is None


def test_a_batch_that_is_skipped():
    params = make_params()
    optimizer = tz.Modular(params, *gradient_only())
    before = bits(params)
    assert optimizer.step(lambda: None) is None
    assert same(bits(params), before)


@pytest.mark.parametrize(
    "modules", [lambda: [tz.m.Backtracking()], lambda: [tz.m.SPSA()], lambda: [tz.m.PolyakStepSize()]]
)
def test_no_loss_where_one_is_needed(modules):
    params = make_params()
    inner = closure_of(params)
    optimizer = tz.Modular(params, *modules())
    with pytest.raises(TypeError, match="The closure returned None; it must return the loss"):
        optimizer.step(lambda backward=True: inner(backward) and None)


NUMBERS = {
    "float": float,
    "int": lambda x: int(x.item()),
    "float64": lambda x: np.float64(x.item()),
    "float32": lambda x: np.float32(x.item()),
    "array": lambda x: np.array([[x.item()]]),
    "one element": lambda x: x.detach().reshape(1, 1, 1),
    "integer": lambda x: x.detach().long(),
    "parameter": lambda x: torch.nn.Parameter(x.detach()),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_any_kind(name):
    """The loss is a whole number, so that no kind rounds it."""
    p = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)

    def closure(backward=True):
        return NUMBERS[name]((p.detach().round() ** 2).sum())

    optimizer = tz.Modular([p], tz.m.SPSA(h=1.0, seed=0), tz.m.LR(0.0))
    loss = optimizer.step(closure)
    assert loss.shape == ()
    assert loss.item() == 25.0


def test_a_python_number_is_not_rounded():
    def run_one(kind):
        p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        optimizer = tz.Modular([p], tz.m.SPSA(h=1e-3, seed=0), tz.m.LR(0.1))
        optimizer.step(lambda backward=True: kind(1e6 + 3 * p.detach().sum()))
        return p.item()

    assert run_one(float) == pytest.approx(run_one(lambda x: x), abs=1e-9) == pytest.approx(0.7, abs=1e-4)


@pytest.mark.parametrize("extra", [(), {"accuracy": 1.0}, torch.ones(2), None, "text"])
def test_more_than_the_loss_is_refused(extra):
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], *gradient_only())
    body = step_of(optimizer, p)
    with pytest.raises(TypeError, match="The closure returned a tuple of 2; it must return the loss"):
        optimizer.step(lambda backward=True: (body(backward), extra))
    with pytest.raises(TypeError, match="The closure returned a dict of 1; it must return the loss"):
        optimizer.step(lambda backward=True: {"loss": body(backward)})
    with pytest.raises(TypeError, match="The closure returned a str"):
        optimizer.step(lambda backward=True: "0.5")
    assert p.tolist() == [1.0, 1.0]


def test_a_vector_loss_is_refused():
    p = torch.ones(2, requires_grad=True)
    for modules in (gradient_only(), [tz.m.SPSA()]):
        with pytest.raises(ValueError, match=r"shape \(2,\); the loss must be one number, such as loss.mean"):
            tz.Modular([p], *modules).step(lambda backward=True: p.detach() * 2)


def test_a_loss_tensor_that_is_used_again():
    """One tensor for all evaluations, written in place; and the user changes what step returned."""
    p, q = (torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = torch.zeros((), dtype=torch.float64)
    for parameter, write in ((p, True), (q, False)):
        optimizer = tz.Modular([parameter], tz.m.SPSA(n_samples=3, formula="central4", seed=0), tz.m.Backtracking())
        for _ in range(3):
            loss = optimizer.step(
                lambda backward=True, r=parameter, w=write: (
                    out.copy_((r.detach() ** 4).sum()) if w else (r.detach() ** 4).sum()
                )
            )
            value = loss.item()
            out.zero_()
            assert loss.item() == optimizer.last_step.loss.item() == value
    assert torch.equal(p, q)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_returned(bad):
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(0.1))
    body = step_of(optimizer, p)
    loss = optimizer.step(lambda backward=True: body(backward).item() * bad)
    assert loss.isnan() if math.isnan(bad) else loss.isinf()
    assert torch.allclose(p, torch.tensor([0.8, 0.7]))


# -- what it forgets ---------------------------------------------------------------------------------------------------
def warnings_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("modules", [gradient_only, lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()]])
def test_a_closure_that_forgets_backward(modules):
    p = torch.ones(3, requires_grad=True)
    optimizer = tz.Modular([p], *modules())

    def my_closure(backward=True):
        return (p**2).sum()

    said = warnings_of(lambda: [optimizer.step(my_closure) for _ in range(5)])
    assert len(said) == 1
    assert "my_closure" in said[0]
    assert "loss.backward()" in said[0]


@pytest.mark.parametrize("modules", [gradient_only, lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()]])
def test_a_closure_that_forgets_to_clear(modules):
    p = torch.ones(3, requires_grad=True)
    optimizer = tz.Modular([p], *modules())

    def my_closure(backward=True):
        loss = (p**2).sum()
        if backward:
            loss.backward()
        return loss

    said = warnings_of(lambda: [optimizer.step(my_closure) for _ in range(5)])
    assert len(said) == 1
    assert "my_closure" in said[0]
    assert "optimizer.zero_grad()" in said[0]


@pytest.mark.parametrize("modules", [gradient_only, lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()]])
@pytest.mark.parametrize("clear", ["none", "zero", "data", "outside", "written", "micro-batches"])
def test_a_closure_that_clears_is_left_alone(modules, clear):
    if clear == "outside":  # a search evaluates more than once
        modules = gradient_only
    p = torch.ones(3, requires_grad=True)
    optimizer = tz.Modular([p], *modules())

    def closure(backward=True):
        loss = (p**2).sum()
        if backward and clear == "data" and p.grad is not None:
            p.grad.data.zero_()
        elif backward and clear != "outside":
            optimizer.zero_grad(set_to_none=clear == "none")
        if backward and clear == "written":
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad.copy_(2 * p.detach())
        elif backward:
            (loss / 2).backward(retain_graph=True)
            (loss / 2).backward()
        return loss

    def steps():
        for _ in range(5):
            if clear == "outside":
                optimizer.zero_grad()
            optimizer.step(closure)

    assert warnings_of(steps) == []


def test_gradients_may_be_computed_outside():
    p = torch.ones(3, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(0.5))
    loss = (p**2).sum()
    loss.backward()
    assert warnings_of(lambda: optimizer.step(lambda: loss)) == []
    assert p.tolist() == [0.0, 0.0, 0.0]


# -- what outlives it --------------------------------------------------------------------------------------------------
class Probe(Module):
    """Wraps the closure, as a module of a user may."""

    def step(self, var):
        inner = var.closure
        var.closure = lambda backward=True: inner(backward) + 0 * var.params[0].sum().detach()
        return var


KEEPING = {
    "Adam": gradient_only,
    "search": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
    "approximation": lambda: [tz.m.SPSA(), tz.m.Adam()],
    "nested": lambda: [tz.m.Split(lambda p: p.ndim > 1, [tz.m.SPSA(), tz.m.Adam()], [tz.m.MeZO(), tz.m.LR(0.1)])],
    "target": lambda: [tz.m.ClipNorm(1.0, target="closure"), tz.m.Adam()],
    "graph": lambda: [tz.m.NewtonCG(hvp_method="autograd"), tz.m.Backtracking()],
    "projection": lambda: [tz.m.VectorProjection([tz.m.LBFGS(), tz.m.Backtracking()], project_params=True)],
    "wrapped": lambda: [Probe(), tz.m.Backtracking()],
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", KEEPING)
def test_nothing_of_a_step_outlives_it(name, fails):
    params, batch = make_params(), torch.ones(3)
    optimizer, inner = tz.Modular(params, *KEEPING[name]()), closure_of(params)
    seen, graph = weakref.ref(batch), []

    def closure(backward=True, *, batch=batch):
        loss = inner(backward) + 0 * batch.sum()
        graph.append(weakref.ref(loss))
        if fails and len(graph) == 2:
            raise OSError
        return loss

    gc.collect()
    gc.disable()
    try:
        try:
            optimizer.step(closure)
        except OSError:
            assert fails
        del closure, batch
        assert seen() is None
        assert all(ref() is None for ref in graph)
    finally:
        gc.enable()


def test_a_closure_can_be_evaluated_within_its_step_only():
    kept = []

    class Keeps(Module):
        def step(self, var):
            kept.append(var.closure)
            return var

    params = make_params()
    tz.Modular(params, Keeps(), tz.m.LR(0.1)).step(closure_of(params))
    with pytest.raises(RuntimeError, match="only within the step"):
        kept[0](False)


# -- closures of modules -----------------------------------------------------------------------------------------------
class Penalty(Module):
    """Adds ½·c·‖p‖² to the loss by an expression of its own."""

    c: float = 1.0

    def step(self, var):
        old, params, c = var.closure, var.params, self.settings[var.params[0]]["c"]

        def closure(backward=True):
            loss = old(False) + c / 2 * sum(p.pow(2).sum() for p in params)
            if backward:
                for p in params:
                    p.grad = None
                loss.backward()
            return loss

        var.closure = closure
        return var


@pytest.mark.parametrize("modules", [lambda: [tz.m.BFGS(), tz.m.StrongWolfe()], lambda: [tz.m.LR(0.25)]])
def test_a_module_that_computes_in_its_closure(modules):
    """½(p − 1)² + ½p² is smallest at ½."""
    p = torch.tensor([2.0, -3.0], requires_grad=True)
    optimizer = tz.Modular([p], Penalty(1.0), *modules())
    closure = closure_of([p], lambda ps: ((ps[0] - 1) ** 2).sum() / 2)
    for _ in range(30):
        optimizer.step(closure)
    assert torch.allclose(p, torch.tensor(0.5), atol=1e-4)
    assert optimizer.last_step.loss.item() == pytest.approx(0.5, abs=1e-3)  # with the penalty


# -- contexts ----------------------------------------------------------------------------------------------------------
class Look(Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def step(self, var):
        self.fn(var)
        return var


def test_loss_approx_is_the_loss_where_that_is_known():
    params, seen = make_params(), []

    def look(var):
        seen.append((var.loss_approx.item(), var.get_loss().item()))
        var.loss_approx = torch.tensor(7.0)
        seen.append((var.loss_approx.item(), var.loss.item()))

    loss = tz.Modular(params, Look(look), tz.m.LR(0.1)).step(closure_of(params))
    assert seen == [(loss.item(), loss.item()), (7.0, loss.item())]


def test_a_clone_with_and_without_a_copy_of_the_update():
    params, seen = make_params(), []

    def look(var):
        mine = var.get_update()
        shared, own, given = (
            var.clone(clone_update=False),
            var.clone(clone_update=True),
            var.clone([t * 2 for t in mine]),
        )
        seen.append([a is b for a, b in zip(shared.get_update(), mine, strict=True)])
        seen.append([a is b for a, b in zip(own.get_update(), mine, strict=True)])
        shared.get_update()[0].zero_()
        seen.append([mine[0].abs().sum().item(), own.get_update()[0].abs().sum().item() > 0])
        seen.append(torch.equal(given.get_update()[1], 2 * mine[1]))
        assert shared.loss is own.loss is var.loss

    tz.Modular(params, Look(look), tz.m.LR(0.1)).step(closure_of(params))
    assert seen == [[True] * 3, [False] * 3, [0.0, True], True]
