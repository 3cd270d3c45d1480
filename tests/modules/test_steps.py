"""Several steps as one: Multistep and Sequential."""

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, same

m = tz.m


def values(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Problem:
    """A quartic of two tensors, with everything counted that is asked of it."""

    def __init__(self):
        self.params = [values(3, seed=1).requires_grad_(), values(2, 2, seed=2).requires_grad_()]
        self.points, self.calls = [], []
        self.fail_at = self.nan_at = None

    def loss(self):
        return sum((p**4).sum() + 0.5 * (p**2 * torch.arange(1, p.numel() + 1).view_as(p)).sum() for p in self.params)

    def __call__(self, backward=True):
        self.calls.append(backward)
        self.points.append(bits(self.params))
        if len(self.calls) == self.fail_at:
            raise ZeroDivisionError
        loss = self.loss() * (float("nan") if self.nan_at is not None and len(self.calls) >= self.nan_at else 1.0)
        if backward:
            for p in self.params:
                p.grad = None
            loss.backward()
        return loss


def close(a, b, tolerance=1e-14):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=tolerance, atol=tolerance)


def adam():
    return [m.Adam(), m.LR(0.05)]


def test_the_steps_are_those_of_the_module_alone():
    one, many = Problem(), Problem()
    steps = tz.Modular(many.params, *adam())
    whole = tz.Modular(one.params, m.Multistep(adam(), 4))
    for _ in range(3):
        loss = whole.step(one)
        first = many.loss().item()
        for _ in range(4):
            steps.step(many)
        close(one.params, many.params)
        assert loss.item() == pytest.approx(first, rel=1e-14)
    assert one.calls == many.calls == [True] * 12
    assert whole.last_step.evaluations == whole.last_step.backward_evaluations == 4
    state = whole.state_dict()["state"][0]
    assert state["Multistep.module.Adam.step"] == 12
    assert state["Modular.step"] == 3


def test_one_step_needs_no_closure_and_changes_nothing():
    problem, other = Problem(), Problem()
    optimizer = tz.Modular(problem.params, m.ClipValue(0.5), m.Multistep(adam(), 1))
    assert not optimizer.requires_closure
    for p, q in zip(problem.params, other.params, strict=True):
        p.grad = q.grad = torch.ones_like(p)
    assert optimizer.step() is None
    tz.Modular(other.params, m.ClipValue(0.5), *adam()).step()
    close(problem.params, other.params)


def test_a_group_with_more_steps_is_told_that_it_needs_a_closure():
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer = tz.Modular([{"params": [p], "steps": 2}], m.Multistep(m.Sign(), 1))
    with pytest.raises(RuntimeError, match=r"Multistep has to evaluate the loss: call optimizer\.step\(closure\)"):
        optimizer.step()


def test_the_whole_way_is_the_update_of_the_modules_behind():
    problem, other = Problem(), Problem()
    seen = []
    optimizer = tz.Modular(problem.params, m.Multistep(m.LR(0.1), 3), m.Mul(0.5))
    optimizer.watch(lambda path, update: seen.append((path, [u.clone() for u in update])))
    start = bits(problem.params)
    optimizer.step(problem)
    plain = tz.Modular(other.params, m.LR(0.1))
    for _ in range(3):
        plain.step(other)
    way = [a - b.detach() for a, b in zip(start, other.params, strict=True)]
    close(seen[0][1], way)
    close(problem.params, [a - 0.5 * w for a, w in zip(start, way, strict=True)])
    assert seen[0][0] == "Multistep"


def test_the_gradient_behind_is_that_of_the_start():
    problem = Problem()
    problem()
    gradient = [p.grad.clone() for p in problem.params]
    start = bits(problem.params)
    tz.Modular(problem.params, m.Multistep(m.LR(0.1), 3), m.Grad()).step(problem)
    close(problem.params, [a - g for a, g in zip(start, gradient, strict=True)])
    close([p.grad for p in problem.params], gradient)  # as after a step of anything else


def test_gradients_in_reused_memory():
    """A closure that zeroes gradients in place writes over those of the step before."""
    one, other = Problem(), Problem()

    def closure(backward=True):
        loss = one.loss()
        if backward:
            for p in one.params:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad.zero_()
            loss.backward()
        return loss

    def chain():  # the first inside starts without the gradient, so that the step has none of its own before
        inside = [m.WeightDropout(0.0), m.LastGradDifference(), m.LR(0.01)]
        return [m.Multistep(inside, 3), m.Add(m.Grad(), alpha=0.01)]

    a, b = tz.Modular(one.params, *chain()), tz.Modular(other.params, *chain())
    for _ in range(3):
        a.step(closure)
        b.step(other)
    assert same(bits(one.params), bits(other.params))


