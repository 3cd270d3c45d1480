"""Chains that evaluate the loss themselves, with an ordinary training_step."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch import nn
from torchmetrics import MeanMetric

from tests.lightning.problems import SAFE, Log, Model, batches, m, mse, network, plain, same, trainer
from tz_lightning import ClosureModule, ClosureOptimization, closure_step, is_reevaluation

CHAINS = {
    "LBFGS": lambda: [m.LBFGS(), m.StrongWolfe()],
    "Backtracking": lambda: [m.Backtracking()],
    "NewtonCG": lambda: [m.NewtonCG(), m.Backtracking()],
    "NewtonCG autograd": lambda: [m.NewtonCG(hvp_method="autograd"), m.Backtracking()],
    "SPSA": lambda: [m.SPSA(n_samples=2, seed=0), m.LR(0.05)],
    "SPSA, search": lambda: [m.SPSA(n_samples=2, seed=0), m.Backtracking()],
}


def search():
    return [m.LBFGS(), m.StrongWolfe()]


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_equals_a_plain_loop_with_a_closure(chain):
    model, log, net = Model(chain), Log(), network()
    run = trainer(log, ClosureOptimization())
    run.fit(model)
    losses = plain(chain, net)
    if "SPSA" not in str(chain()):  # whose loss is an estimate
        assert log.outputs == losses
    assert same(model.net, net)
    assert log.outputs == log.logged  # what is logged is the first evaluation's
    assert log.steps == list(range(1, 9))
    assert run.global_step == 8
    assert model.calls == 8  # an attribute of the model, so each batch counts once
    assert run.optimizers[0].last_step.evaluations > 1


def test_the_module_is_left_as_it_was():
    model = Model(search)
    run = trainer(ClosureOptimization())
    run.fit(model)
    assert "training_step" not in vars(model)
    assert "log" not in vars(model)
    assert model.automatic_optimization
    assert run.global_step == 8
    assert type(run.fit_loop.epoch_loop.automatic_optimization).__name__ == "_AutomaticOptimization"


def test_closure_module_brings_the_callback():
    class Both(Model, ClosureModule):
        pass

    model, net = Both(search), network()
    trainer().fit(model)
    plain(search, net)
    assert same(model.net, net)


# -- side effects ------------------------------------------------------------------------------------------------------
MASKS = []  # outside of the model, where nothing is put back


class Effects(Model):
    """Dropout, batch norm, a metric, and a count of what is not a re-evaluation."""

    def __init__(self, chain):
        super().__init__(chain, net=network(nn.Dropout(0.5), nn.BatchNorm1d(6)))
        self.mean, self.firsts = MeanMetric(), 0

    def training_step(self, batch, batch_idx):
        before = torch.get_rng_state()
        loss = super().training_step(batch, batch_idx)
        MASKS.append((batch_idx, before))
        self.mean.update(loss)
        self.firsts += not is_reevaluation()
        return loss


def test_side_effects_happen_once():
    model, plain_model = Effects(search), Effects(lambda: [m.LR(0.0)])
    torch.manual_seed(3)
    log = Log()
    MASKS.clear()
    trainer(log, ClosureOptimization(), epochs=1).fit(model)
    masks = MASKS.copy()
    after = torch.rand(3)
    torch.manual_seed(3)
    trainer(epochs=1).fit(plain_model)
    assert torch.equal(after, torch.rand(3))  # as after one evaluation a batch
    norm = model.net[2]
    assert norm.num_batches_tracked == 4
    assert model.firsts == model.calls == 4 and len(masks) > 4
    assert model.mean.compute().item() == pytest.approx(sum(log.outputs) / 4)
    assert model.mean._update_count == 4
    for i in range(4):  # all evaluations of a batch see the same random numbers
        states = [state for j, state in masks if j == i]
        assert len(states) > 1 and all(torch.equal(states[0], s) for s in states)


def test_buffers_are_those_of_the_first_evaluation():
    """The running mean of batch norm after one step, by hand."""
    net = network(nn.BatchNorm1d(6))
    x = batches()[0][0]
    with torch.no_grad():
        expected = 0.1 * net[0](x).mean(0)
    model = Model(search, net=net)
    trainer(ClosureOptimization(), max_steps=1).fit(model)
    torch.testing.assert_close(model.net[1].running_mean, expected)


class Hooks(Callback):
    """Counts Lightning's hooks."""

    def __init__(self):
        self.counts = {}

    def count(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1

    def on_before_zero_grad(self, *_):
        self.count("zero_grad")

    def on_before_backward(self, *_):
        self.count("before_backward")

    def on_after_backward(self, *_):
        self.count("after_backward")

    def on_before_optimizer_step(self, *_):
        self.count("optimizer_step")


def test_hooks_run_once_a_step():
    hooks = Hooks()
    trainer(hooks, ClosureOptimization(), epochs=1).fit(Model(search))
    assert hooks.counts == dict.fromkeys(("zero_grad", "before_backward", "after_backward", "optimizer_step"), 4)


# -- what automatic optimization does ----------------------------------------------------------------------------------
@pytest.mark.parametrize("chain", [search, CHAINS["SPSA"]], ids=["LBFGS", "SPSA"])
def test_accumulated_batches_are_one_closure(chain):
    model, net, log = Model(chain), network(), Log()
    run = trainer(log, ClosureOptimization(), accumulate_grad_batches=2)
    run.fit(model)
    plain(chain, net, group=2)
    for p, q in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    assert run.global_step == 4
    assert log.steps == [0, 1, 1, 2, 2, 3, 3, 4]
    assert len(log.outputs) == 8


SCHEDULES = {
    "step": lambda o: {"scheduler": torch.optim.lr_scheduler.ExponentialLR(o, 0.5), "interval": "step"},
    "every other step": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        "interval": "step",
        "frequency": 2,
    },
    "epoch": lambda o: torch.optim.lr_scheduler.StepLR(o, 1),
    "plateau": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=1e9),
        "monitor": "loss",
    },
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("group", [1, 2])
def test_schedulers_step_as_in_automatic_optimization(schedule, group):
    ours, theirs = Log(), Log()
    trainer(ours, ClosureOptimization(), epochs=3, accumulate_grad_batches=group).fit(Model(search, schedule))
    trainer(theirs, epochs=3, accumulate_grad_batches=group).fit(Model(lambda: [m.HeavyBall()], schedule))
    assert ours.lrs == theirs.lrs
    assert len(set(ours.lrs)) > 1


