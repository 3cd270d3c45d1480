"""The context of a step: what is evaluated, how often, what is kept (K3)."""

import warnings

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, closure_of, make_params, quadratic, run, same
from torchzero_core.core import Module


class Probe(Module):
    """Calls a function with the context."""

    def __init__(self, fn, closure=False):
        super().__init__()
        self.fn, self.requires_closure = fn, closure
        self.needs_gradient = False

    def step(self, var):
        self.fn(var)
        return var


def counting(params, loss=quadratic):
    """A closure that notes what it was asked for."""
    calls, inner = [], closure_of(params, loss)

    def closure(backward=True):
        calls.append(backward)
        return inner(backward)

    return closure, calls


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda v: [v.get_grad(), v.get_loss(), v.get_update(), v.get_loss(True), v.get_grad()], [True]),
        (lambda v: [v.get_loss(), v.get_loss(), v.get_loss(False)], [False]),
        (lambda v: [v.get_loss(True), v.get_grad(), v.peek_update()], [True]),
        (lambda v: [v.get_loss(), v.get_grad(), v.get_loss(True)], [False, True]),
        (lambda v: [v.get_grad(create_graph=True), v.get_loss(), v.get_grad()], [False]),
        (lambda v: [v.closure(False), v.closure(False), v.closure()], [False, False, True]),
        (lambda v: [], []),
    ],
)
def test_everything_is_evaluated_once_and_counted(ask, expected):
    params = make_params()
    closure, calls = counting(params)

    def stop(var):
        ask(var)
        var.stop = var.skip_update = True

    optimizer = tz.Modular(params, Probe(stop), tz.m.LR(0.1))
    optimizer.step(closure)
    assert calls == expected
    assert optimizer.last_step.evaluations == len(expected)
    assert optimizer.last_step.backward_evaluations == sum(expected)


def test_what_is_evaluated_is_right():
    params = make_params()
    expected = torch.autograd.grad(quadratic(params), params)
    seen = {}

    def look(var):
        seen.update(loss=var.get_loss(), grad=var.get_grad(), step=var.current_step, model=var.model)
        assert var.loss is var.get_loss()
        assert all(g is p.grad for g, p in zip(var.grad, var.params, strict=True))
        update = var.get_update()
        assert all(u is not g for u, g in zip(update, var.grad, strict=True))
        assert var.get_update() is update

    optimizer = tz.Modular(params, Probe(look), tz.m.LR(0.1))
    start = quadratic(params).item()
    optimizer.step(closure_of(params))
    assert same(list(expected), [g.detach() for g in seen["grad"]])
    assert seen["loss"].item() == start == optimizer.last_step.loss.item()
    assert not seen["loss"].requires_grad
    assert seen["step"] == 0
    optimizer.step(closure_of(params))
    assert seen["step"] == 1


def test_differentiable_gradients():
    x = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    seen = []

    def curvature(var):
        (g,) = var.get_grad(create_graph=True)
        with torch.enable_grad():  # a step runs without, as in torch.optim
            (h,) = torch.autograd.grad(g.sum(), var.params)
        seen.append((g.detach().clone(), h))

    def newton(var):
        var.update = [seen[-1][0] / seen[-1][1]]

    def cube(params):
        return (params[0] ** 4).sum()

    optimizer = tz.Modular([x], Probe(curvature), Probe(newton))
    optimizer.step(closure_of([x], cube))
    assert seen[0][0].tolist() == [32.0, -4.0]
    assert seen[0][1].tolist() == [48.0, 12.0]
    assert torch.allclose(x, torch.tensor([2 - 32 / 48, -1 + 4 / 12], dtype=torch.float64))


def test_differentiable_gradients_after_plain_ones():
    x = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    seen = []

    def look(var):
        var.get_grad()
        seen.extend(var.get_grad(create_graph=True))

    optimizer = tz.Modular([x], Probe(look), tz.m.LR(0.1))
    optimizer.step(closure_of([x], lambda ps: (ps[0] ** 4).sum()))
    assert seen[0].requires_grad
    assert seen[0].tolist() == [32.0, -4.0]


def test_gradients_belong_to_no_one_but_the_user():
    params = make_params()
    kept = []

    def spoil(var):
        for u in var.get_update():
            u.fill_(0)
        kept.append([p.grad.clone() for p in params])

    optimizer = tz.Modular(params, Probe(spoil))
    start = bits(params)
    optimizer.step(closure_of(params))
    assert same(bits(params), start)  # an update of zeros
    assert all(p.grad.abs().sum() > 0 for p in params)
    assert same(kept[0], [p.grad for p in params])


