"""A program whose optimizer is chosen on the command line: ``python -m examples.cli fit --optimizer=adamw``."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tz_lightning import ModularCLI


class Net(LightningModule):
    """Learns a sine.

    Args:
        width: of the hidden layers.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.LayerNorm(width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def train_dataloader(self) -> DataLoader[Any]:
        """64 points in two batches."""
        x = torch.linspace(-3, 3, 64).unsqueeze(1)
        return DataLoader(TensorDataset(x, x.sin()), batch_size=32)


def main(args: Any = None) -> ModularCLI:
    """Run the command line."""
    return ModularCLI(Net, args=args, seed_everything_default=0)


if __name__ == "__main__":
    main()
