"""A differential equation solved by a network: Adam, and then a method that sees curvature.

The network is to satisfy u″ + u³ = f at 128 points of [−1, 1], with u = 0 at both ends, where f is chosen so that the
solution is sin(2πt) + 0.3·sin(5πt). Every run has the same 8 seconds of one core, from the same weights, in float64.
Adam alone has its best learning rate of three, with a cosine schedule to the end. The others begin as Adam too, for
1,500 steps; then ``SwitchWhen`` hands over.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

import torchzero_core as tz
from examples.showing import Shown, best, show

m, SECONDS = tz.m, 8.0
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


def solve(chain: list[tz.Module], cosine_from: float | None = None) -> tuple[list[float], list[float], float]:
    """Seconds, losses, and the largest error of the solution at the end."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    optimizer = tz.Modular(net, *chain, deterministic=True)

    def closure(backward: bool = True) -> Tensor:
        u = (1 - t**2) * net(t)
        loss = (second_derivative(u) + u**3 - f).square().mean()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    begin, seconds, losses = time.process_time(), [0.0], []
    while seconds[-1] < SECONDS:
        if cosine_from is not None:
            optimizer.param_groups[0]["lr"] = cosine_from * (1 + math.cos(math.pi * seconds[-1] / SECONDS)) / 2
        losses.append(float(optimizer.step(closure)))
        seconds.append(time.process_time() - begin)
    return seconds[1:], losses, ((1 - t**2) * net(t) - solution).abs().max().item()


def main() -> Shown:
    """All of them."""
    adam = {lr: solve([m.Adam(), m.LR(lr)], lr) for lr in (5e-3, 1e-2, 2e-2)}
    runs = {"Adam": adam[best({lr: run[1][-1] for lr, run in adam.items()})]}
    for name, chain in AFTER_ADAM.items():
        first = [m.Adam(), m.LR(1e-2)]
        runs[name] = solve([m.SwitchWhen(first, chain(), rules=tz.stopping.MaxSteps(1500))])
    return Shown(
        figure=f"loss after {SECONDS:.0f} seconds",
        ours={name: runs[name][1][-1] for name in AFTER_ADAM},
        baselines={"Adam": runs["Adam"][1][-1]},
        curves={name: run[:2] for name, run in runs.items()},
        x="seconds",
        y="mean squared residual",
    )


if __name__ == "__main__":
    show(main)