def test_what_a_search_has_ended_with_is_not_evaluated_again():
    problem = Problem()
    optimizer = tz.Modular(problem.params, m.Multistep([m.LBFGS(), m.StrongWolfe()], 5))
    optimizer.step(problem)
    seen = [torch.cat([t.reshape(-1) for t in point]) for point in problem.points]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert optimizer.last_step.evaluations == len(problem.calls)

    other = Problem()  # step by step, each start is evaluated again unless the user gives his word
    known = tz.Modular(other.params, m.LBFGS(), m.StrongWolfe(), deterministic=True)
    for _ in range(5):
        known.step(other)
    assert len(problem.calls) == len(other.calls)
    close(problem.params, other.params, 1e-12)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "chain",
    [
        lambda: [m.Multistep(adam(), 4)],
        lambda: [m.Sequential([adam(), m.LR(0.01)], 2)],
        lambda: [m.Multistep([m.BFGS(), m.StrongWolfe()], 4), m.LR(0.5)],
        lambda: [m.Split(lambda p: p.ndim == 1, m.Multistep(adam(), 3), m.Multistep(adam(), 2))],
    ],
)
def test_an_error_leaves_the_parameters_exactly(chain, at):
    problem = Problem()
    optimizer = tz.Modular(problem.params, *chain())
    start = bits(problem.params)
    problem.fail_at = at
    with pytest.raises(ZeroDivisionError):
        optimizer.step(problem)
    assert same(bits(problem.params), start)
    problem.fail_at = None
    before = problem.loss().item()
    optimizer.step(problem)
    assert problem.loss().item() < before


def test_it_ends_before_a_loss_that_is_not_finite():
    problem, other = Problem(), Problem()
    optimizer = tz.Modular(problem.params, m.Multistep(adam(), 5))
    problem.nan_at = 4
    optimizer.step(problem)
    assert optimizer.last_step.status == "not finite"
    plain = tz.Modular(other.params, *adam())
    for _ in range(2):  # the third led to where it is not a number
        plain.step(other)
    close(problem.params, other.params)
    assert all(v.isfinite().all() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))


def test_sequential_takes_turns():
    problem, other = Problem(), Problem()
    optimizer = tz.Modular(problem.params, m.Sequential([m.LR(0.02), [m.Sign(), m.LR(0.01)]], 3))
    optimizer.step(problem)
    for _ in range(3):
        for change in (lambda g: 0.02 * g, lambda g: 0.01 * g.sign()):
            other()
            with torch.no_grad():
                for p in other.params:
                    p -= change(p.grad)
    close(problem.params, other.params)
    assert [x.path for x in optimizer.unrolled_modules] == [
        "Sequential", "Sequential.0.LR", "Sequential.1.Sign", "Sequential.1.LR"
    ]  # fmt: skip


def test_sequential_takes_one_module_too_and_refuses_none():
    assert list(m.Sequential(m.Sign()).children) == ["0"]
    with pytest.raises(ValueError, match="at least one module"):
        m.Sequential([])
    with pytest.raises(ValueError, match="steps=0"):
        m.Sequential([m.Sign()], 0)


def test_a_parameter_without_a_gradient_stays_where_it_is():
    problem = Problem()
    idle = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([*problem.params, idle], m.Multistep(adam(), 3), m.WeightDecay(0.1))
    optimizer.step(problem)
    assert torch.equal(idle, torch.ones(2))
    assert not optimizer.state[idle]


def test_a_child_that_waits_makes_no_update():
    problem = Problem()
    optimizer = tz.Modular(problem.params, m.Multistep(m.GradientAccumulation(adam(), 5), 2), m.WeightDecay(0.1))
    start = bits(problem.params)
    optimizer.step(problem)
    optimizer.step(problem)
    assert same(bits(problem.params), start)
    optimizer.step(problem)  # the fifth of six gradients
    assert not same(bits(problem.params), start)


class Central(m.GradApproximator):
    """Finite differences."""

    def approximate(self, closure, params, loss, var):
        grads = [torch.zeros_like(p) for p in params]
        for p, g in zip(params, grads, strict=True):
            for i in range(p.numel()):
                before = p.view(-1)[i].clone()
                at = []
                for h in (1e-4, -1e-4):
                    p.view(-1)[i] = before + h
                    at.append(closure(False))
                p.view(-1)[i] = before
                g.view(-1)[i] = (at[0] - at[1]).detach() / 2e-4
        return grads, loss, None


def test_estimated_gradients_are_estimated_anew_at_each_step():
    problem = Problem()
    optimizer = tz.Modular(problem.params, m.Multistep([Central(), m.LR(0.05)], 3))
    optimizer.step(problem)
    other = Problem()
    plain = tz.Modular(other.params, m.LR(0.05))
    for _ in range(3):
        plain.step(other)
    close(problem.params, other.params, 1e-6)
    assert True not in problem.calls


def test_in_a_projection():
    problem, other = Problem(), Problem()
    chain = m.VectorProjection(m.Multistep([m.Normalize(), m.LR(0.1)], 3), project_params=True)
    tz.Modular(problem.params, chain).step(problem)
    for _ in range(3):
        other()
        norm = torch.cat([p.grad.reshape(-1) for p in other.params]).norm()
        with torch.no_grad():
            for p in other.params:
                p -= 0.1 * p.grad / norm
    close(problem.params, other.params)
    assert problem.calls == [True] * 3


def test_steps_within_steps():
    problem, other = Problem(), Problem()
    tz.Modular(problem.params, m.Multistep(m.Multistep(m.LR(0.02), 2), 3)).step(problem)
    plain = tz.Modular(other.params, m.LR(0.02))
    for _ in range(6):
        plain.step(other)
    close(problem.params, other.params)


def test_the_learning_rate_of_the_groups_scales_the_way():
    problem, other = Problem(), Problem()
    optimizer = tz.Modular(problem.params, m.Multistep(m.Mul(0.02), 2))
    optimizer.param_groups[0]["lr"] = 0.5
    start = bits(problem.params)
    optimizer.step(problem)
    plain = tz.Modular(other.params, m.Mul(0.02))
    for _ in range(2):
        plain.step(other)
    close(problem.params, [(a + b.detach()) / 2 for a, b in zip(start, other.params, strict=True)])