# -- wrapped closures --------------------------------------------------------------------------------------------------
class Wrapper(Module):
    """Adds a number to the loss and multiplies the gradients, for every later module."""

    needs_gradient = False

    def __init__(self, add, factor):
        super().__init__()
        self.add, self.factor = add, factor

    def step(self, var):
        inner, params = var.closure, var.params

        def closure(backward=True):
            loss = inner(backward) + self.add
            if backward:
                for p in params:
                    p.grad = p.grad * self.factor
            return loss

        var.closure = closure
        return var


def test_closure_wrappers_nest():
    p = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    seen = []
    probe = Probe(lambda var: seen.append((var.closure(False).item(), var.get_loss(True).item(), var.grad[0].item())))
    optimizer = tz.Modular([p], Wrapper(1.0, 2.0), Wrapper(10.0, 3.0), probe, tz.m.LR(0.1))
    loss = optimizer.step(closure_of([p], lambda ps: ps[0].square().sum()))
    assert seen == [(9 + 11, 9 + 11, 6.0 * 6)]
    assert loss.item() == 20
    assert p.item() == pytest.approx(3 - 3.6, abs=1e-15)
    assert optimizer.last_step.evaluations == 2


def test_an_approximation_gives_later_modules_a_closure_like_any_other():
    """A line search and a quasi-Newton method behind finite differences never ask the user for a gradient."""
    params = make_params([(3,)])
    closure, calls = counting(params)
    optimizer = tz.Modular(params, tz.m.SPSA(h=1e-4, n_samples=8, seed=0), tz.m.LBFGS(), tz.m.Backtracking())
    first = float(optimizer.step(closure))
    for _ in range(40):
        loss = float(optimizer.step(closure))
    assert not any(calls)
    assert optimizer.last_step.backward_evaluations == 0
    assert loss < 0.1 * first
    assert all(p.grad is None or p.grad.isfinite().all() for p in params)


# -- closures without `backward` ---------------------------------------------------------------------------------------
def test_a_closure_without_an_argument_works_and_warns_once():
    ours, theirs = make_params(), make_params()

    def make(params):
        return tz.Modular(params, tz.m.LBFGS(), tz.m.Backtracking(init=4.0))  # first tries steps that are too long

    inner, calls = closure_of(ours), []

    def closure():
        calls.append(1)
        return inner()

    optimizer, expected = make(ours), make(theirs)
    run(expected, theirs, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.step(closure)
    assert [w.category for w in caught] == [UserWarning]
    assert "closure(backward=True)" in str(caught[0].message)
    assert "three times as much" in str(caught[0].message)
    assert same(bits(ours), bits(theirs))
    assert optimizer.last_step.evaluations == expected.last_step.evaluations > 1
    assert optimizer.last_step.backward_evaluations == expected.last_step.backward_evaluations


def test_a_closure_without_an_argument_is_fine_where_gradients_are_wanted_anyway():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    inner = closure_of(params)
    optimizer.step(lambda: inner())  # a warning would be an error
    assert optimizer.last_step.evaluations == 1


def test_loss_only_evaluations_leave_gradients_as_they_were():
    params = make_params()
    inner = closure_of(params)
    kept = []

    def look(var):
        var.get_grad()
        grads = [p.grad for p in params]
        values = bits(grads)
        var.closure(False)
        kept.append((grads, values))

    optimizer = tz.Modular(params, Probe(look), tz.m.LR(0.1))
    with pytest.warns(UserWarning, match="no `backward` argument"):
        optimizer.step(lambda: inner())
    grads, values = kept[0]
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert same([p.grad for p in params], values)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: lambda backward=True: f(backward),
        lambda f: lambda backward: f(backward),
        lambda f: lambda *, backward=True: f(backward),
        lambda f: lambda **kwargs: f(kwargs.get("backward", True)),
        lambda f: lambda do_backward=True: f(do_backward),
    ],
)
def test_every_way_to_take_the_argument(make):
    params = make_params()
    closure, calls = counting(params)
    optimizer = tz.Modular(params, tz.m.SPSA(seed=0), tz.m.LR(1e-3))
    optimizer.step(make(closure))
    assert calls
    assert not any(calls)


