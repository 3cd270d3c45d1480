"""Small problems to compare optimizers on, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[Tensor, ...]]


class Rosenbrock(LightningModule):
    r"""Rosenbrock's function, a curved narrow valley.

    .. math:: f(x) = \sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2

    Args:
        n: the number of unknowns.
    """

    def __init__(self, n: int = 20) -> None:
        super().__init__()
        start = torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(math.ceil(n / 2))[:n]
        self.x = nn.Parameter(start + 0.1 * torch.randn(n, dtype=torch.float64))

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """The value."""
        x = self.x
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    def train_dataloader(self) -> Loader:
        """One batch, which the function does not look at."""
        return DataLoader(TensorDataset(torch.zeros(1, 1)))


class Logistic(LightningModule):
    """Logistic regression on two overlapping clouds whose features have scales from 0.01 to 1; convex.

    Args:
        n: the number of features.
        samples: the number of points.
    """

    def __init__(self, n: int = 30, samples: int = 500) -> None:
        super().__init__()
        self.linear = nn.Linear(n, 1)
        self.labels = torch.arange(samples) % 2 * 2.0 - 1
        apart = self.labels.unsqueeze(1) * torch.randn(n) * 0.3
        self.points = (torch.randn(samples, n) + apart) * torch.logspace(-2, 0, n)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean loss."""
        points, labels = batch
        return nn.functional.softplus(-labels * self.linear(points).squeeze(1)).mean()

    def train_dataloader(self) -> Loader:
        """All points at once."""
        return DataLoader(TensorDataset(self.points, self.labels), len(self.labels))


class Spirals(LightningModule):
    """Two spirals that a network with two hidden layers tells apart, in batches, with points for validation.

    Args:
        width: of the hidden layers.
        batch_size: points in a batch.
    """

    def __init__(self, width: int = 32, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )
        self.points, self.labels = self._spirals(1024)
        self.others = self._spirals(512)

    @staticmethod
    def _spirals(n: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n) % 2
        radius = torch.rand(n).sqrt()
        angle = 3 * math.pi * radius + math.pi * labels
        points = torch.stack([angle.cos(), angle.sin()], 1) * radius.unsqueeze(1)
        return points + 0.02 * torch.randn(n, 2), labels.float()

    def _loss(self, batch: list[Tensor]) -> Tensor:
        points, labels = batch
        return nn.functional.binary_cross_entropy_with_logits(self.net(points).squeeze(1), labels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._loss(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The loss on other points."""
        self.log("val_loss", self._loss(batch))

    def train_dataloader(self) -> Loader:
        """Batches in a new order each epoch."""
        return DataLoader(TensorDataset(self.points, self.labels), self.batch_size, shuffle=True)

    def val_dataloader(self) -> Loader:
        """The other points in one batch."""
        return DataLoader(TensorDataset(*self.others), len(self.others[1]))


#: By the name that a comparison gives.
PROBLEMS: dict[str, Callable[..., LightningModule]] = {
    "rosenbrock": Rosenbrock,
    "logistic": Logistic,
    "spirals": Spirals,
}
