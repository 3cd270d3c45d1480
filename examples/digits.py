"""Learn scikit-learn's handwritten digits with a chain from YAML.

``python -m examples.digits fit --config examples/digits_adam.yaml`` is what ``make train`` runs. Everything of the
optimizer stands in the YAML file; ``training_step`` is the same for a chain that evaluates the loss many times a step
(``examples/digits_lbfgs.yaml``).
"""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from tz_lightning import ModularCLI

Batch = tuple[Tensor, ...]


class Digits(LightningDataModule):
    """1,797 images of 8×8 pixels; a fifth of them is for validation.

    Args:
        batch_size: images in a batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Load and split, in the same way every time."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        data = TensorDataset(images, torch.tensor(digits.target))
        self.train, self.val = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader[Batch]:
        """The training images in a new order each epoch."""
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation images in one batch."""
        return DataLoader(self.val, len(self.val))


class Network(LightningModule):
    """Two convolutions and a linear layer.

    Args:
        width: channels of the first convolution.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 10),
        )
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layers(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on the validation images."""
        images, labels = batch
        logits = self.layers(images)
        self.accuracy(logits, labels)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels))
        self.log("val_accuracy", self.accuracy, prog_bar=True)


class Report(Callback):
    """At the end draws the CSV log and says where everything lies."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and print."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        for logger in trainer.loggers:
            logger.save()
        lines = [f"validation accuracy  {float(trainer.callback_metrics['val_accuracy']):.4f}"]
        log = folder / "metrics.csv"
        if log.exists():
            picture = draw(read(log), folder / "training.png")
            lines += [f"picture              {picture}", f"log                  {log}"]
        if isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            lines.append(f"checkpoint           {trainer.checkpoint_callback.best_model_path}")
        if (folder / "config.yaml").exists():
            lines.append(f"configuration        {folder / 'config.yaml'}")
        print("\n" + "\n".join(lines))


def read(log: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each column of a CSV log."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with log.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    series[name].append((int(row["step"]), float(value)))
    return dict(series)


def draw(series: dict[str, list[tuple[int, float]]], path: Path) -> Path:
    """A picture of losses and accuracy, learning rate, and update norms by module of the chain."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")

    def line(axes: Any, name: str, label: str, **style: Any) -> None:
        if name in series:
            axes.plot(*zip(*series[name], strict=True), label=label, **style)

    line(left, "train_loss", "training", color="tab:blue", lw=1)
    line(left, "val_loss", "validation", color="tab:orange", lw=2)
    left.set(title="loss", xlabel="step", yscale="log")
    rates = [name for name in series if name.startswith("lr-")]
    for name in rates:
        line(middle, name, "learning rate", color="tab:green")
    twin = middle.twinx() if rates else middle
    line(twin, "val_accuracy", "validation accuracy", color="tab:red")
    middle.set(title="learning rate and accuracy", xlabel="step")
    if rates:
        middle.set_ylabel("learning rate", color="tab:green")
    twin.set_ylabel("accuracy", color="tab:red")
    chain = [name for name in series if name.startswith("norm/chain/")]
    for name in chain:
        line(right, name, f"after {name.removeprefix('norm/chain/')}", lw=1.2)
    line(right, "norm/update", "step of the parameters", color="black", ls="--", lw=1)
    line(right, "norm/grad", "gradient", color="tab:gray", ls=":", lw=1.2)
    right.set(title="norms", xlabel="step", yscale="log")
    if left.lines:
        left.legend(fontsize=8)
    if right.lines:
        right.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def main(args: Any = None) -> ModularCLI:
    """Run the command line."""
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)  # of Lightning with new torch
    torch.set_float32_matmul_precision("high")
    return ModularCLI(Network, Digits, args=args, seed_everything_default=0)


if __name__ == "__main__":
    main()
