"""``restart`` forgets what was learnt and keeps the place; searches that go on have not failed yet."""

from itertools import pairwise

import pytest
import torch

import torchzero_core as tz
from tests.problems import run

m, s = tz.m, tz.stopping
F64 = torch.float64


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def start():
    return torch.tensor([-1.2, 1.0], dtype=F64)


def stepped(optimizer, p, steps):
    run(optimizer, [p], steps, loss=lambda params: rosenbrock(params[0]))


def test_what_was_learnt_is_forgotten_and_the_place_is_kept():
    p = start().requires_grad_()
    inner = m.VectorProjection([m.Switch(m.HeavyBall(0.9), m.Lion(), steps=2), m.Dropout(0.5, seed=0)])
    optimizer = tz.Modular([p], m.NAG(), m.Warmup(0.1, 1.0, steps=10), inner, m.Backtracking())
    stepped(optimizer, p, 3)
    before = {name for store in optimizer.state.values() for name in store}
    optimizer.restart()
    left = {name for store in optimizer.state.values() for name in store}
    gone = {name for name in before if any(word in name for word in ("NAG", "HeavyBall", "Lion"))}
    assert gone and left == before - gone
    assert any("Dropout" in name and "generator" in name for name in left)
    assert any(name.startswith("Warmup.") for name in left) and any("Switch." in name for name in left)
    optimizer.reset()
    assert not any("Switch" in name or "Warmup" in name for store in optimizer.state.values() for name in store)


def test_random_numbers_go_on():
    def drawn(again):
        p = torch.zeros(4, requires_grad=True)
        optimizer = tz.Modular([p], m.NoiseSign(seed=0))
        seen = []
        for _ in range(3):
            p.grad = torch.ones(4)
            with torch.no_grad():
                p.zero_()
            optimizer.step()
            seen.append(p.tolist())
            again(optimizer)
        return seen

    straight = drawn(lambda optimizer: None)
    assert drawn(tz.Modular.restart) == straight and drawn(tz.Modular.reset) == straight[:1] * 3
    assert straight[0] != straight[1]


def test_a_module_alone():
    p = start().requires_grad_()
    optimizer = tz.Modular([p], m.EMA(0.9), m.HeavyBall(0.9), m.LR(1e-4))
    stepped(optimizer, p, 2)
    optimizer.modules[0].restart()
    names = set(optimizer.state[p])
    assert any(n.startswith("HeavyBall.") for n in names) and not any(n.startswith("EMA.") for n in names)


@pytest.mark.parametrize("search", [m.Backtracking, m.AdaptiveBacktracking, m.TrustRegion])
@pytest.mark.parametrize("method", [None, m.BFGS, m.PolakRibiere, m.LSR1])
def test_a_search_with_shorter_and_shorter_steps_gets_there(search, method):
    # at the start |g| is 233, and the steps tried at first are too long by far
    chain = [search()] if method is None else [method(), search()]
    result = tz.minimize(rosenbrock, start(), chain, maxfev=1000)
    assert result.fun < 2.0 and result.status != 2  # 24.2 at the start


@pytest.mark.parametrize("search", [m.Backtracking(), m.AdaptiveBacktracking(), m.TrustRegion()])
def test_it_ends_where_no_step_moves_anything(search):
    def kink(x):  # the gradient of one side, the value of the other
        return x.abs().sum().detach() + x.sum() - x.sum().detach()

    result = tz.minimize(kink, torch.zeros(2, dtype=F64) - 0.0, [search], gtol=0)
    assert result.status == 2 and result.nfev < 150 and "precision loss" in result.message
    assert result.fun == 0


def test_without_adaption_a_failure_is_one():
    plain = tz.minimize(rosenbrock, start(), [m.Backtracking(adaptive=False)])
    assert plain.status == 2 and plain.nfev == 1 + 2 * 10 + 1  # the last one asks whether fun gives the same again
    short = tz.minimize(rosenbrock, start(), [m.Backtracking(min_alpha=0.1)])
    assert short.status == 2 and short.nfev < 10
    nothing = tz.minimize(rosenbrock, start(), [m.Backtracking(maxiter=0)])
    assert nothing.status == 2 and nothing.nfev == 1 + 1


