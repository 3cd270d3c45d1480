"""Adam as it is, and Adam with a module that evaluates the loss itself: nobody in Lightning sees a difference.

Each case is a callback that Lightning ships, or options of the Trainer. Both runs must leave the same hooks with the
same counts, metrics, log rows, files, states of callbacks, schedules and parameters.
"""

import csv
import datetime
import importlib.util
import re

import lightning.pytorch.callbacks as theirs
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchzero_core as tz
from tests.lightning.problems import batches, m, mse, network
from tests.test_readme import ROOT
from tz_lightning import ClosureOptimization

DAY = datetime.timedelta(days=1)


class Look(tz.Module):
    """Evaluates the loss once more, and changes nothing."""

    requires_closure = True

    def step(self, var):
        var.closure(False)
        return var


class Fit(LightningModule):
    def __init__(self, closure):
        super().__init__()
        self.closure = closure
        self.backbone, self.head = network(nn.BatchNorm1d(6)), nn.Linear(1, 1).double()
        self.batch_size, self.lr, self.flops_per_batch, self.interval = 8, 1e-2, 1, "step"
        self.hooks = []
        self.example_input_array = batches()[0][0]

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        loss = mse(self, batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"twice": 2 * loss, "batch": float(batch_idx)})
        return {"loss": loss, "rows": len(batch[0])}

    def validation_step(self, batch, batch_idx):
        self.log("val", mse(self, batch))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        chain = [m.Adam(), m.WeightDecay(0.01), m.LR(self.lr)]
        params = [p for p in self.parameters() if p.requires_grad]
        optimizer = tz.Modular(params, *([Look(), *chain] if self.closure else chain))
        step = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": step, "interval": self.interval}}

    def loader(self):
        xs, ys = zip(*batches(6), strict=True)
        return DataLoader(TensorDataset(torch.cat(xs), torch.cat(ys)), batch_size=self.batch_size)

    train_dataloader = val_dataloader = predict_dataloader = loader


class Everything(Callback):
    """What each hook sees."""

    def __init__(self):
        self.rows = []

    def see(self, name, trainer, module, args):
        values = [a for a in args if isinstance(a, int)]
        values += [tuple(float(v) for v in a.values()) for a in args if isinstance(a, dict) and "loss" in a]
        values += [float(a.detach()) for a in args if isinstance(a, torch.Tensor) and a.numel() == 1]
        counts = trainer.global_step, trainer.current_epoch, trainer.should_stop, module.automatic_optimization
        seen = {k: float(v) for k, v in trainer.callback_metrics.items()} if trainer.training else {}
        grads = [p.grad is None for p in module.parameters()]
        self.rows.append((name, counts, trainer.lr_scheduler_configs and lrs(trainer), seen, grads, values))


def lrs(trainer):
    return [group["lr"] for group in trainer.optimizers[0].param_groups]


def _seeing(name):
    def hook(self, trainer, module, *args, **kwargs):
        self.see(name, trainer, module, args)

    return hook


for _name in [n for n in vars(Callback) if n.startswith(("on_", "setup", "teardown")) and "checkpoint" not in n]:
    setattr(Everything, _name, _seeing(_name))


class Break(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5:
            raise ZeroDivisionError


class Tuned(theirs.BatchSizeFinder):
    pass


class Unfreezes(theirs.BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=1e-3, train_bn=False)


class Bar(theirs.ProgressBar):
    def __init__(self):
        super().__init__()
        self.seen = []

    def disable(self):
        pass

    def enable(self):
        pass

    def on_train_batch_end(self, trainer, module, *_):
        metrics = self.get_metrics(trainer, module)
        self.seen.append((self.total_train_batches, {k: v for k, v in metrics.items() if k != "v_num"}))


class Writer(theirs.BasePredictionWriter):
    def __init__(self):
        super().__init__("epoch")
        self.seen = []

    def write_on_epoch_end(self, trainer, module, predictions, batch_indices):
        self.seen.append([float(p.sum()) for p in predictions])


def spike():
    return theirs.SpikeDetection(window=4, warmup=2, atol=0.0, rtol=0.0)


def parameters_of(model):
    return [(layer, "weight") for layer in model.backbone if isinstance(layer, nn.Linear)]


def lambdas():
    seen = []
    return theirs.LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(trainer.global_step))


