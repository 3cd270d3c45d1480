"""Schedulers that YAML can spell, and schedules of any setting."""

import math
import sys

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

import torchzero_core as tz
from tests.lightning.problems import loader, mse, network, only_fit, trainer
from tests.lightning.test_cli import QUIET
from tz_lightning import ClosureOptimization, LRSchedulerCallback, ModularCLI, Ramp, WarmupCosine
from tz_lightning.cli import LightningModule
from tz_lightning.schedule import ChainedScheduler, SequentialLR


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(only_fit))  # parsers take time
    monkeypatch.setattr(sys, "argv", ["train.py"])


class Watched(LightningModule):
    """Notes what stands in the groups at each step."""

    def __init__(self, chain=lambda: tz.recipes.adamw(lr=1.0, weight_decay=0.1), groups=None, keys=("weight_decay",)):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.chain, self.groups, self.keys, self.seen = network(), chain, groups, keys, []

    def training_step(self, batch, batch_idx):
        loss = mse(self.net, batch)
        self.log("loss", loss)
        return loss

    def on_train_batch_start(self, batch, batch_idx):
        groups = self.trainer.optimizers[0].param_groups
        self.seen.append([group.get(key) for group in groups for key in self.keys])

    def configure_optimizers(self):
        return tz.Modular(tz.groups(self, self.groups) if self.groups else self, *self.chain(), advice=False)

    def train_dataloader(self):
        return loader()


class Plain(Watched):
    def __init__(self):
        super().__init__(keys=("lr",))

    configure_optimizers = LightningModule.configure_optimizers


def fit(module, *callbacks, **kwargs):
    trainer(*callbacks, **kwargs).fit(module)
    return module.seen


def cosine(start, t, total):
    return start * (1 + math.cos(math.pi * t / total)) / 2


def close(found, expected):
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64))


def test_a_schedule_of_weight_decay_leaves_groups_without_it_alone():
    module = Watched(groups={"biases": {"weight_decay": 0.0}})
    callback = LRSchedulerCallback("weight_decay", lambda o: CosineAnnealingLR(o, T_max=8))
    seen = fit(module, callback)
    close(seen, [[cosine(0.1, t, 8), 0.0] for t in range(8)])


