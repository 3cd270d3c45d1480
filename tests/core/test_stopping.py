"""Stopping rules by hand, in a training loop, saved and loaded."""

import math
import time

import pytest
import torch

import torchzero_core as tz
from torchzero_core.core.stopping import Progress, as_rule
from torchzero_core.distributed import Reductions

s = tz.stopping


def first(rule, progresses):
    """At which of some steps a rule is met for the first time, 1 at first."""
    return next((i for i, progress in enumerate(progresses, 1) if rule.met(progress)), None)


def losses(*values):
    return [Progress(steps=i, loss=value) for i, value in enumerate(values, 1)]


def test_gradient():
    grads = [torch.tensor([3.0, -4.0]), None, torch.tensor(0.0)]
    for ord, norm in ((math.inf, 4.0), (2, 5.0)):
        assert s.GradNorm(norm, ord).met(Progress(grads=grads))
        assert not s.GradNorm(norm - 1e-6, ord).met(Progress(grads=grads))
    assert not s.GradNorm(1.0).met(Progress()) and not s.GradNorm(1.0).met(Progress(grads=[None]))


def test_norms_in_half_precision_do_not_overflow():
    grads = [torch.full((10000,), 400.0, dtype=torch.float16)]
    assert s.GradNorm(40000.1, 2).met(Progress(grads=grads)) and not s.GradNorm(39999.0, 2).met(Progress(grads=grads))


def test_step():
    params, move = [torch.tensor([3.0, 4.0])], [torch.tensor([0.3, 0.4])]
    length = 0.5 / 5
    assert not s.StepNorm(length * 0.9).met(Progress(params=params, move=move))
    assert s.StepNorm(length).met(Progress(params=params, move=move))
    assert not s.StepNorm(length).met(Progress(params=params))
    assert not s.StepNorm(length).met(Progress(params=params, move=move, status="no decrease within maxiter"))


def test_loss():
    assert first(s.LossChange(0.1), losses(1.0, 0.8, 0.75)) == 3
    assert first(s.LossChange(0.1, patience=3), losses(1.0, 0.8, 0.75, 0.9, 0.85)) == 5
    assert first(s.LossChange(0.1, patience=3), losses(1.0, 0.8, 0.75, 0.72, 0.69, 0.69, 0.69)) is None  # it creeps
    assert first(s.LossChange(0.1), losses(100.0, 95.0, 80.0)) == 2  # relative where the loss is above 1
    assert first(s.LossChange(0.0), losses(1.0, 0.9, math.nan)) == 3
    assert first(s.LossChange(0.0), losses(math.nan, 1.0, 0.5)) is None
    assert first(s.LossBelow(0.5), losses(1.0, 0.6, 0.5)) == 3
    assert first(s.NotFinite(), losses(1.0, -math.inf)) == 2


def test_unbounded():
    assert first(s.Unbounded(), losses(5.0, -1e19, -4e20, -5e20)) == 4  # 1e20 times the first
    assert first(s.Unbounded(), losses(0.1, -1e19, -1e20)) == 3
    assert first(s.Unbounded(), losses(1.0, math.nan, math.inf, -math.inf)) == 4
    assert first(s.Unbounded(), losses(math.nan, 1.0, -1e21)) == 3
    assert first(s.Unbounded(1e3), losses(-10.0, -9e3, -1e4)) == 3
    rule = s.Unbounded()
    assert rule.met(Progress(loss=-math.inf)) and rule.code == 2 and not rule.success
    assert rule.message == "The loss seems to be unbounded below: it has fallen to -inf."
    with pytest.raises(ValueError, match=r"Unbounded\(size=0.5\) must be a number from 1 on"):
        s.Unbounded(0.5)


@pytest.mark.parametrize(
    ("loss", "says"), [(lambda k: -k, True), (lambda k: -k * k, True), (lambda k: 1 / k, False), (lambda k: k, False)]
)
def test_the_last_step_says_whether_the_loss_still_fell(loss, says):
    rule = s.MaxSteps(100)
    steps = [Progress(steps=k, loss=float(loss(k))) for k in range(1, 101)]
    assert first(rule, steps) == 100 and ("its minimum is far, if it has one." in rule.message) is says
    few = s.MaxSteps(99)
    assert first(few, steps) == 99 and few.message == "Maximum number of iterations has been reached (99)."
    assert "half" in rule.state_dict() and s.MaxSteps(5).met(Progress(steps=5))


def test_counts():
    steps = [Progress(steps=i, evaluations=3 * i) for i in range(1, 10)]
    assert first(s.MaxSteps(4), steps) == 4
    assert first(s.MaxEvaluations(10), steps) == 4
    failing = [Progress(status=status) for status in ("failed", "ok", "failed", "failed", "failed")]
    assert first(s.SearchFailed(2), failing) == 4


def test_time_goes_on_where_it_was():
    rule = s.MaxTime(0.05)
    assert not rule.met(Progress())
    time.sleep(0.03)
    assert not rule.met(Progress())
    other = s.MaxTime(0.05)
    other.load_state_dict(rule.state_dict())
    time.sleep(0.03)
    assert other.met(Progress())
    other.reset()
    assert not other.met(Progress())


