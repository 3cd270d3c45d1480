"""A schedule for weight decay and one for the clipped norm, beside the best constants.

Any setting of any module may change from step to step: it is a key of the parameter group. Here a network learns
digits of which 30 % have a wrong label. What is wrong is learnt last, so weight decay grows during the run, and the
norm that the gradient is clipped to falls. Both sides have their best of twelve combinations, over three seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from statistics import fmean

import torch
from sklearn.datasets import load_digits
from torch import nn

import torchzero_core as tz
from examples.showing import Shown, best, show

STEPS, SEEDS = 400, (0, 1, 2)
images, digits = load_digits(return_X_y=True)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(digits)[order]
wrong = torch.rand(800, generator=torch.Generator().manual_seed(1)) < 0.3
learnt = torch.where(wrong, torch.randint(10, (800,), generator=torch.Generator().manual_seed(2)), y[:800])

Schedule = Callable[[float], float]  # of the share of the run that is over


def train(decay: Schedule, norm: Schedule, lr: float, seed: int) -> list[float]:
    """The share of wrong answers for clean digits, every ten steps."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    chain = [tz.m.ClipNorm(1.0, dim="global"), tz.m.Adam(), tz.m.WeightDecay(0.0), tz.m.LR(lr)]
    optimizer, errors = tz.Modular(net, *chain), []
    for i in range(STEPS):
        optimizer.param_groups[0].update(weight_decay=decay(i / STEPS), max_norm=norm(i / STEPS))
        at = torch.randint(800, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[at]), learnt[at]).backward()
        optimizer.step()
        if i % 10 == 9:
            errors.append((net(x[800:]).argmax(1) != y[800:]).double().mean().item())
    return errors


def constant(value: float) -> Schedule:
    """No schedule."""
    return lambda done: value


def line(start: float, end: float) -> Schedule:
    """From one value to another."""
    return lambda done: start + (end - start) * done


def tuned(runs: dict[tuple[float, ...], tuple[Schedule, Schedule]]) -> tuple[float, list[float]]:
    """The error at the end and on the way, averaged over the seeds, for the best learning rate and schedules."""
    means = {
        key: [fmean(errors) for errors in zip(*(train(*pair, key[0], seed) for seed in SEEDS), strict=True)]
        for key, pair in runs.items()
    }
    chosen = best({key: fmean(errors[-5:]) for key, errors in means.items()})
    return fmean(means[chosen][-5:]), means[chosen]


def main() -> Shown:
    """Both."""
    grid = list(product((3e-3, 1e-2), (0.3, 1.0, 2.0), (0.3, 3.0)))
    ours = tuned({key: (line(0.0, 2 * key[1]), line(key[2], 0.03)) for key in grid})
    theirs = tuned({key: (constant(key[1]), constant(key[2])) for key in grid})
    steps = range(10, STEPS + 1, 10)
    return Shown(
        figure="share of wrong digits in validation, mean of three seeds",
        ours={"scheduled": ours[0]},
        baselines={"constant": theirs[0]},
        curves={"scheduled": (steps, ours[1]), "constant": (steps, theirs[1])},
        y="share of wrong digits",
        digits=".4f",
    )


if __name__ == "__main__":
    show(main)