# -- the outcome -------------------------------------------------------------------------------------------------------
def test_last_step():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Adam(), tz.m.LR(0.1))
    assert optimizer.last_step.evaluations == 0
    assert optimizer.last_step.loss is None
    run(optimizer, params, 1)
    info = optimizer.last_step
    assert (info.evaluations, info.backward_evaluations, info.step_size, info.status) == (1, 1, None, "ok")
    search = tz.Modular(params, tz.m.Backtracking(init=64.0))
    closure, calls = counting(params)
    start = quadratic(params).item()
    search.step(closure)
    info = search.last_step
    assert info.evaluations == len(calls) > 2
    assert info.backward_evaluations == sum(calls)
    assert 0 < float(info.step_size) < 64
    assert info.loss.item() == start
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()  # without a closure
    assert (optimizer.last_step.evaluations, optimizer.last_step.loss) == (0, None)


def test_status_and_step_size_can_be_set_by_any_module():
    def say(var):
        var.get_loss()
        var.info.status, var.info.step_size = "rejected", 0.25
        var.stop = var.skip_update = True

    params = make_params()
    optimizer = tz.Modular(params, Probe(say), tz.m.LR(0.1))
    start = bits(params)
    run(optimizer, params, 1)
    assert (optimizer.last_step.status, optimizer.last_step.step_size) == ("rejected", 0.25)
    assert same(start, bits(params))


# -- flow --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("stop", "skip"), [(True, False), (False, True), (True, True)])
def test_stop_and_skip(stop, skip):
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    later = []

    def flags(var):
        var.update = [torch.ones_like(p)]
        var.stop, var.skip_update = stop, skip

    optimizer = tz.Modular([p], Probe(flags), Probe(lambda var: later.append(1)))
    p.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert p.item() == (0 if skip else -1)
    assert bool(later) is not stop


@pytest.mark.parametrize("compile", [False, True])
def test_a_module_that_moved_the_parameters_itself_may_stand_before_a_rule(compile):
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    def move(var):
        p.add_(5)
        var.skip_update = True

    optimizer = tz.Modular([p], Probe(move), tz.m.LR(0.1), compile=compile)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on Probe")
        optimizer.step(closure_of([p]))
    assert p.item() == 5


def test_clone_and_absorb():
    params = make_params()
    results = []

    def branch(var):
        var.get_update()
        other = var.clone()
        for u in other.get_update():
            u.fill_(7)
        other.skip_update = True
        results.append((bits(var.get_update()), var.skip_update))
        var.absorb(other)
        assert var.skip_update
        var.skip_update = False
        fresh = var.clone([torch.ones_like(p) for p in var.params])
        assert all(u.sum() == u.numel() for u in fresh.get_update())

    optimizer = tz.Modular(params, Probe(branch), tz.m.LR(0.1))
    optimizer.step(closure_of(params))
    assert same(results[0][0], [p.grad for p in params])
    assert results[0][1] is False


# -- errors ------------------------------------------------------------------------------------------------------------
def test_a_closure_that_returns_nothing():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.SPSA(), tz.m.LR(0.1))
    with pytest.raises(TypeError, match="The closure returned None; it must return the loss"):
        optimizer.step(lambda backward=True: None)


def test_a_loss_may_be_a_number():
    p = torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.SPSA(seed=0), tz.m.LR(1e-3))
    loss = optimizer.step(lambda backward=True: float(p.detach().square().sum()))
    assert loss.item() == 2.0


@pytest.mark.parametrize("ask", [lambda v: v.get_loss(), lambda v: v.get_grad(create_graph=True)])
def test_what_needs_a_closure_says_so(ask):
    params = make_params()
    optimizer = tz.Modular(params, Probe(ask), tz.m.LR(0.1))
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()


def test_a_chain_that_needs_a_closure_names_the_module():
    optimizer = tz.Modular(make_params(), tz.m.LBFGS(), tz.m.StrongWolfe())
    with pytest.raises(RuntimeError, match=r"StrongWolfe has to evaluate the loss: call optimizer\.step\(closure\)"):
        optimizer.step()


def test_sparse_gradients_are_refused():
    layer = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = tz.Modular(layer, tz.m.Adam(), tz.m.LR(0.1))
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"shape \(4, 2\) has a sparse gradient.*sparse=False"):
        optimizer.step()
