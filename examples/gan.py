"""Two networks that play against each other in Lightning: optimistic Adam beside Adam.

A generator imitates eight clusters on a circle, in manual optimization, each network with its optimizer. Where two
players move at once, gradients turn in circles; the optimistic step (Daskalakis et al. 2018) goes by where the other
one is about to be, 2·u − the last u. In a chain that is ``tz.m.Add(tz.m.LastDifference())`` behind Adam. Both make as
many steps, at three learning rates: the best of them is as good with either, and the others are better with the
optimistic step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

import torchzero_core as tz
from examples.showing import COLOURS, GRAYS, Shown, quiet, show

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
m, STEPS, NOISE, BATCH = tz.m, 1200, 8, 128


def circle(n: int) -> Tensor:
    """Points of the eight clusters."""
    angle = torch.randint(8, (n,)) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


class GAN(pl.LightningModule):
    """Generator and critic."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.automatic_optimization, self.make, self.distances = False, make, list[float]()
        self.generator, self.critic = (
            nn.Sequential(nn.Linear(i, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, o))
            for i, o in ((NOISE, 2), (2, 1))
        )

    def configure_optimizers(self) -> Any:
        """One for each network."""
        return [self.make(self.generator.parameters()), self.make(self.critic.parameters())]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Each of them moves once."""
        real, fake = batch[0], self.generator(torch.randn(BATCH, NOISE))
        critics = softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()
        players: Any = self.optimizers()
        for player, loss in zip(players, (softplus(-self.critic(fake)).mean(), critics), strict=True):
            player.zero_grad()
            self.manual_backward(loss)
        for player in players:
            player.step()
        if batch_idx % 50 == 49:
            self.distances.append(self.distance())

    @torch.no_grad()
    def distance(self) -> float:
        """Energy distance between 1,000 points of the generator and of the circle."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            a, b = self.generator(torch.randn(1000, NOISE)), circle(1000)
        return (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()

    def last(self) -> float:
        """The mean distance in the last quarter."""
        return sum(self.distances[-6:]) / 6


def play(make: Make) -> GAN:
    """Train both."""
    torch.manual_seed(0)
    model, data = GAN(make), DataLoader(TensorDataset(circle(STEPS * BATCH)), BATCH)
    with quiet():
        pl.Trainer(accelerator="cpu", max_epochs=1, barebones=True).fit(model, data)
    return model


def main() -> Shown:
    """Both, and what they draw."""
    chains: dict[str, Callable[[float], Make]] = {
        "optimistic Adam": lambda lr: lambda p: tz.Modular(p, m.Adam(0.5, 0.9), m.Add(m.LastDifference()), m.LR(lr)),
        "torch Adam": lambda lr: lambda p: torch.optim.Adam(p, lr, (0.5, 0.9)),
    }
    games = {name: [play(make(lr)) for lr in (3e-4, 1e-3, 3e-3)] for name, make in chains.items()}
    models = {name: min(three, key=GAN.last) for name, three in games.items()}

    def draw(distance: Any, *clouds: Any) -> None:
        for (name, model), axes, colour in zip(models.items(), clouds, (COLOURS[0], GRAYS[0]), strict=True):
            distance.plot(range(50, STEPS + 1, 50), model.distances, color=colour)
            axes.scatter(*circle(400).T, s=3, color="#e9b949")
            axes.scatter(*model.generator(torch.randn(400, NOISE)).detach().T, s=3, color=colour)
            axes.set(title=name, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        distance.set(xlabel="step", ylabel="energy distance to the data", yscale="log")

    ours, theirs = ({f"{n}, best": models[n].last(), f"{n}, mean": sum(map(GAN.last, games[n])) / 3} for n in chains)
    return Shown("energy distance to the data at the end", ours, theirs, digits=".4f", draw=draw, panels=3)


if __name__ == "__main__":
    show(main)