def checkpoint(**options):
    return lambda: theirs.ModelCheckpoint(
        filename="{step}-{loss_step:.9f}", save_top_k=options.pop("top", -1), **options
    )


#: name: the callback; what it is seen to do; options of the Trainer.
CALLBACKS = {
    "ModelCheckpoint": (checkpoint(), "after each epoch", {}),
    "ModelCheckpoint(every_n_train_steps)": (checkpoint(every_n_train_steps=2), "at the same steps", {}),
    "ModelCheckpoint(train_time_interval)": (
        checkpoint(train_time_interval=datetime.timedelta(0)),
        "after every step where the interval is 0",
        {},
    ),
    "ModelCheckpoint(monitor)": (
        lambda: theirs.ModelCheckpoint(filename="{epoch}-{val:.9f}", monitor="val", save_top_k=2, save_last=True),
        "the best, and the last",
        {},
    ),
    "Checkpoint": (lambda: type("Own", (theirs.Checkpoint,), {})(), "one of your own", {}),
    "OnExceptionCheckpoint": (None, "the file where it broke", {}),
    "EarlyStopping": (lambda: theirs.EarlyStopping("val", min_delta=10.0, patience=1), "ends in the same epoch", {}),
    "StochasticWeightAveraging": (
        lambda: theirs.StochasticWeightAveraging(1e-2, swa_epoch_start=1, annealing_epochs=1),
        "the averages, the schedule, the epoch for batch norm",
        {"interval": "epoch"},
    ),
    "WeightAveraging": (lambda: theirs.WeightAveraging(), "the averages", {}),
    "EMAWeightAveraging": (lambda: theirs.EMAWeightAveraging(decay=0.9), "the averages", {}),
    "LearningRateMonitor": (
        lambda: theirs.LearningRateMonitor(log_momentum=True, log_weight_decay=True),
        "learning rates, betas, weight decay",
        {},
    ),
    "LearningRateFinder": (
        lambda: theirs.LearningRateFinder(1e-4, 1.0, num_training_steps=5, early_stop_threshold=None),
        "the losses and the rate that it suggests",
        {},
    ),
    "BatchSizeFinder": (lambda: Tuned(max_trials=2, steps_per_trial=2), "the batch size", {}),
    "Timer": (lambda: theirs.Timer(DAY, interval="step"), "ends where the time is over", {}),
    "Timer(0)": (lambda: theirs.Timer(datetime.timedelta(0), interval="step"), "ends at once", {}),
    "GradientAccumulationScheduler": (lambda: theirs.GradientAccumulationScheduler({0: 2, 1: 3}), "the steps", {}),
    "ModelPruning": (None, "the masks", {}),
    "BaseFinetuning": (Unfreezes, "the groups that are added", {}),
    "BackboneFinetuning": (
        lambda: theirs.BackboneFinetuning(1, backbone_initial_lr=1e-3, train_bn=False),
        "the groups that are added, and their rates",
        {},
    ),
    "ProgressBar": (Bar, "the metrics in the bar", {}),
    "TQDMProgressBar": (lambda: theirs.TQDMProgressBar(), "the bar", {}),
    "RichProgressBar": (lambda: theirs.RichProgressBar(), "the bar", {}),
    "ModelSummary": (lambda: theirs.ModelSummary(), "the table", {}),
    "RichModelSummary": (lambda: theirs.RichModelSummary(), "the table", {}),
    "DeviceStatsMonitor": (lambda: theirs.DeviceStatsMonitor(cpu_stats=False), "its rows", {}),
    "LambdaCallback": (lambdas, "its calls", {}),
    "Callback": (Everything, "each hook, with counts, metrics, gradients and learning rates", {}),
    "BasePredictionWriter": (Writer, "the predictions", {}),
    "ThroughputMonitor": (lambda: theirs.ThroughputMonitor(lambda batch: len(batch[0])), "samples and batches", {}),
    "SpikeDetection": (spike, "the spike", {}),
}
OPTIONS = {
    "accumulate_grad_batches": dict(accumulate_grad_batches=4),
    "val_check_interval": dict(val_check_interval=2, check_val_every_n_epoch=2),
    "limit_train_batches": dict(limit_train_batches=3),
    "overfit_batches": dict(overfit_batches=2),
    "max_steps": dict(max_steps=7),
    "min_steps": dict(max_epochs=1, min_steps=4),
    "max_time": dict(max_time=DAY),
    "fast_dev_run": dict(fast_dev_run=True),
    "detect_anomaly": dict(detect_anomaly=True),
    "profiler": dict(profiler="simple"),
    "num_sanity_val_steps": dict(num_sanity_val_steps=2),
    "reload_dataloaders_every_n_epochs": dict(reload_dataloaders_every_n_epochs=1),
    "precision=bf16-mixed": dict(precision="bf16-mixed"),
    "precision=64-true": dict(precision="64-true"),
    "inference_mode=False": dict(inference_mode=False),
}


