"""Learn scikit-learn's handwritten digits with a chain from YAML.

``python -m examples.digits fit --config examples/digits_adam.yaml`` is what ``make train`` runs. Everything of the
optimizer stands in the YAML file; ``training_step`` is the same for a chain that evaluates the loss many times a step
(``examples/digits_lbfgs.yaml``).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
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


def main(args: Any = None) -> ModularCLI:
    """Run the command line."""
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)  # of Lightning with new torch
    torch.set_float32_matmul_precision("high")
    return ModularCLI(Network, Digits, args=args, seed_everything_default=0)


if __name__ == "__main__":
    main()
