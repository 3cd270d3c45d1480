"""Runs that are interrupted and go on.

``python -m tests.lightning.resuming FOLDER THREADS`` goes on with those in a folder.
"""

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchzero_core as tz
from tests.lightning.problems import SAFE, Model, batches, m, network, trainer
from tests.quiet import ignore_lightning
from tz_lightning import ClosureOptimization, RNGCheckpoint

EPOCHS, BATCHES = 4, 4


def lbfgs():
    return [m.LBFGS(), m.StrongWolfe()]


def adam():
    return [m.Adam(), m.LR(1e-2)]


CHAINS = {
    "Adam": adam,
    "SOAP": lambda: [m.SOAP(precond_freq=2), m.LR(1e-2)],
    "LBFGS": lbfgs,
    "SPSA": lambda: [m.SPSA(n_samples=2), m.LR(0.05)],
    "SwitchWhen": lambda: [m.SwitchWhen(adam(), lbfgs(), rules=tz.stopping.MaxSteps(3))],
}


class Noise(Dataset):
    """Whose samples are drawn by every generator there is."""

    def __init__(self):
        self.samples = [(x, y) for xs, ys in batches(BATCHES) for x, y in zip(xs, ys, strict=True)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        x, y = self.samples[i]
        noise = 0.01 * (torch.rand(3, dtype=x.dtype) + random.random() + np.random.random())  # noqa: NPY002
        return x + noise, y


class Resumable(DataLoader):
    """Goes on in the middle of an epoch."""

    start = position = 0

    def __iter__(self):
        start, self.start = self.start, 0
        sampled = iter(self.batch_sampler)
        for i, indices in enumerate(sampled):
            if i >= start:
                self.position = i + 1
                yield self.collate_fn([self.dataset[j] for j in indices])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.start = state["position"]


class Dropping(Model):
    def __init__(self, chain, shuffled):
        super().__init__(chain, self.schedule_of, network(nn.Dropout(0.2), nn.BatchNorm1d(6)))
        self.shuffled = shuffled

    @staticmethod
    def schedule_of(optimizer):
        return {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}

    def train_dataloader(self):
        kind = DataLoader if self.shuffled else Resumable
        return kind(Noise(), batch_size=8, shuffle=self.shuffled)


class Cut(Callback):
    """Saves in the middle of an epoch."""

    def __init__(self, folder, at):
        self.path, self.at = folder / "middle.ckpt", at

    def on_train_batch_end(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            trainer.save_checkpoint(self.path)


def callbacks(chain):
    return [ClosureOptimization(), RNGCheckpoint()]


def options(chain):
    return {"accumulate_grad_batches": 2} if chain in ("Adam", "LBFGS") else {}


def run(chain, *more, shuffled, resumed=None, **kwargs):
    """The parameters in the end."""
    with warnings.catch_warnings():
        ignore_lightning()
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        model = Dropping(CHAINS[chain], shuffled)
        fit = trainer(*callbacks(chain), *more, epochs=EPOCHS, **options(chain), **kwargs)
        if resumed is not None:
            torch.manual_seed(77)
        fit.fit(model, ckpt_path=resumed, **(SAFE if resumed is not None else {}))
    return [p.detach() for p in model.parameters()] + [model.net[2].running_mean.clone()]


def write(chain, folder):
    """Two runs that leave checkpoints; where they end."""
    folder.mkdir()
    end = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    return {
        "epoch=1": run(chain, end, shuffled=True, enable_checkpointing=True),
        "middle": run(chain, Cut(folder, 2 * BATCHES - 2), shuffled=False),
    }


def go_on(chain, folder, name):
    return run(chain, shuffled=name != "middle", resumed=folder / f"{name}.ckpt")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))  # another number adds in another order, and so rounds differently
    found = {f.name: {name: go_on(f.name, f, name) for name in ("epoch=1", "middle")} for f in root.iterdir()}
    torch.save(found, root / "found.pt")
