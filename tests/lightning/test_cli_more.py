"""What the command line says of options that cannot work, and chains that it injects into a model."""

import sys

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable

import torchzero_core as tz
from tests.lightning.problems import loader, mse, network
from tz_lightning import ModularChain, ModularCLI

ADAM = [
    "--optimizer=ModularChain",
    "--optimizer.modules+=Adam",
    "--optimizer.modules+=LR",
    "--optimizer.modules.lr=0.01",
]
QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=1",
]


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        return mse(self.net, batch)

    def train_dataloader(self):
        return loader()


class Own(Plain):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Injected(Plain):
    def __init__(self, optimizer: OptimizerCallable):
        super().__init__()
        self.make = optimizer

    def configure_optimizers(self):
        return self.make(self.net.parameters())


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    """Lightning warns where both pytest's and our arguments are there."""
    monkeypatch.setattr(sys, "argv", ["program"])


def run(*args, model=Plain, **kwargs):
    return ModularCLI(
        model, args=["fit", *QUIET, *args], save_config_callback=None, seed_everything_default=0, **kwargs
    )


@pytest.mark.parametrize(
    ("args", "model", "message"),
    [
        (["--config=no_such.yaml"], Plain, "config: File does not exist: .*no_such.yaml"),
        (
            [*ADAM, "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1", "--lr_frequency=0"],
            Plain,
            "lr_frequency: 0 must be at least 1",
        ),
        ([*ADAM, "--lr_interval=step"], Plain, "lr_interval and lr_frequency belong to an lr_scheduler"),
        (
            ["--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.5"],
            Own,
            "lr_scheduler: Own has its own configure_optimizers",
        ),
    ],
)
def test_options_that_cannot_work_are_named(args, model, message, capsys):
    with pytest.raises(SystemExit):
        run(*args, model=model)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) <= 3
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(lines[0])


def test_an_injected_chain_can_be_made_again():
    args = ["--model.optimizer=ModularChain", "--model.optimizer.modules+=Adam"]
    command = run(*args, model=Injected, auto_configure_optimizers=False)
    command.trainer.fit_loop.max_epochs = 2
    command.trainer.fit(command.model)
    assert command.trainer.global_step == 8


def test_the_modules_given_to_a_chain_stay_free():
    p = torch.ones(1, requires_grad=True)
    modules = [tz.m.Adam(), tz.m.LR(0.1)]
    first, second = ModularChain([p], modules), ModularChain([p], modules)
    p.grad = torch.ones(1)
    first.step()
    assert first.current_step == 1 and second.current_step == 0
