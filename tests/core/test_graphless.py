"""Evaluations for a value alone: they make no graph, and losses that differentiate something themselves still work."""

import copy
import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import torchzero_core as tz
from tests.problems import bits, same
from torchzero_core.core import Module

m = tz.m

VALUES = {
    "MeZO": lambda: [m.MeZO(seed=0), m.LR(0.01)],
    "SPSA": lambda: [m.SPSA(seed=0), m.Adam(), m.LR(0.01)],
    "RDSA": lambda: [m.RDSA(seed=0, n_samples=2), m.LR(0.01)],
    "RandomizedFDM, 4 points": lambda: [m.RandomizedFDM(seed=0, formula="forward3"), m.LR(0.01)],
    "GaussianSmoothing": lambda: [m.GaussianSmoothing(h=0.01, n_samples=3, seed=0), m.LR(0.01)],
    "ForwardGradient by differences": lambda: [m.ForwardGradient(jvp_method="central", seed=0), m.LR(0.01)],
    "FDM, Backtracking": lambda: [m.FDM(), m.Backtracking()],
    "SPSA as the update": lambda: [m.SPSA(seed=0, target="update"), m.LR(0.01)],
    "inside Multistep": lambda: [m.Multistep([m.SPSA(seed=0, target="update"), m.LR(0.01)], 2)],
    "smoothed twice": lambda: [m.GaussianHomotopy(2, 0.1, seed=0), m.SPSA(seed=0), m.LR(0.01)],
    "dropped weights": lambda: [m.WeightDropout(0.2, seed=0), m.SPSA(seed=0), m.LR(0.01)],
}
#: They need gradients at the start of a step, and values elsewhere.
SEARCHES = {
    "Backtracking": lambda: [m.Backtracking()],
    "AdaptiveBacktracking": lambda: [m.LBFGS(), m.AdaptiveBacktracking()],
    "GridLineSearch": lambda: [m.GridLineSearch(0.0, 0.1, 5)],
    "ScipyMinimizeScalar": lambda: [m.ScipyMinimizeScalar(maxiter=4)],
    "higher order": lambda: [m.Normalize(), m.LR(0.01), m.Backtracking()],
}