#: The others are among the slow tests.
FAST = {
    "ModelCheckpoint(every_n_train_steps)",
    "ModelCheckpoint(train_time_interval)",
    "EarlyStopping",
    "StochasticWeightAveraging",
    "LearningRateMonitor",
    "GradientAccumulationScheduler",
    "BackboneFinetuning",
    "Callback",
    "accumulate_grad_batches",
}


def marked(names):
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def record(closure, folder, make, options):
    """All that a run leaves behind."""
    torch.manual_seed(0)
    model, everything = Fit(closure), Everything()
    options = dict(options)
    model.interval = options.pop("interval", "step")
    callback = make(model, folder) if make else None
    run = Trainer(
        callbacks=[c for c in (callback, everything, ClosureOptimization()) if c is not None],
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "default_root_dir": folder,  # where a callback may write too
            "logger": CSVLogger(folder, name="", version=""),
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_checkpointing": isinstance(callback, theirs.Checkpoint),
            "enable_progress_bar": isinstance(callback, theirs.ProgressBar),
            "num_sanity_val_steps": 0,
            **options,
        },
    )
    error = None
    try:
        run.fit(model)
    except (ZeroDivisionError, RuntimeError) as caught:
        error = type(caught)
    if isinstance(callback, Writer):
        run.predict(model)
    return {
        "hooks": everything.rows,
        "error": error,
        "rows": rows(folder),
        "files": sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()),
        "state": plain(callback.state_dict() if callback else {}, folder),
        "seen": getattr(callback, "seen", None),
        "counts": (run.global_step, run.current_epoch, run.should_stop, model.batch_size, model.lr),
        "found": found(callback),
        "metrics": {k: float(v) for k, v in run.callback_metrics.items()},
        "parameters": {k: v.tolist() for k, v in model.state_dict().items()},
    }


def rows(folder):
    """What was logged, without times."""
    path = folder / "metrics.csv"
    if not path.exists():
        return None
    with path.open() as file:
        timed = re.compile("time|per_sec")
        return [{k: v for k, v in row.items() if not timed.search(k)} for row in csv.DictReader(file)]


def plain(state, folder):
    """A state without times and places."""
    if isinstance(state, dict):
        return {str(k).replace(str(folder), ""): plain(v, folder) for k, v in state.items() if k != "time_elapsed"}
    if isinstance(state, torch.Tensor):
        return state.tolist()
    return state.replace(str(folder), "") if isinstance(state, str) else state


