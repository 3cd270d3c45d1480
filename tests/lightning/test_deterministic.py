"""Full-batch training: what ``deterministic=True`` saves, and what is seen of it."""

import sys
import warnings

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch import nn
from torchmetrics import MeanMetric

import torchzero_core as tz
from tests.lightning.problems import SAFE, Model, loader, m, mse, network, same, trainer
from tz_lightning import ClosureModule, ClosureOptimization, ModularCLI, closure_step, known

CALLS = []
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the global 'CALLS'")  # where nothing puts it back


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


class Full(Model):
    """One batch an epoch; counts the evaluations where nothing puts the count back."""

    def __init__(self, deterministic=True, chain=None, net=None):
        super().__init__(chain or (lambda: [m.LBFGS(history_size=10), m.StrongWolfe()]), net=net)
        self.deterministic = deterministic

    def training_step(self, batch, batch_idx):
        CALLS.append(1)
        loss = mse(self.net, batch)
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"twice": 2 * loss, "epoch": loss}, on_step=False, on_epoch=True)
        return {"loss": loss, "size": len(batch[0])}

    def configure_optimizers(self):
        return tz.Modular(self.net.parameters(), *self.chain(), deterministic=self.deterministic)

    def train_dataloader(self):
        return loader(1, 32)


class Torch(Full):
    def configure_optimizers(self):
        return torch.optim.LBFGS(
            self.net.parameters(), 1, max_iter=10, max_eval=1000, history_size=10, line_search_fn="strong_wolfe"
        )


@torch.no_grad()
def final(model):
    return float(mse(model.net, next(iter(loader(1, 32)))))


