"""GaussianHomotopy: the smoothed loss is what its formula says, levels end when they should, and runs resume."""

from __future__ import annotations

import copy

import pytest
import torch

import torchzero_core as tz


def problem(x):
    """A closure with many minima, the lowest at 0."""

    def closure(backward=True):
        loss = (x**2 / 10 - torch.cos(2 * x)).sum()
        if backward:
            x.grad = None
            loss.backward()
        return loss

    return closure


def start(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def noise_of(optimizer, p):
    return torch.stack(optimizer.state[p]["GaussianHomotopy.perturbations"])


def test_loss_and_gradient_are_the_means_over_the_perturbations():
    x = start(1.0, -2.0)
    before = x.detach().clone()
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(7, 0.3, tol=None, seed=0), tz.m.LR(0.1))
    loss = optimizer.step(problem(x))
    points = (before + 0.3 * noise_of(optimizer, x)).requires_grad_()
    expected = (points**2 / 10 - torch.cos(2 * points)).sum(1).mean()
    (grads,) = torch.autograd.grad(expected, points)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(x.detach(), before - 0.1 * grads.sum(0), rtol=1e-14, atol=1e-15)
    assert optimizer.last_step.evaluations == 7


def test_the_perturbations_are_standard_normal_and_stay():
    x = torch.zeros(500, requires_grad=True)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(40, 0.1, seed=0), tz.m.LR(1e-3))
    optimizer.step(problem(x))
    first = noise_of(optimizer, x).clone()
    assert abs(first.mean()) < 0.03 and abs(first.std() - 1) < 0.03
    assert not torch.equal(first[0], first[1])
    optimizer.step(problem(x))
    assert torch.equal(noise_of(optimizer, x), first)


def test_it_gets_past_a_minimum_that_stops_the_same_chain_without_it():
    ends = []
    for smoothing in ([], [tz.m.GaussianHomotopy(20, 2.0, seed=0)]):
        x = start(3.0)
        optimizer = tz.Modular([x], *smoothing, tz.m.BFGS(), tz.m.Backtracking())
        for _ in range(60):
            optimizer.step(problem(x))
        ends.append(abs(x.item()))
    assert ends[0] > 2.9 and ends[1] < 1e-2


def test_sigma_decays_after_max_steps():
    x = start(3.0)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(2, 1.0, tol=None, decay=0.3, max_steps=3), tz.m.LR(0.1))
    seen = []
    for _ in range(7):
        optimizer.step(problem(x))
        seen.append(optimizer.state[x]["GaussianHomotopy.sigma"])
    assert seen == pytest.approx([1, 1, 0.3, 0.3, 0.3, 0.09, 0.09], rel=1e-15)


def test_sigma_decays_when_no_element_moves_as_far_as_tol():
    x = start(0.0, 0.0)
    steps = iter([(1.0, 0.0), (0.05, -0.2), (0.05, -0.09), (0.0, 0.1), (0.0, 0.0)])

    class Scripted(tz.Module):
        requires_closure = True

        def step(self, var):
            var.update = [torch.tensor(next(steps), dtype=torch.float64)]
            return var

    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(1, 1.0, tol=0.1 - 1e-9), Scripted())
    seen = []
    for _ in range(5):
        optimizer.step(problem(x))
        seen.append(optimizer.state[x]["GaussianHomotopy.sigma"])
    assert seen == [1, 1, 0.5, 0.5, 0.25]


def test_groups_have_their_own_sigma_decay_and_tol():
    a, b = start(3.0), start(2.0)
    optimizer = tz.Modular(
        [{"params": [a], "init_sigma": 0.5, "decay": 0.1}, {"params": [b], "tol": 0.0}],
        tz.m.GaussianHomotopy(2, 1.0, tol=100.0, max_steps=2),
        tz.m.LR(0.1),
    )

    def closure(backward=True):
        return problem(a)(backward) + problem(b)(backward)

    seen = []
    for _ in range(2):
        optimizer.step(closure)
        seen.append([optimizer.state[p]["GaussianHomotopy.sigma"] for p in (a, b)])
    assert seen == [[0.5, 1.0], [0.05, 0.5]]  # b's tol of 0 keeps the first level for all


@pytest.mark.parametrize("clear", [True, False])
def test_other_modules_start_anew_on_a_new_level(clear):
    x = start(3.0, 1.0)
    optimizer = tz.Modular(
        [x], tz.m.GaussianHomotopy(2, 0.1, tol=None, max_steps=2, clear_state=clear, seed=0), tz.m.Adam(), tz.m.LR(0.1)
    )
    for _ in range(2):
        optimizer.step(problem(x))
    assert any(k.startswith("Adam") and "exp_avg" in k for k in optimizer.state[x]) is not clear
    before = x.detach().clone()
    optimizer.step(problem(x))
    moved = (x.detach() - before).abs()
    # Adam's first step has the length of the learning rate.
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-6) is clear


