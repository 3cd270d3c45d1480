"""A network of steps and counted votes, which has no gradient, learnt by evaluations of its loss alone.

Its hidden units give −1 or 1 and its outputs are rounded to halves, so the derivative is zero almost everywhere. MeZO
estimates a slope of the smoothed loss from pairs of evaluations, and what stands behind it in the chain is what stands
behind a gradient elsewhere. Beside it the (1+1) evolution strategy with the 1/5 rule, with as many evaluations; both
have their best setting of three.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import torchzero_core as tz
from examples.showing import Shown, best, show

EVALUATIONS, DIRECTIONS = 4000, 4
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images, dtype=torch.float32) / 8 - 1, torch.tensor(labels)


class Votes(nn.Module):
    """64 inputs, 64 hidden units, 10 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Votes in halves."""
        return (self.out(self.hidden(x).sign()) * 2).round() / 2

    def loss(self, backward: bool = False) -> Tensor:
        """On the first 1,400 images."""
        return nn.functional.cross_entropy(self(x[:1400]), y[:1400])

    def error(self) -> float:
        """The share of the other images that it gets wrong."""
        return (self(x[1400:]).argmax(1) != y[1400:]).double().mean().item()


@torch.no_grad()
def by_mezo(lr: float) -> tuple[float, list[float]]:
    """Error at the end, and losses by evaluation."""
    torch.manual_seed(0)
    net, steps = Votes(), EVALUATIONS // (2 * DIRECTIONS)
    optimizer = tz.Modular(net, tz.m.MeZO(h=0.03, n_samples=DIRECTIONS), tz.m.Adam(0.95, 0.99), tz.m.LR(lr))
    scheduler = CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        losses += [float(optimizer.step(net.loss))] * (2 * DIRECTIONS)
        scheduler.step()
    return net.error(), losses


@torch.no_grad()
def by_evolution(sigma: float) -> tuple[float, list[float]]:
    """The same by keeping each random step that is good."""
    torch.manual_seed(0)
    net = Votes()
    losses = [net.loss().item()]
    for _ in range(EVALUATIONS - 1):
        old = [p.clone() for p in net.parameters()]
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=sigma)
        loss = net.loss().item()
        good = loss <= losses[-1]  # so the strategy does not end on a plateau
        sigma *= 1.5 if good else 1.5**-0.25
        if not good:
            torch._foreach_copy_(list(net.parameters()), old)
        losses.append(min(loss, losses[-1]))
    return net.error(), losses


def main() -> Shown:
    """Both."""
    ours = {lr: by_mezo(lr) for lr in (0.01, 0.02, 0.04)}
    theirs = {sigma: by_evolution(sigma) for sigma in (0.02, 0.05, 0.1)}
    error, losses = ours[best({lr: run[1][-1] for lr, run in ours.items()})]
    their_error, their_losses = theirs[best({sigma: run[1][-1] for sigma, run in theirs.items()})]
    a, b = "MeZO + Adam", "(1+1) evolution strategy"
    return Shown(
        figure=f"share of wrong digits in validation after {EVALUATIONS} evaluations",
        ours={a: error},
        baselines={b: their_error},
        curves={a: (range(len(losses)), losses), b: (range(len(their_losses)), their_losses)},
        x="evaluations",
        y="training loss",
        log="",
        digits=".3f",
    )


if __name__ == "__main__":
    show(main)