@pytest.mark.parametrize(("interval", "frequency"), [("step", 1), ("step", 3), ("epoch", 1), ("epoch", 2)])
def test_interval_and_frequency(interval, frequency):
    callback = LRSchedulerCallback("weight_decay", lambda o: ExponentialLR(o, 0.5), interval, frequency)
    seen = fit(Watched(), callback, epochs=3)
    done = [t if interval == "step" else t // 4 for t in range(12)]
    close([v for (v,) in seen], [0.1 * 0.5 ** (d // frequency) for d in done])


@pytest.mark.parametrize("setting", ["beta1", "Adam.beta1"])
def test_a_momentum_that_goes_from_one_value_to_another(setting):
    callback = LRSchedulerCallback(setting, lambda o: Ramp(o, end=0.5, total=4))
    module = Watched(keys=(setting,))
    close([v for (v,) in fit(module, callback)], [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5])
    optimizer = module.trainer.optimizers[0]
    assert optimizer.modules[0].settings[next(iter(optimizer.all_params))]["beta1"] == 0.5


def test_it_trains_as_the_schedule_by_hand():
    module = Watched()
    fit(module, LRSchedulerCallback("beta1", lambda o: Ramp(o, end=0.5, total=4)))
    other = Watched()
    optimizer = tz.Modular(other, *other.chain())
    for t, batch in enumerate([b for _ in range(2) for b in loader()]):
        optimizer.param_groups[0]["beta1"] = 0.9 - 0.4 * min(1, t / 4)
        optimizer.zero_grad()
        mse(other.net, batch).backward()
        optimizer.step()
    for p, q in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_with_a_chain_that_needs_a_closure_and_accumulation():
    module = Watched(lambda: [tz.m.WeightDecay(0.1), tz.m.LBFGS(), tz.m.Backtracking()])
    callback = LRSchedulerCallback("weight_decay", lambda o: ExponentialLR(o, 0.5))
    seen = fit(module, ClosureOptimization(), callback, accumulate_grad_batches=2)
    close([v for (v,) in seen], [0.1 * 0.5 ** (t // 2) for t in range(8)])


def test_a_plateau_waits_for_its_metric():
    module = Watched()
    callback = LRSchedulerCallback(
        "weight_decay",
        lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs"),
        "epoch",
        monitor="loss",
    )
    seen = fit(module, callback, epochs=3)
    close([v for (v,) in seen][::4], [0.1, 0.1, 0.05])


@pytest.mark.parametrize(
    "make", [lambda o: CosineAnnealingLR(o, 16), lambda o: OneCycleLR(o, 0.4, 16, cycle_momentum=False)]
)
def test_a_run_that_is_resumed_goes_on(make, tmp_path):
    kwargs = dict(enable_checkpointing=False)
    whole = fit(Watched(), LRSchedulerCallback("weight_decay", make), epochs=4, **kwargs)
    first, run = Watched(), trainer(LRSchedulerCallback("weight_decay", make), epochs=2)
    run.fit(first)
    run.save_checkpoint(tmp_path / "half.ckpt")
    second = Watched()
    torch.manual_seed(5)
    trainer(LRSchedulerCallback("weight_decay", make), epochs=4).fit(second, ckpt_path=tmp_path / "half.ckpt")
    close(first.seen + second.seen, whole)


def test_values_are_logged(tmp_path):
    module = Watched(groups={"biases": {"weight_decay": 0.2}})
    logger = CSVLogger(tmp_path)
    callback = LRSchedulerCallback("weight_decay", lambda o: ExponentialLR(o, 0.5))
    fit(module, callback, logger=logger, log_every_n_steps=2)
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "schedule/weight_decay/default" in text and "schedule/weight_decay/biases" in text


@pytest.mark.parametrize(
    ("setting", "chain", "message"),
    [
        ("weightdecay", [tz.m.Adam, lambda: tz.m.WeightDecay(0.1)], "Did you mean 'weight_decay'"),
        ("momentum", [lambda: tz.m.EMA(0.9), lambda: tz.m.EMA(0.5)], r"name one of EMA\.momentum, EMA_2\.momentum"),
        ("amsgrad.", [tz.m.Adam], "no module of this chain knows"),
        ("ema_init", [tz.m.EMA], "which no schedule can change"),
    ],
)
def test_what_cannot_be_scheduled(setting, chain, message):
    module = Watched(lambda: [make() for make in chain])
    with pytest.raises(MisconfigurationException, match=message):
        fit(module, LRSchedulerCallback(setting, lambda o: ConstantLR(o)))


def test_options_are_checked():
    with pytest.raises(ValueError, match="interval='batch'"):
        LRSchedulerCallback("lr", ConstantLR, "batch")
    with pytest.raises(ValueError, match="frequency=0"):
        LRSchedulerCallback("lr", ConstantLR, frequency=0)
    with pytest.raises(MisconfigurationException, match="optimizer=1"):
        fit(Watched(), LRSchedulerCallback("lr", ConstantLR, optimizer=1))
    with pytest.raises(MisconfigurationException, match=r"'los'.*Did you mean loss"):
        fit(Watched(), LRSchedulerCallback("lr", lambda o: ReduceLROnPlateau(o), "epoch", monitor="los"))
    with pytest.raises(ValueError, match=r"SequentialLR\(milestones=\[3, 2\]\) must rise"):
        SequentialLR(_sgd(), [ConstantLR, ConstantLR, ConstantLR], [3, 2])
    with pytest.raises(ValueError, match="cannot be a part"):
        ChainedScheduler(_sgd(), [ReduceLROnPlateau])
    with pytest.raises(ValueError, match="the warm-up must fit"):
        WarmupCosine(_sgd(), warmup=5, total=3)
    with pytest.raises(ValueError, match="does not know when it ends"):
        WarmupCosine(_sgd(), warmup=1).factor(2)


def _sgd():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


def rates(scheduler, optimizer, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_parts_of_schedulers_are_those_of_torch():
    ours, theirs = _sgd(), _sgd()
    makes = [lambda o: LinearLR(o, 0.1, total_iters=3), lambda o: CosineAnnealingLR(o, 5)]
    other = torch.optim.lr_scheduler.SequentialLR(theirs, [make(theirs) for make in makes], [3])
    close(rates(SequentialLR(ours, makes, [3]), ours, 9), rates(other, theirs, 9))
    ours, theirs = _sgd(), _sgd()
    other = torch.optim.lr_scheduler.ChainedScheduler([make(theirs) for make in makes], theirs)
    close(rates(ChainedScheduler(ours, makes), ours, 9), rates(other, theirs, 9))


SEQUENCE = """
optimizer: {class_path: adamw, init_args: {lr: 1.0}}
lr_scheduler:
  class_path: CLASS
  init_args:
    schedulers:
      - {class_path: LinearLR, init_args: {start_factor: 0.5, total_iters: 2}}
      - {class_path: CosineAnnealingLR, init_args: {T_max: 6}}
    milestones: [2]
lr_interval: step
"""


def program(*args):
    return ModularCLI(
        Plain, args=["fit", *QUIET, *args], save_config_callback=None, seed_everything_default=0
    ).model.seen


@pytest.mark.parametrize("name", ["SequentialLR", "torch.optim.lr_scheduler.SequentialLR"])
def test_a_warmup_and_a_cosine_in_yaml(name, tmp_path):
    (tmp_path / "c.yaml").write_text(SEQUENCE.replace("CLASS", name))
    close(
        [v for (v,) in program(f"--config={tmp_path / 'c.yaml'}")], [0.5, 0.75, *(cosine(1.0, t, 6) for t in range(6))]
    )


def test_the_same_from_the_command_line():
    parts = ["--lr_scheduler=SequentialLR", "--lr_scheduler.schedulers+=LinearLR",
             "--lr_scheduler.schedulers.start_factor=0.5", "--lr_scheduler.schedulers.total_iters=2",
             "--lr_scheduler.schedulers+=CosineAnnealingLR", "--lr_scheduler.schedulers.T_max=6"]  # fmt: skip
    seen = program(
        "--optimizer=adamw", "--optimizer.lr=1", *parts, "--lr_scheduler.milestones=[2]", "--lr_interval=step"
    )
    close([v for (v,) in seen], [0.5, 0.75, *(cosine(1.0, t, 6) for t in range(6))])


@pytest.mark.parametrize(("interval", "frequency", "total"), [("step", 1, 8), ("step", 2, 4), ("epoch", 1, 2)])
def test_a_warmup_that_ends_with_the_training(interval, frequency, total):
    args = ["--optimizer=adamw", "--optimizer.lr=1", "--lr_scheduler=WarmupCosine", "--lr_scheduler.warmup=1"]
    seen = program(*args, f"--lr_interval={interval}", f"--lr_frequency={frequency}")
    done = [t // frequency if interval == "step" else t // 4 for t in range(8)]
    close([v for (v,) in seen], [0.01 if d == 0 else cosine(1.0, d - 1, total - 1) for d in done])


def test_a_schedule_of_a_setting_in_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "optimizer: {class_path: adamw, init_args: {weight_decay: 0.1, groups: {biases: {weight_decay: 0}}}}\n"
        "trainer:\n  callbacks:\n    - class_path: LRSchedulerCallback\n"
        "      init_args: {setting: weight_decay, scheduler: {class_path: ExponentialLR, init_args: {gamma: 0.5}}}\n"
    )
    command = ModularCLI(
        Plain,
        args=["fit", *QUIET, f"--config={tmp_path / 'c.yaml'}"],
        save_config_callback=None,
        seed_everything_default=0,
    )
    close([g["weight_decay"] for g in command.trainer.optimizers[0].param_groups], [0.1 * 0.5**8, 0.0])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("lr", StepLR), r"lambda optimizer: StepLR\(optimizer, \.\.\.\), and not StepLR\."),
        (("lr", StepLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), 1)), "and not a StepLR"),
        (("lr", "StepLR"), r"lambda optimizer: StepLR\(optimizer, 10\), and not a str"),
        (("lr", lambda: None), "and not a function"),
        ((lambda optimizer: StepLR(optimizer, 1), "lr"), "is the name of a setting, and not <function"),
    ],
    ids=["class", "scheduler", "text", "no argument", "swapped"],
)
def test_what_makes_no_scheduler_is_refused_at_once(args, message):
    with pytest.raises(TypeError, match=message):
        LRSchedulerCallback(*args)


def test_what_torch_refuses_names_the_callback_and_what_the_user_s_function_refuses_does_not():
    def broken(step):
        raise ValueError("of mine")

    with pytest.raises(MisconfigurationException, match=r"setting='lr'.*give the scheduler cycle_momentum=False"):
        trainer(LRSchedulerCallback("lr", lambda o: OneCycleLR(o, 1, 9))).fit(Watched())
    with pytest.raises(MisconfigurationException, match="Tried to step 3 times"):
        trainer(LRSchedulerCallback("lr", lambda o: OneCycleLR(o, 1, 2, cycle_momentum=False))).fit(Watched())
    with pytest.raises(ValueError, match=r"^of mine$"):
        trainer(LRSchedulerCallback("lr", lambda o: LambdaLR(o, broken))).fit(Watched())


def test_a_scheduled_beta_is_that_which_monitors_read():
    model = Watched(keys=("beta1", "betas"))
    trainer(LRSchedulerCallback("beta1", lambda o: ExponentialLR(o, 0.5))).fit(model)
    rates = [beta1 for beta1, _ in model.seen]
    assert rates[:3] == [0.9, 0.45, 0.225] and [betas for _, betas in model.seen] == [(rate, 0.999) for rate in rates]
