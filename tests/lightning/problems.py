"""Small models and data; the same in Lightning and in plain loops."""

import copy
import inspect

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchzero_core as tz

m = tz.m

#: How a checkpoint is loaded, where Lightning asks; before 2.6 it did not.
SAFE = {"weights_only": True} if "weights_only" in inspect.signature(Trainer.fit).parameters else {}


def batches(n=4, size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n * size, 3, generator=generator, dtype=torch.float64)
    y = (x.sum(1, keepdim=True) - 0.5).tanh()
    return list(zip(x.split(size), y.split(size), strict=True))


def loader(n=4, size=8):
    xs, ys = zip(*batches(n, size), strict=True)
    return DataLoader(TensorDataset(torch.cat(xs), torch.cat(ys)), batch_size=size)


def network(*extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), *extra, nn.Tanh(), nn.Linear(6, 1)).double()


def mse(net, batch):
    x, y = batch
    return nn.functional.mse_loss(net(x), y)


class Model(LightningModule):
    """Counts what happens; ``chain`` makes the modules and ``schedule`` the scheduler's configuration."""

    def __init__(self, chain, schedule=None, net=None):
        super().__init__()
        self.net = net if net is not None else network()
        self.chain, self.schedule = chain, schedule
        self.calls = 0

    def training_step(self, batch, batch_idx):
        self.calls += 1
        loss = mse(self.net, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = tz.Modular(self.net.parameters(), *self.chain())
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    def train_dataloader(self):
        return loader()


class Log(Callback):
    """Keeps what each batch gave."""

    def __init__(self):
        self.outputs, self.logged, self.lrs, self.steps = [], [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.outputs.append(float(outputs["loss"]))
        self.logged.append(float(trainer.callback_metrics["loss"]))
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.steps.append(trainer.global_step)


def trainer(*callbacks, epochs=2, **kwargs):
    options = dict(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return Trainer(callbacks=list(callbacks), **{**options, **kwargs})


def plain(chain, net, epochs=2, group=1):
    """The same training without Lightning; the losses at the start of each step."""
    optimizer = tz.Modular(net.parameters(), *chain())
    data, losses = batches(), []
    for _ in range(epochs):
        for i in range(0, len(data), group):

            def closure(backward=True, part=data[i : i + group]):
                loss = sum(mse(net, batch) for batch in part) / group
                if backward:
                    optimizer.zero_grad()
                    loss.backward()
                return loss

            losses.append(float(optimizer.step(closure)))
    return losses


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def twin(net):
    return copy.deepcopy(net)


def only_fit():
    """The commands of a LightningCLI that need no long parsing."""
    return {"fit": LightningCLI.subcommands()["fit"]}


def search():
    return [m.LBFGS(), m.StrongWolfe()]


def adam():
    return [m.Adam(), m.LR(1e-2)]