def test_several():
    rule = s.LossBelow(0.1) | s.MaxSteps(3)
    assert first(rule, losses(1.0, 1.0, 1.0)) == 3
    assert rule.message == "Maximum number of iterations has been reached (3)." and rule.code == 1 and not rule.success
    assert isinstance(rule.reason(), s.MaxSteps)
    both = s.LossBelow(0.5) & s.MaxSteps(3)
    assert first(both, losses(0.4, 0.4, 0.6, 0.3)) == 4 and both.success
    # every rule sees every step, also where an earlier one is met
    patient = s.LossBelow(2.0) & s.LossChange(0.1, patience=2)
    assert first(patient, losses(1.0, 1.0, 1.0)) == 3
    nested = as_rule([s.GradNorm(1.0), s.StepNorm(1.0) | s.LossBelow(1.0)])
    assert nested.needs == {"grads", "move", "loss"}


def test_memory_is_saved():
    make = lambda: s.MaxSteps(100) | (s.LossChange(0.1, patience=3) & s.LossBelow(5.0))  # noqa: E731
    one, other = make(), make()
    assert first(one, losses(1.0, 1.0, 1.0)) is None
    other.load_state_dict(one.state_dict())
    assert other.met(Progress(loss=1.0))
    other.reset()
    assert first(other, losses(1.0, 1.0, 1.0)) is None


@pytest.mark.parametrize("name", ["Modular", "SGD"])
def test_a_training_loop(name):
    p = torch.tensor([4.0, -2.0], requires_grad=True)
    optimizer = tz.Modular([p], tz.m.LR(0.25)) if name == "Modular" else torch.optim.SGD([p], 0.25)
    stop = s.LossBelow(1.0) | s.StepNorm(1e-9) | s.MaxEvaluations(50)
    seen = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
        if stop(optimizer, loss):
            break
    assert seen == [20.0, 5.0, 1.25, 0.3125]
    with pytest.raises(ValueError, match=r"looks at the loss: call it with the loss, stop\(optimizer, loss\)"):
        s.LossBelow(1.0)(torch.optim.SGD([p], 0.1))


def test_a_closure():
    p = torch.tensor([-1.2, 1.0], requires_grad=True, dtype=torch.float64)
    optimizer = tz.Modular([p], tz.m.LBFGS(), tz.m.StrongWolfe())

    def closure(backward=True):
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    stop = s.LossBelow(1e-6)
    evaluations = 0
    while not stop(optimizer) if evaluations else True:
        optimizer.step(closure)
        evaluations += optimizer.last_step.evaluations
    assert stop.memory == {"steps": stop.memory["steps"], "evaluations": evaluations} and closure(False) < 1e-6
    short = s.StepNorm(0.5)
    assert not short(optimizer)  # of the first step nobody knows where it began
    assert short(optimizer)


def test_ranks_agree():
    class Two(Reductions):
        def mean_loss(self, loss):
            return (loss + 3.0) / 2

        def sum_scalar(self, value):
            return value + 16.0

        def max_scalar(self, value):
            return torch.maximum(value, torch.tensor(7.0, dtype=value.dtype))

    progress = Progress(loss=1.0, grads=[torch.tensor([3.0])], reductions=Two())
    assert s.LossBelow(2.0).met(progress) and not s.LossBelow(1.9).met(progress)
    assert s.GradNorm(5.0, 2).met(progress) and not s.GradNorm(4.9, 2).met(progress)
    assert s.GradNorm(7.0).met(progress) and not s.GradNorm(6.9).met(progress)


def test_one_of_ones_own():
    class Odd(s.StoppingRule):
        def met(self, progress):
            self.memory["odd"] = self.memory.get("odd", 0) + progress.steps % 2
            return self.memory["odd"] == 2

    rule = Odd() | s.MaxSteps(9)
    assert first(rule, losses(1.0, 1.0, 1.0)) == 3 and rule.message == "Odd is met."
    with pytest.raises(NotImplementedError, match=r"has no met\(progress\)"):
        s.StoppingRule().met(Progress())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: s.GradNorm(-1.0), r"GradNorm\(tol=-1.0\) must be a number from 0 on"),
        (lambda: s.GradNorm(1.0, 1), r"ord=1\) must be 2 or infinity"),
        (lambda: s.LossChange(math.nan), "tol=nan"),
        (lambda: s.LossChange(1.0, 0), r"patience=0\) must be a number from 1 on"),
        (lambda: s.MaxSteps("5"), "n='5'"),
        (lambda: s.AnyOf([]), "needs at least one"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_no_rule():
    with pytest.raises(TypeError, match="A stopping rule is wanted, such as"):
        as_rule(5)


def test_a_misspelt_rule_is_told_the_nearest():
    with pytest.raises(AttributeError, match=r"tz\.stopping has no 'MaxStep'\. Did you mean tz\.stopping\.MaxSteps"):
        s.MaxStep  # noqa: B018
    assert not hasattr(s, "__wrapped__")