class Seen(Callback):
    """What callbacks see: names of hooks, losses, gradients, metrics."""

    def __init__(self):
        self.rows = []

    def see(self, name, trainer, module, *values):
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        grads = [float(p.grad.sum()) for p in module.parameters() if p.grad is not None]
        self.rows.append((name, trainer.global_step, logged, grads, *values))

    def on_before_zero_grad(self, trainer, module, optimizer):
        self.rows.append(("zero_grad", trainer.global_step))

    def on_before_backward(self, trainer, module, loss):
        self.rows.append(("before_backward", trainer.global_step, float(loss.detach())))

    def on_after_backward(self, trainer, module):
        self.see("after_backward", trainer, module)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.see("optimizer_step", trainer, module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.see("batch_end", trainer, module, float(outputs["loss"]), outputs["size"])

    def on_train_epoch_end(self, trainer, module):
        self.see("epoch_end", trainer, module)


def test_it_takes_no_more_evaluations_than_torch_s_lbfgs():
    theirs = Torch()
    trainer(epochs=3).fit(theirs)  # 30 iterations
    torch_s, last = len(CALLS), final(theirs)
    CALLS.clear()
    ours = Full()
    trainer(ClosureOptimization(), epochs=30).fit(ours)
    assert len(CALLS) <= torch_s
    assert final(ours) <= 1.0001 * last


def test_everything_is_seen_as_without_it():
    rows, nets, calls = [], [], []
    for deterministic in (False, True):
        CALLS.clear()
        model, seen = Full(deterministic), Seen()
        trainer(seen, ClosureOptimization(), epochs=12).fit(model)
        rows.append(seen.rows)
        nets.append(model.net)
        calls.append(len(CALLS))
    assert rows[0] == rows[1] and len(rows[0]) == 72
    assert same(*nets)
    assert calls[1] == calls[0] - 10  # the first step knows nothing, the second one tries out what the first one knows


class Noisy(Full):
    """A metric and batch norm have to see each batch: the evaluation is made, without a backward pass."""

    def __init__(self, deterministic):
        super().__init__(deterministic, net=network(nn.BatchNorm1d(6)))
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        self.mean(output["loss"])
        self.log("mean", self.mean, on_epoch=True, on_step=False)
        if output["loss"].requires_grad:
            output["loss"].register_hook(lambda grad: CALLS.append("backward"))
        return output


def test_metrics_and_buffers_see_each_batch():
    rows, models, calls = [], [], []
    for deterministic in (False, True):
        CALLS.clear()
        model, seen = Noisy(deterministic), Seen()
        trainer(seen, ClosureOptimization(), epochs=8).fit(model)
        rows.append(seen.rows)
        models.append(model)
        calls.append((CALLS.count(1), CALLS.count("backward")))
    assert rows[0] == rows[1]
    assert same(models[0].net, models[1].net) and models[0].mean._update_count == models[1].mean._update_count
    assert torch.equal(models[0].net[1].running_mean, models[1].net[1].running_mean)
    assert calls[1] == (calls[0][0], calls[0][1] - 6)


def test_dropout_is_noticed():
    nets = []
    for deterministic in (False, True):
        torch.manual_seed(5)
        model = Full(deterministic, net=network(nn.Dropout(0.3)))
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            trainer(ClosureOptimization(), epochs=6).fit(model)
        ours = [str(w.message) for w in heard if "deterministic=True" in str(w.message)]
        assert len(ours) == deterministic
        nets.append(model.net)
    assert "dropout" in ours[0] and same(*nets)


def test_other_data_in_each_step_is_noticed():
    class Four(Full):
        def train_dataloader(self):
            return loader()

    with pytest.warns(UserWarning, match=r"deterministic=True, but at the same parameters the loss was"):
        trainer(ClosureOptimization(), epochs=1).fit(Four())


def test_what_starts_to_change_something_later_is_made_again():
    class Later(Full):
        def __init__(self, deterministic):
            super().__init__(deterministic)
            self.register_buffer("seen", torch.zeros(3))
            self.losses = []

        def training_step(self, batch, batch_idx):
            if self.current_epoch in (4, 5, 6):
                self.seen += 1
                self.losses.append(self.current_epoch)
            return super().training_step(batch, batch_idx)

    models = [Later(False), Later(True)]
    for model in models:
        trainer(ClosureOptimization(), epochs=9).fit(model)
    assert models[0].losses == [4, 5, 6] and models[0].seen[0] == 3
    assert models[1].losses == [5, 6] and models[1].seen[0] == 2  # the first one was known already, and left out
    assert same(models[0].net, models[1].net)


def test_closure_step():
    class Manual(Full):
        def __init__(self, deterministic):
            super().__init__(deterministic)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            return closure_step(self, self.optimizers(), lambda: Full.training_step(self, batch, batch_idx))

    rows, calls = [], []
    for deterministic in (False, True):
        CALLS.clear()
        model, seen = Manual(deterministic), Seen()
        trainer(seen, epochs=8).fit(model)
        rows.append(seen.rows)
        calls.append(len(CALLS))
    assert rows[0] == rows[1]
    assert calls[1] == calls[0] - 6


def test_a_resumed_run_ends_the_same(tmp_path):
    whole = Full()
    trainer(ClosureOptimization(), epochs=8).fit(whole)
    first = trainer(ClosureOptimization(), epochs=4)
    first.fit(Full())
    first.save_checkpoint(tmp_path / "half.ckpt")
    model = Full()
    trainer(ClosureOptimization(), epochs=8).fit(model, ckpt_path=tmp_path / "half.ckpt", **SAFE)
    assert same(whole.net, model.net)


class Configured(ClosureModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    training_step = Full.training_step
    train_dataloader = Full.train_dataloader


def test_from_yaml(tmp_path, monkeypatch):
    def module(name, **arguments):
        return {"class_path": name, "init_args": arguments}

    counts = []
    for deterministic in (False, True):
        CALLS.clear()
        chain = module("ModularChain", modules=[module("LBFGS"), module("StrongWolfe")], deterministic=deterministic)
        options = {
            "max_epochs": 10,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({"optimizer": chain, "trainer": options}))
        monkeypatch.setattr(sys, "argv", ["fit"])
        ModularCLI(Configured, args=["fit", f"--config={path}"], save_config_callback=None)
        counts.append(len(CALLS))
    assert counts[1] == counts[0] - 8


@pytest.fixture
def hints(monkeypatch):
    """What the log says of a loss that seems to be the same function."""

    def fit(model):
        said = []
        monkeypatch.setattr(known, "rank_zero_info", said.append)
        trainer(ClosureOptimization(), epochs=12).fit(model)
        return said

    return fit


def test_without_the_word_a_line_in_the_log_says_what_it_would_save(hints):
    (said,) = hints(Full(None))
    assert said.startswith("The loss at the start of 5 steps in a row") and "deterministic=True" in said
    without = len(CALLS)
    CALLS.clear()
    assert hints(Full(True)) == []
    assert len(CALLS) == without - 10  # nothing was left out without the word
    assert hints(Full(False)) == []


def test_the_line_is_not_said_of_batches_or_dropout(hints):
    class Batches(Full):
        def train_dataloader(self):
            return loader()

    assert hints(Batches(None)) == []
    assert hints(Full(None, net=network(nn.Dropout(0.5)))) == []