def test_it_clears_what_stands_beside_it_in_a_child():
    x = start(3.0)
    optimizer = tz.Modular(
        [x], tz.m.Split(lambda p: True, [tz.m.GaussianHomotopy(2, 0.1, tol=None, max_steps=1), tz.m.HeavyBall()]),
        tz.m.Adam(), tz.m.LR(0.1),
    )  # fmt: skip
    optimizer.step(problem(x))
    names = "".join(optimizer.state[x])
    assert "GaussianHomotopy.sigma" in names and "HeavyBall" not in names and "Adam.exp_avg" not in names


@pytest.mark.parametrize("extra", [[], [tz.m.SPSA()], [tz.m.Dropout(0.1)]])
def test_a_run_resumes_bit_for_bit_over_the_end_of_a_level(extra):
    def build():
        torch.manual_seed(5)
        x = start(3.0, -1.0)
        chain = [tz.m.GaussianHomotopy(3, 0.5, max_steps=2), *copy.deepcopy(extra), tz.m.Adam(), tz.m.LR(0.1)]
        return x, tz.Modular([x], *chain)

    x, optimizer = build()
    for _ in range(2):
        optimizer.step(problem(x))
    saved, middle = copy.deepcopy(optimizer.state_dict()), x.detach().clone()
    for _ in range(3):
        optimizer.step(problem(x))
    y, other = build()
    torch.manual_seed(99)
    with torch.no_grad():
        y.copy_(middle)
    other.load_state_dict(saved)
    for _ in range(3):
        other.step(problem(y))
    assert torch.equal(x, y)


def test_an_exception_leaves_everything_as_it_was():
    x = start(3.0)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(3, 0.5, seed=0), tz.m.LR(0.1))
    optimizer.step(problem(x))
    saved, before = copy.deepcopy(optimizer.state_dict()["state"]), x.detach().clone()
    calls = []

    def failing(backward=True):
        calls.append(x.item())
        if len(calls) == 2:
            raise KeyError("data")
        return problem(x)(backward)

    with pytest.raises(KeyError):
        optimizer.step(failing)
    assert torch.equal(x, before)
    assert str(optimizer.state_dict()["state"]) == str(saved)
    optimizer.step(problem(x))
    assert len(set(calls)) == 2 and not torch.equal(x, before)


def test_a_sample_that_is_not_finite_adds_no_gradient():
    x = start(1.0)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(4, 1.0, tol=None, seed=0), tz.m.LR(0.1))
    calls = []

    def closure(backward=True):
        calls.append(x.item())
        loss = problem(x)(backward)
        if len(calls) == 1:
            x.grad.fill_(torch.nan)
            return loss * torch.nan
        return loss

    loss = optimizer.step(closure)
    points = torch.tensor(calls[1:], dtype=torch.float64)
    slopes = points / 5 + 2 * torch.sin(2 * points)
    assert loss.isnan()
    torch.testing.assert_close(x.item(), 1.0 - 0.1 * slopes.sum().item() / 4, rtol=1e-13, atol=0)


def test_a_sigma_of_zero_is_the_loss_itself_at_its_price():
    x = start(3.0)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(5, 0.0), tz.m.LR(0.1))
    loss = optimizer.step(problem(x))
    assert loss.item() == problem(start(3.0))(False).item() and optimizer.last_step.evaluations == 1


def test_an_evaluation_after_the_step_sees_the_same_directions():
    """What a module in front has put around the closure holds until the modules behind have finished their step."""
    x = start(3.0, 1.0)
    optimizer = tz.Modular([x], tz.m.SPSA(seed=0), tz.m.OnlineLBFGS(sample_grads="after"), tz.m.LR(0.01))
    points = []

    def closure(backward=True):
        points.append(x.detach().clone())
        return problem(x)(backward)

    optimizer.step(closure)
    at_start = points[1] - points[0]
    at_end = next(d for d in (points[-2] - points[-3],))
    torch.testing.assert_close(at_start, at_end, rtol=0, atol=1e-12)


def test_inside_a_projection_it_is_refused():
    x = start(3.0, 1.0)
    optimizer = tz.Modular(
        [x], tz.m.VectorProjection([tz.m.GaussianHomotopy(2, 0.1)], project_params=True), tz.m.LR(0.1)
    )
    with pytest.raises(RuntimeError, match=r"GaussianHomotopy moves the parameters, .*put it in front"):
        optimizer.step(problem(x))


@pytest.mark.parametrize(
    ("search", "steps"),
    [([tz.m.LBFGS(), tz.m.StrongWolfe()], 40), ([tz.m.NewtonCG(hvp_method="forward"), tz.m.Backtracking()], 40)],
)
def test_methods_that_evaluate_again_see_one_function(search, steps):
    x = start(1.0, -0.5)
    optimizer = tz.Modular([x], tz.m.GaussianHomotopy(8, 0.3, max_steps=8, seed=1), *copy.deepcopy(search))
    for _ in range(steps):
        optimizer.step(problem(x))
    assert x.abs().max() < 0.05
