"""``deterministic=True``: the closure is not evaluated where it has just been."""

import copy
import pickle

import pytest
import torch

import torchzero_core as tz
from torchzero_core.core.closure import Evaluations
from torchzero_core.distributed import Reductions

F64 = torch.float64


def problem(x0=(-1.2, 1.0), *, in_place=False):
    """Rosenbrock's function; the points at which it was evaluated with gradients."""
    p = torch.tensor(x0, dtype=F64, requires_grad=True)
    points = []

    def closure(backward=True):
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        if backward:
            points.append(tuple(p.tolist()))
            if in_place and p.grad is not None:
                p.grad.zero_()
            else:
                p.grad = None
            loss.backward()
        return loss

    return p, closure, points


CHAINS = {
    "LBFGS": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
    "BFGS": lambda: [tz.m.BFGS(), tz.m.StrongWolfe()],
    "CG": lambda: [tz.m.PolakRibiere(), tz.m.StrongWolfe(c2=0.1)],
    "NewtonCG": lambda: [tz.m.NewtonCG(), tz.m.StrongWolfe()],
    "clipped": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe(), tz.m.ClipValue(0.1)],
}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_same_steps_with_fewer_evaluations(name, in_place):
    found = []
    for deterministic in (False, True):
        p, closure, points = problem(in_place=in_place)
        optimizer = tz.Modular([p], *CHAINS[name](), deterministic=deterministic)
        path = []
        for _ in range(12):
            loss = optimizer.step(closure)
            path.append((loss.item(), optimizer.last_step.loss.item(), *p.tolist()))
        found.append((path, points))
    (plain, every), (kept, once) = found
    assert kept == plain
    assert [loss for loss, *_ in kept] == [loss for _, loss, *_ in kept]
    assert len(once) == len(set(once))
    assert set(once) == set(every)
    if name != "clipped":  # there a step ends where no search has been
        assert len(every) - len(once) >= 9
    assert optimizer.last_step.evaluations < 12


def test_parameters_that_somebody_has_moved_are_evaluated_anew():
    p, closure, points = problem()
    optimizer = tz.Modular([p], *CHAINS["LBFGS"](), deterministic=True)
    optimizer.step(closure)
    with torch.no_grad():
        p.add_(1e-9)
    before = len(points)
    loss = optimizer.step(closure)
    assert points[before][0] != points[before - 1][0]
    assert loss.item() == (1 - points[before][0]) ** 2 + 100 * (points[before][1] - points[before][0] ** 2) ** 2


def test_a_gradient_that_somebody_changes_is_not_remembered_wrong():
    p, closure, _ = problem()
    optimizer = tz.Modular([p], tz.m.LR(0.0), deterministic=True)  # stays where it is
    optimizer.step(closure)
    right = p.grad.clone()
    p.grad.zero_()
    optimizer.step(closure)
    assert torch.equal(p.grad, right)
    assert optimizer.last_step.evaluations == 0


def test_an_exception_leaves_nothing_behind():
    p, closure, points = problem()
    optimizer = tz.Modular([p], *CHAINS["LBFGS"](), deterministic=True)
    optimizer.step(closure)

    def broken(backward=True):
        raise KeyError("data")

    with torch.no_grad():
        p.add_(1.0)
    with pytest.raises(KeyError):
        optimizer.step(broken)
    before = len(points)
    optimizer.step(closure)
    assert len(points) > before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_deterministic_too(copied):
    p = torch.tensor([3.0], requires_grad=True)
    optimizer = copied(tz.Modular([p], tz.m.LR(0.1), deterministic=True))
    assert "Modular(deterministic=True" in repr(optimizer)
    (q,) = optimizer.param_groups[0]["params"]

    def closure(backward=True):
        loss = (q**2).sum()
        if backward:
            q.grad = None
            loss.backward()
        return loss

    optimizer.param_groups[0]["lr"] = 0.0
    for evaluations in (1, 0):
        assert optimizer.step(closure).item() == 9
        assert optimizer.last_step.evaluations == evaluations


def test_with_reductions_over_ranks_every_point_is_evaluated():
    class Ranks(Reductions):
        """Ranks that may hold different parts of the parameters."""

    p, closure, _ = problem()
    optimizer = tz.Modular([p], tz.m.LR(0.0), deterministic=True)
    optimizer.distributed = Ranks()
    for _ in range(2):
        optimizer.step(closure)
        assert optimizer.last_step.evaluations == 1


def test_a_parameter_without_a_gradient():
    p, q = (torch.ones(2, dtype=F64, requires_grad=True) for _ in range(2))

    def closure(backward=True):
        loss = (p**2).sum()
        if backward:
            p.grad = q.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular([p, q], tz.m.LBFGS(), tz.m.StrongWolfe(), deterministic=True)
    for _ in range(3):
        optimizer.step(closure)
    assert q.grad is None
    assert torch.equal(q, torch.ones_like(q))
    assert p.abs().max() < 1e-6


def test_memory_of_an_evaluation_that_goes_is_used_for_the_next_one():
    known, params = Evaluations(word=True), [torch.zeros(3, dtype=F64), torch.zeros(2, 2).t()]
    kept = {}
    for i, loss in enumerate((4.0, float("nan"), 2.0, 3.0, 1.0)):
        for p in params:
            p.fill_(i)
            p.grad = torch.full_like(p, -i)
        known.note(params, torch.tensor(loss, dtype=F64), None)
        kept[i] = loss
    found = {}
    for i in kept:  # the latest and the best of the others
        for p in params:
            p.fill_(i)
        point = known.find(params, None)
        if point is not None:
            found[i] = float(point.loss)
            assert all(torch.equal(g, torch.full_like(p, -i)) for g, p in zip(point.grads, params, strict=True))
    assert found == {2: 2.0, 4: 1.0}


@pytest.mark.parametrize("word", [True, None])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_parameters_that_are_added_between_steps_make_another_point(word, steps):
    def run(deterministic):
        a, b = (torch.nn.Parameter(torch.full((2,), x, dtype=torch.float64)) for x in (1.0, 2.0))
        optimizer = tz.Modular([a], tz.m.LBFGS(), tz.m.StrongWolfe(), deterministic=deterministic)

        def closure(backward=True):
            loss = (a**2 + (a - b) ** 2 + b**4).sum()
            if backward:
                a.grad = b.grad = None
                loss.backward()
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        optimizer.add_param_group({"params": [b]})
        for _ in range(3):
            optimizer.step(closure)
        return a.detach(), b.detach()

    for found, expected in zip(run(word), run(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
