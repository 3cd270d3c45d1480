"""Two networks that play against each other in Lightning: optimistic Adam beside Adam.

A generator imitates eight clusters on a circle, in manual optimization, each network with its optimizer. Where two
players move at once, gradients turn in circles; the optimistic step (Daskalakis et al. 2018) goes by where the other one
is about to be, 2·u − the last u. In a chain that is ``tz.m.Add(tz.m.LastDifference())`` behind Adam. Both have their best
learning rate of three and the same number of steps.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchzero_core as tz
from examples.showing import COLOURS, GRAYS, Shown, best, show

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
STEPS, NOISE, BATCH = 1200, 8, 128


def circle(n: int) -> Tensor:
    """Points of the eight clusters."""
    angle = torch.randint(8, (n,)) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2)


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


class GAN(pl.LightningModule):
    """Generator and critic."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.make, self.generator, self.critic = make, network(NOISE, 2), network(2, 1)
        self.distances: list[float] = []

    def configure_optimizers(self):  # noqa: ANN201
        """One for each network."""
        return [self.make(self.generator.parameters()), self.make(self.critic.parameters())]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Each of them moves once."""
        players, fake = self.optimizers(), self.generator(torch.randn(len(batch[0]), NOISE))
        softplus = nn.functional.softplus
        losses = (
            softplus(-self.critic(fake)).mean(),
            (softplus(-self.critic(batch[0])) + softplus(self.critic(fake.detach()))).mean(),
        )
        for player, loss in zip(players, losses, strict=True):
            player.zero_grad()
            self.manual_backward(loss, retain_graph=True)
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


def play(make: Make) -> GAN:
    """Train both."""
    torch.manual_seed(0)
    model, data = GAN(make), DataLoader(TensorDataset(circle(STEPS * BATCH)), BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        pl.Trainer(accelerator="cpu", max_epochs=1, **off).fit(model, data)
    return model


def last(model: GAN) -> float:
    """The distance, over the last quarter of the run."""
    quarter = model.distances[-len(model.distances) // 4 :]
    return sum(quarter) / len(quarter)


def main() -> Shown:
    """Both, and what they draw."""
    makers: dict[str, Callable[[float], Make]] = {
        "optimistic Adam": lambda lr: lambda params: tz.Modular(
            params, tz.m.Adam(0.5, 0.9), tz.m.Add(tz.m.LastDifference()), tz.m.LR(lr)
        ),
        "torch Adam": lambda lr: lambda params: torch.optim.Adam(params, lr, (0.5, 0.9)),
    }
    models, figures = {}, {}
    for name, maker in makers.items():
        runs = {lr: play(maker(lr)) for lr in (3e-4, 1e-3, 3e-3)}
        models[name] = runs[best({lr: last(model) for lr, model in runs.items()})]
        figures[name] = last(models[name])

    def draw(distance, *clouds) -> None:  # noqa: ANN001, ANN002
        for (name, model), axes, colour in zip(models.items(), clouds, (COLOURS[0], GRAYS[0]), strict=True):
            distance.plot(range(50, STEPS + 1, 50), model.distances, color=colour, label=name)
            axes.scatter(*circle(500).T, s=2, color="#e0b050", label="data")
            axes.scatter(*model.generator(torch.randn(500, NOISE)).detach().T, s=2, color=colour, label=name)
            axes.set(title=name, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        distance.set(xlabel="step", ylabel="energy distance to the data", yscale="log")
        distance.grid(alpha=0.25)
        distance.legend(fontsize=8)

    return Shown(
        figure="energy distance to the data, mean of the last quarter",
        ours={"optimistic Adam": figures["optimistic Adam"]},
        baselines={"torch Adam": figures["torch Adam"]},
        curves={},
        digits=".4f",
        draw=draw,
        panels=3,
    )


if __name__ == "__main__":
    show(main)
