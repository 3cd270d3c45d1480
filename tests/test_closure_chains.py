"""Chains with modules that evaluate the loss: random ones, those of the documentation, and what has been found."""

import io
import random
import warnings

import pytest
import torch

import torchzero_core as tz
from tests import closure_chains
from tests.closure_chains import Refused, Run, Trouble, check
from tests.problems import bits, same

m = tz.m

COMBINATIONS = {
    "smoothing, Newton, search": lambda: [
        m.GaussianSmoothing(h=0.01, n_samples=3, seed=0),
        m.NewtonCG(hvp_method="forward"),
        m.AdaptiveBacktracking(),
    ],
    "SPSA, LBFGS, search": lambda: [m.SPSA(seed=0), m.LBFGS(), m.StrongWolfe()],
    "clipping, BFGS, search, LR": lambda: [m.ClipNorm(1.0), m.BFGS(), m.StrongWolfe(), m.LR(0.9)],
    "accumulation around a search": lambda: [m.GradientAccumulation([m.LBFGS(), m.StrongWolfe()], 2)],
    "Split with a Newton branch": lambda: [
        m.Split(lambda p: p.ndim > 1, [m.NewtonCG()], [m.Adam(), m.LR(0.1)]),
        m.Backtracking(),
    ],
    "block BFGS": lambda: [m.BFGS(concat_params=False), m.Backtracking()],
    "a projection around BFGS": lambda: [m.VectorProjection([m.BFGS(), m.StrongWolfe()], project_params=True)],
    "a trust region behind smoothing": lambda: [m.GaussianSmoothing(n_samples=2, seed=0), m.TrustCG(hess=m.BFGS())],
    "a switch": lambda: [
        m.SwitchWhen([m.Adam(), m.LR(0.1)], [m.LBFGS(), m.StrongWolfe()], rules=tz.stopping.MaxSteps(2))
    ],
}


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_combinations_run_resume_and_survive_errors(name, seed):
    assert check(COMBINATIONS[name], random.Random(seed)) == "ran"


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_go_down(name):
    run = Run(COMBINATIONS[name], residuals=False)
    first = closure_chains.loss_of(run.params).item()
    for _ in range(12):
        run.step()
    assert closure_chains.loss_of(run.params).item() < first


def test_some_random_chains():
    outcomes = [closure_chains.outcome(seed) for seed in range(8)]
    wrong = {seed: text for seed, (kind, text) in enumerate(outcomes) if kind not in ("ran", "refused", "diverged")}
    assert not wrong
    assert sum(kind == "ran" for kind, _ in outcomes) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("start", range(8, 1008, 100))
def test_a_thousand_random_chains(start):
    outcomes = {seed: closure_chains.outcome(seed) for seed in range(start, start + 100)}
    assert not {s: o for s, o in outcomes.items() if o[0] not in ("ran", "refused", "diverged")}
    assert sum(kind == "ran" for kind, _ in outcomes.values()) >= 80


# -- what has been found -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize(
    "build",
    [
        lambda: [m.RandomizedFDM(seed=0), m.OnlineLBFGS(), m.LR(0.1)],
        lambda: [m.SPSA(seed=0), m.TrustCG(hess=m.BFGS())],
        lambda: [m.SPSA(seed=0), m.NegateOnLossIncrease()],
    ],
    ids=["OnlineLBFGS", "TrustCG", "NegateOnLossIncrease"],
)
def test_an_error_where_an_approximation_moves_what_has_moved_already(build, at):
    run = Run(build, residuals=False)
    run.step()
    before = bits(run.params)
    try:
        run.step(at)
    except Trouble:
        assert same(before, bits(run.params))
    else:
        assert at > 2


def test_an_error_after_the_step_takes_back_what_the_last_rules_have_written():
    run = Run(lambda: [m.OnlineLBFGS(sample_grads="after"), m.HybridHS_DY(), m.Abs()], residuals=False)
    run.step()
    before = run.all()
    with pytest.raises(Trouble):
        run.step(2)
    assert same(before[:2], run.all()[:2])


@pytest.mark.parametrize(
    "build",
    [
        lambda: [m.GaussianHomotopy(3, 0.1, seed=0), m.LR(0.1)],
        lambda: [m.Wrap(torch.optim.Adam, lr=0.1), m.GradientAccumulation(m.SPSA(seed=0), 2)],
    ],
    ids=["GaussianHomotopy", "Wrap"],
)
def test_state_that_was_saved_is_loaded(build):
    run, other = Run(build, residuals=False), Run(build, residuals=False)
    for _ in range(3):
        run.step()
        other.take_over(run)
        assert same(run.all()[:2], other.all()[:2])
        other.step()
        other.step()
    file = io.BytesIO()
    torch.save(run.optimizer.state_dict(), file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.take_over(run)


def test_a_refusal_is_a_sentence():
    with pytest.raises(Refused, match="needs a loss that can be differentiated"):
        check(lambda: [m.SPSA(seed=0), m.TrustExact()], random.Random(0))