def test_the_model_s_own_scheduler_step_is_called():
    class Own(Model):
        def lr_scheduler_step(self, scheduler, metric):
            self.calls = -1000
            scheduler.step()

    model = Own(search, SCHEDULES["epoch"])
    trainer(ClosureOptimization(), epochs=1).fit(model)
    assert model.calls == -1000


@pytest.mark.parametrize("chain", [search, CHAINS["SPSA, search"]], ids=["LBFGS", "SPSA"])
def test_a_run_resumed_from_a_checkpoint_ends_the_same(tmp_path, chain):
    def parts():
        return Model(chain, SCHEDULES["step"])

    whole = parts()
    trainer(ClosureOptimization(), epochs=4).fit(whole)
    first = parts()
    save = ModelCheckpoint(tmp_path, filename="half")
    trainer(save, ClosureOptimization(), epochs=2, enable_checkpointing=True).fit(first)
    second = parts()
    run = trainer(ClosureOptimization(), epochs=4)
    run.fit(second, ckpt_path=tmp_path / "half.ckpt", **SAFE)
    assert same(whole.net, second.net)
    assert run.global_step == 16


def test_a_callback_that_trains_before_the_first_batch(tmp_path):
    """The learning rate finder makes steps of its own, with the closure too, and puts everything back."""
    finder = LearningRateFinder(min_lr=1e-4, max_lr=1.0, num_training_steps=4, early_stop_threshold=None)
    model, net = Model(search), network()
    model.lr = 1.0
    run = trainer(finder, ClosureOptimization(), epochs=1, default_root_dir=tmp_path)
    run.fit(model)
    assert finder.optimal_lr.results["lr"] == pytest.approx([1e-4, 1e-2, 1e-1, 1.0])
    assert run.global_step == 4
    plain(search, net, epochs=1)
    assert same(model.net, net)


# -- trouble -----------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_training_step_that_returns_none_skips_the_batch():
    class Skip(Model):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    model = Skip(search)
    run = trainer(ClosureOptimization(), epochs=1)
    run.fit(model)
    assert run.global_step == 4  # as Lightning counts it with any optimizer


def test_an_exception_releases_everything():
    class Break(Model):
        def training_step(self, batch, batch_idx):
            if is_reevaluation():
                raise ZeroDivisionError
            return super().training_step(batch, batch_idx)

    model = Break(search)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError):
        trainer(ClosureOptimization()).fit(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert "training_step" not in vars(model) and "log" not in vars(model)
    assert model.automatic_optimization
    assert not is_reevaluation()


class Two(Model):
    def configure_optimizers(self):
        return [super().configure_optimizers()] * 2


class Wrong(Model):
    def training_step(self, batch, batch_idx):
        return 3.0


def test_several_processes_without_reductions_are_refused(monkeypatch):
    """Each would see another loss, and the parameters of the ranks would drift apart."""
    model = Model(search)
    run = trainer(ClosureOptimization())
    monkeypatch.setattr(type(run), "world_size", property(lambda self: 2))
    with pytest.raises(MisconfigurationException, match=r"there are 2 processes.*devices=1"):
        run.fit(model)
    assert model.calls == 0


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Model, dict(gradient_clip_val=1.0), "Remove it and put ClipNorm or ClipValue into the chain"),
        (Wrong, {}, "`training_step` must return a Tensor, a dict, or None"),
    ],
)
def test_what_cannot_be_right_is_refused(model, options, message):
    with pytest.raises(MisconfigurationException, match=message):
        trainer(ClosureOptimization(), **options).fit(model(search))


# -- inside a training_step of one's own -------------------------------------------------------------------------------
class Manual(Model):
    def __init__(self, chain):
        super().__init__(chain)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        def loss():
            self.calls += 1
            value = mse(self.net, batch)
            self.log("loss", value)
            return {"loss": value, "size": len(batch[0])}

        return closure_step(self, self.optimizers(), loss)


@pytest.mark.parametrize("callbacks", [[], [ClosureOptimization]], ids=["alone", "with the callback"])
def test_closure_step(callbacks):
    model, log, net = Manual(search), Log(), network()
    run = trainer(log, *(c() for c in callbacks))
    run.fit(model)
    assert log.outputs == plain(search, net) == log.logged
    assert same(model.net, net)
    assert run.global_step == 8
    assert not model.automatic_optimization
