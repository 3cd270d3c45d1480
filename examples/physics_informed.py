"""A differential equation solved by a network: Adam, and then a method that sees curvature.

The network is to satisfy u″ + u³ = f at 128 points of [−1, 1], with u = 0 at both ends, where f is chosen so that the
solution is sin(2πt) + 0.3·sin(5πt). Every run has 4,000 evaluations of the residual with its gradient, line searches
included, from the same weights, in float64. Adam alone has its best learning rate of three, with a cosine schedule to
the end. The others begin as Adam too, for 500 steps; then ``SwitchWhen`` hands over.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

import torchzero_core as tz
from examples.showing import Shown, best, show

m, EVALUATIONS = tz.m, 4000
AFTER_ADAM = {
    "Adam, then BFGS": lambda: [m.BFGS(), m.StrongWolfe()],
    "Adam, then L-BFGS": lambda: [m.LBFGS(history_size=50), m.StrongWolfe()],
}
t = torch.linspace(-1, 1, 128, dtype=torch.float64).unsqueeze(1).requires_grad_()


def second_derivative(u: Tensor) -> Tensor:
    """u″ at the points."""
    (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return torch.autograd.grad(du.sum(), t, create_graph=True)[0]


solution = (2 * math.pi * t).sin() + 0.3 * (5 * math.pi * t).sin()
f = (second_derivative(solution) + solution**3).detach()


def solve(chain: list[tz.Module], cosine_from: float | None = None) -> list[float]:
    """The lowest loss so far after each evaluation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    optimizer, losses = tz.Modular(net, *chain, deterministic=True), list[float]()

    def closure(backward: bool = True) -> Tensor:
        u = (1 - t**2) * net(t)
        loss = (second_derivative(u) + u**3 - f).square().mean()
        losses.append(loss.item())
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    while len(losses) < EVALUATIONS:
        if cosine_from is not None:
            optimizer.param_groups[0]["lr"] = cosine_from * (1 + math.cos(math.pi * len(losses) / EVALUATIONS)) / 2
        optimizer.step(closure)
    return list(accumulate(losses[:EVALUATIONS], min))


def main() -> Shown:
    """All of them."""
    adam = {lr: solve([m.Adam(), m.LR(lr)], lr) for lr in (3e-3, 1e-2, 3e-2)}
    runs = {"Adam": adam[best({lr: losses[-1] for lr, losses in adam.items()})]}
    for name, chain in AFTER_ADAM.items():
        first = [m.Adam(), m.LR(3e-3)]
        runs[name] = solve([m.SwitchWhen(first, chain(), rules=tz.stopping.MaxSteps(500))])
    return Shown(
        figure=f"lowest loss after {EVALUATIONS} evaluations",
        ours={name: runs[name][-1] for name in AFTER_ADAM},
        baselines={"Adam": runs["Adam"][-1]},
        curves={name: (range(1, EVALUATIONS + 1), losses) for name, losses in runs.items()},
        x="evaluations of residual and gradient",
        y="mean squared residual",
    )


if __name__ == "__main__":
    show(main)