def test_last_step_says_whether_it_goes_on():
    p = start().requires_grad_()
    optimizer = tz.Modular([p], m.Backtracking())
    stepped(optimizer, p, 1)
    info = optimizer.last_step
    assert info.retries and not info.uphill and info.status == "no sufficient decrease" and info.step_size == 0
    stepped(optimizer, p, 1)
    assert not optimizer.last_step.retries and optimizer.last_step.status == "ok"


@pytest.mark.parametrize("search", [m.Backtracking, m.AdaptiveBacktracking, m.StrongWolfe, m.TrustRegion])
def test_an_update_that_leads_uphill(search):
    p = start().requires_grad_()
    optimizer = tz.Modular([p], m.Mul(-1e-3), search())
    stepped(optimizer, p, 1)
    info = optimizer.last_step
    assert info.uphill and info.status != "ok" and not info.retries and torch.equal(p, start())
    result = tz.minimize(rosenbrock, start(), [m.Mul(-1e-3), search()])
    assert result.status == 2 and "leads uphill" in result.message and "eigval_tfm=torch.abs" in result.message


def test_backtracking_that_turns_round_is_not_stopped_by_a_slope():
    p = start().requires_grad_()
    optimizer = tz.Modular([p], m.Mul(-1e-3), m.Backtracking(try_negative=True))
    stepped(optimizer, p, 1)
    assert optimizer.last_step.status == "ok" and optimizer.last_step.step_size < 0


def test_rules_wait_for_a_search_that_goes_on():
    again, failed, fine = (
        s.Progress(loss=1.0, status=a, retries=b) for a, b in (("no", True), ("no", False), ("ok", False))
    )
    rule = s.SearchFailed(2)
    assert [rule.met(p) for p in (again, again, again, failed, again, failed)] == [False] * 5 + [True]
    rule.reset()
    assert [rule.met(p) for p in (failed, fine, failed)] == [False] * 3
    stalls = s.LossChange(0.0)
    assert [stalls.met(p) for p in (fine, again, again, fine)] == [False, False, False, True]


def test_a_failed_search_does_not_begin_the_plan_again():
    def kinks(x):
        return (x.abs() + 0.1 * x**2).sum() + 3 * (x[0] - x[1]).abs()

    seen = []
    chain = m.SwitchWhen([m.Adam(), m.LR(0.05)], [m.LBFGS(), m.StrongWolfe()], rules=s.MaxSteps(5))
    result = tz.minimize(kinks, start(), chain, gtol=0, callback=lambda r: seen.append((r.fun, chain.turn)))
    assert result.status == 2 and [turn for _, turn in seen] == [0] * 4 + [1] * (result.nit - 5)
    assert all(a >= b for (a, _), (b, _) in pairwise(seen))  # Adam would go up


def test_directions_differ_after_a_failed_search():
    # one random direction a step: many steps fail, and each time others have to be tried
    f = lambda x: ((x - 1) ** 2 * torch.arange(1, 6)).sum()  # noqa: E731
    chain = [m.RandomizedFDM(seed=0), m.LBFGS(), m.Backtracking()]
    assert tz.minimize(f, torch.zeros(5, dtype=F64), chain, maxiter=300).fun < 1e-4


@pytest.mark.parametrize("hess", ["SR1", "LSR1", "BroydenGood"])
def test_a_trust_region_that_is_still_shrinking_has_not_failed(hess):
    result = tz.minimize(rosenbrock, start(), [m.CubicRegularization(hess=getattr(m, hess)())])
    assert result.success and result.fun < 1e-12 and result.nfev < 400


@pytest.mark.parametrize("method", ["CubicRegularization", "TrustCG", "Dogleg"])
def test_a_trust_region_at_a_kink_ends(method):
    result = tz.minimize(lambda x: x.abs().sum(), start(), [getattr(m, method)(hess=m.BFGS())], maxiter=1000)
    assert result.nit < 400 and result.fun < 1e-6