class Problem:
    """A small network and its loss; counts the tensors that evaluations save for a backward pass.

    Args:
        chain: makes the modules.
        penalty: whether the loss contains derivatives by the inputs, as of physics-informed networks.
        dropout: whether random numbers are drawn.
    """

    def __init__(self, chain, penalty=False, dropout=0.0):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1)).double()
        self.x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2)
        self.optimizer = tz.Modular(self.net.parameters(), *chain())
        self.penalty = penalty
        self.calls, self.values, self.modes, self.saved = 0, 0, [], 0

    def __call__(self, backward=True):
        self.calls += 1
        self.values += not backward
        self.modes.append(torch.is_grad_enabled())
        with saved_tensors_hooks(lambda t: self._saw(t, backward), lambda t: t):
            x = self.x.clone().requires_grad_(self.penalty)
            u = self.net(x)
            loss = (u - self.x.sum(1, keepdim=True)).square().mean()
            if self.penalty:
                (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
                loss = loss + (du - 1).square().mean()
        if backward:
            self.optimizer.zero_grad()
            loss.backward()
        return loss

    def _saw(self, tensor, backward):
        self.saved += not backward
        return tensor

    def run(self, steps=4):
        """The losses of some steps and the parameters after them."""
        torch.manual_seed(1)
        losses = [self.optimizer.step(self).detach().clone() for _ in range(steps)]
        return bits([*losses, *self.net.parameters()])


def with_graphs(problem):
    """The same, with a graph in every evaluation."""
    problem.optimizer.graphless.needs_graph = True
    return problem


# -- no graph ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*VALUES, *SEARCHES])
def test_nothing_is_saved_and_the_numbers_stay(name):
    chain = {**VALUES, **SEARCHES}[name]
    here, there = Problem(chain, dropout=0.2), with_graphs(Problem(chain, dropout=0.2))
    assert same(here.run(), there.run())
    assert here.saved == 0 and there.saved >= 4 * there.values > 0
    assert (here.calls, here.values) == (there.calls, there.values)
    assert not here.optimizer.graphless.needs_graph
    if name in VALUES:
        assert here.calls == here.values and not any(here.modes)


def test_activations_are_not_kept():
    """Of a network of ten layers no more than a few activations are alive at once."""
    net, x = nn.Sequential(*[layer for _ in range(10) for layer in (nn.Linear(8, 8), nn.Tanh())]), torch.ones(4, 8)
    alive, most = set(), 0

    def seen(module, args, out):
        nonlocal most
        key = object()
        alive.add(key)
        weakref.finalize(out, alive.discard, key)
        most = max(most, len(alive))

    for layer in net:
        layer.register_forward_hook(seen)
    optimizer = tz.Modular(net.parameters(), m.MeZO(seed=0), m.LR(1e-3))
    gc.collect()
    for needs_graph, expected in ((False, range(1, 4)), (True, range(10, 50))):
        optimizer.graphless.needs_graph, most = needs_graph, 0
        optimizer.step(lambda backward=True: net(x).sum())
        assert most in expected, (needs_graph, most)


def test_the_loss_that_step_returns():
    problem = Problem(VALUES["MeZO"])
    before = problem(False).detach()
    assert torch.equal(problem.optimizer.step(problem), before)


def test_of_minimize():
    modes = []

    def fun(x):
        modes.append(torch.is_grad_enabled())
        return (x - 1).square().sum()

    result = tz.minimize(fun, torch.zeros(3, dtype=torch.float64), method=[m.FDM(), m.BFGS(), m.Backtracking()])
    assert result.fun < 1e-6 and result.nfev == len(modes)
    assert not any(modes)


def test_minimize_of_a_function_with_derivatives():
    def fun(x):
        t = torch.linspace(0, 1, 5, dtype=torch.float64, requires_grad=True)
        u = x[0] * t + x[1] * t**2
        (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        return (du - 1 - t).square().sum()  # x = (1, 1/2)

    calls = []
    result = tz.minimize(
        lambda x: calls.append(0) or fun(x),
        torch.zeros(2, dtype=torch.float64),
        method=[m.FDM(), m.BFGS(), m.Backtracking()],
    )
    assert torch.allclose(result.x, torch.tensor([1.0, 0.5], dtype=torch.float64), atol=1e-4)
    assert result.nfev == len(calls) - 1  # the attempt does not count


@pytest.mark.parametrize("penalty", [False, True])
def test_of_wrapped_packages(penalty):
    pytest.importorskip("scipy")
    problem = Problem(VALUES["MeZO"], penalty)
    problem.optimizer = tz.optim.wrappers.ScipyMinimize(
        problem.net.parameters(), "nelder-mead", options={"maxiter": 30}
    )
    before = problem(False).item()
    problem.calls, problem.saved, problem.modes = 0, 0, []
    assert problem.optimizer.step(problem) < before
    assert problem.modes == ([False] + [True] * (problem.calls - 1) if penalty else [False] * problem.calls)
    assert problem.optimizer.evaluations == problem.calls - penalty
    assert penalty or problem.saved == 0


def test_wrapped_packages_with_a_closure_that_always_goes_backward():
    pytest.importorskip("scipy")
    p = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.optim.wrappers.ScipyMinimize([p], "nelder-mead")

    def closure():
        loss = (p - 1).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) < 1e-6 and p.grad is None


def test_least_squares():
    p, modes = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True), []

    def residuals(backward=True):
        modes.append(torch.is_grad_enabled())
        return torch.stack([1 - p[0], 10 * (p[1] - p[0] ** 2)])

    optimizer = tz.Modular([p], m.GaussNewton(), m.Backtracking())
    for _ in range(10):
        loss = optimizer.step(residuals)
    assert loss < 1e-20
    assert modes[0] and modes.count(False) >= 10  # where Backtracking tries


# -- losses that differentiate something -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*VALUES, *SEARCHES])
def test_a_loss_with_derivatives_in_it(name):
    chain = {**VALUES, **SEARCHES}[name]
    here, there = Problem(chain, True, dropout=0.2), with_graphs(Problem(chain, True, dropout=0.2))
    assert same(here.run(), there.run())
    assert here.modes.count(False) == 1 and here.calls == there.calls + 1  # the one attempt, once and for all
    assert here.optimizer.last_step.evaluations == there.optimizer.last_step.evaluations
    assert here.optimizer.graphless.needs_graph