def found(callback):
    """What a tuner has found, and what the averages are."""
    if isinstance(callback, theirs.LearningRateFinder):
        return callback.optimal_lr.results, callback.optimal_lr.suggestion()
    average = getattr(callback, "_average_model", None)
    return None if average is None else {k: v.tolist() for k, v in average.state_dict().items()}


def prepared(name, make, model, folder):
    """The callback of a case."""
    if name == "OnExceptionCheckpoint":
        return theirs.OnExceptionCheckpoint(folder)
    if name == "ModelPruning":
        return theirs.ModelPruning("l1_unstructured", parameters_to_prune=parameters_of(model), amount=0.3)
    callback = make()
    if isinstance(callback, theirs.ModelCheckpoint):
        callback.dirpath = str(folder)
    return callback


def both(tmp_path, make, options):
    records = []
    for closure in (False, True):
        folder = tmp_path / str(closure)
        folder.mkdir()
        records.append(record(closure, folder, make, options))
    return records


def same(ours, other):
    for what, value in ours.items():
        assert repr(value) == repr(other[what]), what


@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*no last checkpoint available")
@pytest.mark.parametrize("name", marked(CALLBACKS))
def test_callback(name, tmp_path, capsys):
    if name.startswith("Rich") and importlib.util.find_spec("rich") is None:
        pytest.skip("needs rich")
    if not hasattr(theirs, name.partition("(")[0]):
        pytest.skip("Lightning has it in a later version")
    make, _, options = CALLBACKS[name]
    if name == "OnExceptionCheckpoint":
        broken = Break.on_train_batch_start
        Everything.on_train_batch_start, kept = broken, Everything.on_train_batch_start
    try:
        plain_record, closure_record = both(tmp_path, lambda *given: prepared(name, make, *given), options)
    finally:
        if name == "OnExceptionCheckpoint":
            Everything.on_train_batch_start = kept
    if name == "StochasticWeightAveraging":
        # In the epoch for batch norm Lightning lets an optimizer step with gradients that are left over. Not here.
        moved = [record.pop("parameters") for record in (plain_record, closure_record)]
        assert moved[0]["backbone.1.running_mean"] == moved[1]["backbone.1.running_mean"]
        average = {k.removeprefix("module."): v for k, v in closure_record["found"].items() if k != "n_averaged"}
        assert all(moved[1][k] == v for k, v in average.items() if "running" not in k and "num_batches" not in k)
        assert closure_record["counts"][0] == 19
    same(plain_record, closure_record)
    assert (plain_record["counts"][0] > 0) == (name != "Timer(0)")
    assert len(plain_record["hooks"]) > (3 if name == "Timer(0)" else 29)
    if name == "OnExceptionCheckpoint":
        assert plain_record["error"] is ZeroDivisionError and "on_exception.ckpt" in plain_record["files"]
    elif name.startswith("ModelCheckpoint"):
        assert sum(file.endswith(".ckpt") for file in plain_record["files"]) > 2
    elif name != "SpikeDetection":
        assert plain_record["error"] is None


@pytest.mark.parametrize("name", marked(OPTIONS))
def test_option(name, tmp_path, capsys):
    plain_record, closure_record = both(tmp_path, None, OPTIONS[name])
    same(plain_record, closure_record)
    assert plain_record["error"] is None and plain_record["counts"][0] > 0


def test_every_callback_of_lightning_is_there():
    tried = {name.partition("(")[0] for name in CALLBACKS}
    assert set(theirs.__all__) <= tried


def table():
    """The table in the guide."""
    lines = ["| callback | in both modes the same |", "| --- | --- |"]
    lines += [f"| `{name}` | {what} |" for name, (_, what, _) in CALLBACKS.items()]
    return "\n".join([*lines, f"| options of the Trainer | {', '.join(f'`{name}`' for name in OPTIONS)} |"])


def test_the_guide_has_the_table():
    assert table() in (ROOT / "docs" / "guide" / "lightning.md").read_text()
