"""Side effects of a training step, and what else in Lightning sees of a chain that evaluates the loss itself."""

import copy
import datetime
import io
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import SumMetric

import torchzero_core as tz
from tests.lightning.problems import Log, Model, adam, batches, mse, network, plain, same, search, trainer
from tz_lightning import ClosureOptimization

SEEN = []
pytestmark = pytest.mark.filterwarnings("ignore:.* changes the global 'SEEN'")  # where nothing puts it back


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


class Stateful(Model):
    """Everything a training step may change: it counts up in many places, and notes what it finds at the start."""

    def __init__(self, chain, size=1):
        super().__init__(chain)
        self.register_buffer("inplace", torch.zeros(size))
        self.register_buffer("assigned", torch.zeros(size))
        self.register_buffer("by_data", torch.zeros(size))
        self.teacher = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.teacher_data = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.hidden, self.outputs, self.box = torch.zeros(()), [], {"sum": SumMetric(), "n": 0}
        self.array = np.zeros(2)
        self.random, self.torch_random, self.numpy_random = (
            random.Random(0),
            torch.Generator().manual_seed(0),
            np.random.default_rng(0),
        )

    def training_step(self, batch, batch_idx):
        draws = self.random.random(), float(torch.rand(1, generator=self.torch_random)), self.numpy_random.random()
        SEEN.append(
            (
                batch_idx,
                *(float(t[-1]) for t in (self.inplace, self.assigned, self.by_data, self.teacher, self.teacher_data)),
                float(self.hidden),
                len(self.outputs),
                self.box["n"],
                float(self.array[0]),
                *draws,
            )
        )
        with torch.no_grad():
            self.inplace += 1
            self.assigned = self.assigned + 1
            self.by_data.data.add_(1)
            self.teacher.mul_(0.5).add_(1)
            self.teacher_data.data = self.teacher_data.data * 0.5 + 1
        self.hidden = 0.5 * self.hidden + 1
        self.array[0] += 1
        self.box["n"] += 1
        self.box["sum"].update(1.0)
        loss = super().training_step(batch, batch_idx)
        self.outputs.append(loss.detach())
        return loss


@pytest.mark.parametrize("size", [1, 500_000], ids=["small", "large"])
def test_each_batch_counts_once_and_all_its_evaluations_start_alike(size):
    model = Stateful(search, size)
    trainer(ClosureOptimization(), epochs=1).fit(model)
    assert len(SEEN) > 4
    assert len(set(SEEN)) == 4
    ours = sorted(set(SEEN))
    SEEN.clear()
    trainer(epochs=1).fit(Stateful(adam, size))
    assert ours == SEEN
    assert (model.inplace == 4).all() and (model.assigned == 4).all() and (model.by_data == 4).all()
    assert float(model.teacher[0]) == float(model.teacher_data[0]) == 1.875
    assert model.box["n"] == model.calls == len(model.outputs) == 4
    assert model.box["sum"].compute() == 4


class Batches(Model):
    def train_dataloader(self):
        return DataLoader([{"x": a, "y": b} for x, y in batches() for a, b in zip(x, y, strict=True)], batch_size=8)

    def training_step(self, batch, batch_idx):
        SEEN.append((batch_idx, float(batch["x"].sum())))
        batch["x"].mul_(0.5)
        return super().training_step((batch["x"], batch.pop("y")), batch_idx)


def test_the_batch_may_be_changed():
    trainer(ClosureOptimization(), epochs=1).fit(Batches(search))
    assert len(SEEN) > 4 and len(set(SEEN)) == 4


class Short(Model):
    def training_step(self, batch):
        return mse(self.net, batch)


def test_batch_idx_may_be_left_out():
    model, net = Short(search), network()
    run = trainer(ClosureOptimization())
    run.fit(model)
    plain(search, net)
    assert same(model.net, net) and run.global_step == 8


class Everything(Callback):
    """What every hook sees: its name, the counts, the mode, what is logged."""

    def __init__(self):
        self.rows = []

    def note(self, name, trainer, module):
        logged = "loss" in trainer.callback_metrics
        self.rows.append((name, trainer.global_step, module.automatic_optimization, trainer.current_epoch, logged))


def _noting(name):
    def hook(self, trainer, module, *args, **kwargs):
        self.note(name, trainer, module)

    return hook


for _name in [n for n in vars(Callback) if n.startswith(("on_train", "on_before", "on_after", "on_fit"))]:
    setattr(Everything, _name, _noting(_name))

CASES = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "accumulated, with a rest": {"accumulate_grad_batches": 3},
    "steps": {"max_steps": 5},
}


class Skips(Model):
    def training_step(self, batch, batch_idx):
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class OwnStep(Model):
    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        SEEN.append(batch_idx)
        optimizer.step(closure=optimizer_closure)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("model", [Model, Skips, OwnStep])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_hooks_see_what_they_see_with_adam(options, model):
    rows = []
    for chain in (adam, search):
        everything = Everything()
        trainer(everything, ClosureOptimization(), **options).fit(model(chain))
        rows.append(everything.rows)
    assert rows[0] == rows[1]
    assert len(rows[0]) > 30


def test_checkpoints_by_time_and_a_schedule_of_accumulation(tmp_path):
    counts = []
    for chain in (adam, search):
        folder = tmp_path / chain.__name__
        save = ModelCheckpoint(folder, train_time_interval=datetime.timedelta(0), save_top_k=-1)
        schedule = GradientAccumulationScheduler({0: 2, 1: 1})
        run = trainer(save, schedule, ClosureOptimization(), enable_checkpointing=True)
        run.fit(Model(chain))
        counts.append((sorted(p.name for p in folder.iterdir()), run.global_step))
    assert counts[0] == counts[1]
    assert counts[0][1] == 6


@pytest.mark.parametrize("chain", [adam, search])
def test_the_module_can_be_pickled_and_copied_within_a_fit(chain):
    found = []

    class Save(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            torch.save(copy.deepcopy(module.net), io.BytesIO())
            found.append({"training_step", "log"} & set(vars(copy.deepcopy(module))))

    trainer(Save(), ClosureOptimization(), epochs=1).fit(Model(chain))
    assert found == [set()] * 4


def test_bf16_mixed_equals_the_loop_by_hand():
    net = network().float()

    class Floats(Model):
        def training_step(self, batch, batch_idx):
            return super().training_step([t.float() for t in batch], batch_idx)

    model = Floats(search, net=network().float())
    trainer(ClosureOptimization(), epochs=1, precision="bf16-mixed").fit(model)
    optimizer = tz.Modular(net.parameters(), *search())
    for batch in batches():

        def closure(backward=True, batch=batch):
            with torch.autocast("cpu", torch.bfloat16):
                loss = mse(net, [t.float() for t in batch])
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        optimizer.step(closure)
    assert same(model.net, net)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_with_a_profiler_batches_may_be_skipped_and_steps_fail(capsys):
    run = trainer(ClosureOptimization(), profiler="simple")
    run.fit(Skips(search))
    assert run.global_step == 8


def test_logs_of_any_name_happen_once():
    class Named(Model):
        def __init__(self, chain):
            super().__init__(chain)
            self.other = self.log

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.other("other", loss, on_epoch=True)
            return loss

    log = Log()
    run = trainer(log, ClosureOptimization(), epochs=1)
    run.fit(Named(search))
    assert float(run.callback_metrics["other_epoch"]) == pytest.approx(sum(log.outputs) / 4)