def test_the_attempt_is_not_counted():
    problem = Problem(VALUES["MeZO"], penalty=True)
    problem.optimizer.step(problem)
    assert problem.calls == 4 and problem.optimizer.last_step.evaluations == 3


def _backward_anyway(p):
    loss = p.square().sum()
    p.grad = None
    loss.backward()
    return loss


def _hook(p):
    y = p.square()
    y.register_hook(lambda g: g)
    return y.sum()


def _kept_gradient(p):
    y = p.square()
    y.retain_grad()
    return y.sum()


def _asserted(p):
    loss = p.square().sum()
    assert loss.requires_grad
    return loss


def _its_graph(p):
    loss = p.square().sum()
    loss.grad_fn.name()
    return loss


def _hessian_vector(p):
    (g,) = torch.autograd.grad(p.square().sum(), p, create_graph=True)
    (h,) = torch.autograd.grad(g @ torch.ones_like(p), p)
    return p.square().sum() + 0 * h.sum()


@pytest.mark.parametrize("fun", [_backward_anyway, _hook, _kept_gradient, _asserted, _its_graph, _hessian_vector])
def test_ways_to_need_gradients(fun):
    p = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], m.FDM(), m.LR(0.1))
    for _ in range(2):
        loss = optimizer.step(lambda backward=True: fun(p))
    assert loss.item() == pytest.approx(13 * 0.64)
    assert torch.allclose(p, torch.tensor([3.0, -2.0], dtype=torch.float64) * 0.64)
    assert optimizer.graphless.needs_graph


def _functional(p):
    return p.square().sum() + 0 * torch.func.hessian(lambda q: q.pow(3).sum())(p).sum()


def _jacobian(p):
    return p.square().sum() + 0 * torch.autograd.functional.jacobian(lambda q: q.pow(3), p, create_graph=True).sum()


def _forward_mode(p):
    return p.square().sum() + 0 * torch.func.jvp(lambda q: q.pow(3), (p,), (torch.ones_like(p),))[1].sum()


def _checkpointed(p):
    return checkpoint(lambda q: q.square().sum(), p, use_reentrant=False)


def _own_graph(p):
    with torch.enable_grad():
        (g,) = torch.autograd.grad(p.square().sum() / 2, p)
    return p @ g


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # of torch's own
@pytest.mark.parametrize("fun", [_functional, _jacobian, _forward_mode, _checkpointed, _own_graph])
def test_what_works_without(fun):
    p = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], m.FDM(), m.LR(0.1))
    assert optimizer.step(lambda backward=True: fun(p)).item() == 13
    assert torch.allclose(p, torch.tensor([2.4, -1.6], dtype=torch.float64))
    assert not optimizer.graphless.needs_graph


def test_random_numbers_of_the_attempt_are_drawn_again():
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    drawn = []

    def closure(backward=True):
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))  # noqa: NPY002
        return torch.autograd.grad(p.square().sum(), p, create_graph=True)[0].square().sum()

    tz.Modular([p], m.SPSA(seed=0), m.LR(0.01)).step(closure)
    assert len(drawn) == 4 and drawn[0] == drawn[1]
    assert len({*drawn}) == 3


def test_a_penalty_that_comes_later():
    problem = Problem(VALUES["SPSA"])
    problem.run(2)
    problem.penalty = True
    before = problem.calls
    problem.run(2)
    assert problem.calls == before + 2 * 3 + 1 and problem.optimizer.graphless.needs_graph


# -- what is no lack of gradients --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("the gradient exploded"),
        ValueError("this requires grad"),
        KeyError("grad"),
        StopIteration(),
        torch.OutOfMemoryError("out of memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_raised_at_once(error):
    p, calls = torch.ones(2, requires_grad=True), []

    def closure(backward=True):
        calls.append(backward)
        grad = error
        raise grad

    optimizer = tz.Modular([p], m.MeZO(seed=0), m.LR(0.1))
    with pytest.raises(type(error)):
        optimizer.step(closure)
    assert calls == [False] and torch.equal(p, torch.ones(2)) and not optimizer.graphless.needs_graph


def test_an_error_that_gradients_do_not_help():
    p, calls = torch.ones(2, requires_grad=True), []

    def closure(backward=True):
        calls.append(torch.is_grad_enabled())
        torch.zeros(1).backward()

    optimizer = tz.Modular([p], m.MeZO(seed=0), m.LR(0.1))
    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        optimizer.step(closure)
    assert calls == [False, True] and caught.value.__context__ is None
    assert torch.equal(p, torch.ones(2)) and not optimizer.graphless.needs_graph


# -- modules that want the graph ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "chain",
    [
        lambda: [m.NewtonCG(hvp_method="autograd"), m.Backtracking()],
        lambda: [m.Newton(), m.Backtracking()],
        lambda: [m.Backtracking(), m.NewtonCG(hvp_method="autograd")],
        lambda: [m.ClipNorm(10, target="closure"), m.Newton()],
        lambda: [m.TrustCG(hvp_method="autograd")],
    ],
)
@pytest.mark.parametrize("penalty", [False, True])
def test_modules_that_differentiate_the_loss(chain, penalty):
    here, there = Problem(chain, penalty), with_graphs(Problem(chain, penalty))
    assert same(here.run(), there.run())


class Descent(Module):
    """A user's: it differentiates what the closure returns, with gradients as they are in a step."""

    requires_closure = True
    needs_gradient = False

    def step(self, var):
        var.update = list(torch.autograd.grad(var.closure(False), var.params))
        var.loss = var.closure(False)
        return var


class Enabling(Descent):
    takes_values = True

    def step(self, var):
        with torch.enable_grad():
            var.update = list(torch.autograd.grad(var.closure(False), var.params))
        var.loss = var.closure(False)
        return var


class Passing(Module):
    """A user's wrapper that changes nothing."""

    requires_closure = True
    needs_gradient = False

    def step(self, var):
        exact = var.closure
        var.closure = lambda backward=True: exact(backward).reshape(1)
        return var


def test_a_users_wrapper_hands_the_graph_on():
    p = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = tz.Modular([p], Passing(), Descent(), m.LR(0.25))
    assert optimizer.step(lambda backward=True: p.square().sum()).item() == 5
    assert torch.equal(p.detach(), torch.tensor([0.5, -1.0]))


@pytest.mark.parametrize(("kind", "graphs"), [(Descent, True), (Enabling, False)])
def test_a_users_module_that_differentiates_the_loss(kind, graphs):
    p, modes = torch.tensor([1.0, -2.0], requires_grad=True), []

    def closure(backward=True):
        modes.append(torch.is_grad_enabled())
        return p.square().sum()

    optimizer = tz.Modular([p], kind(), m.LR(0.25))
    assert optimizer.step(closure).item() == 5
    assert torch.equal(p.detach(), torch.tensor([0.5, -1.0]))
    assert modes == [True, graphs]


class Squared(Module):
    """A user's wrapper of the closure: the squared norm of the gradient."""

    requires_closure = takes_values = True
    needs_gradient = False

    def step(self, var):
        exact, params = var.closure, var.params

        def closure(backward=True):
            grads = torch.autograd.grad(exact(False), params, create_graph=True)
            loss = sum(g.square().sum() for g in grads)
            if backward:
                for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                    p.grad = g
            return loss

        var.closure = closure
        return var


@pytest.mark.parametrize("chain", [lambda: [m.FDM(), m.LR(0.1)], lambda: [m.Backtracking()]])
def test_a_users_wrapper_that_differentiates_the_loss(chain):
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], Squared(), *chain())
    for _ in range(20):
        loss = optimizer.step(lambda backward=True: p.square().sum())
    assert loss < 1e-6


# -- copies ------------------------------------------------------------------------------------------------------------
def test_a_copy_finds_out_for_itself():
    problem = Problem(VALUES["MeZO"], penalty=True)
    problem.run(1)
    twin = copy.deepcopy(problem.optimizer)
    assert problem.optimizer.graphless.needs_graph and not twin.graphless.needs_graph
