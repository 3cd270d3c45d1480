"""How far chains come with the same budget: ``python -m benchmarks.choosing`` writes ``benchmarks/CHOOSING.md``.

Two problems, one of each kind. *Digits*: a small convolutional network on scikit-learn's digits in batches of 64, four
epochs; each chain with every learning rate of a grid, the best one (by the mean over the seeds) counts. *Physics*: a
network that solves u'' = -u, u(0) = 0, u'(0) = 1 in float64, all points at every step; each chain with 1,000
evaluations, and again with every learning rate where it has one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import torchzero_core as tz

m = tz.m
Chain = Callable[[float], list[tz.Module]]
DIGITS: dict[str, tuple[Chain, Sequence[float]]] = {
    "`LR`": (lambda lr: [m.LR(lr)], (0.1, 0.3, 1.0)),
    "`HeavyBall(0.9), LR`": (lambda lr: [m.HeavyBall(0.9), m.LR(lr)], (0.03, 0.1, 0.3)),
    "`Adam, LR`": (lambda lr: [m.Adam(), m.LR(lr)], (3e-3, 1e-2, 3e-2)),
    "`Adam, Cautious, LR`": (lambda lr: [m.Adam(), m.Cautious(), m.LR(lr)], (3e-3, 1e-2, 3e-2)),
    "`ClipValue, Adam, NormalizeByEMA, WeightDecay, LR`": (
        lambda lr: [m.ClipValue(10), m.Adam(), m.NormalizeByEMA(max_ema_growth=1.1), m.WeightDecay(1e-4), m.LR(lr)],
        (3e-3, 1e-2, 3e-2),
    ),
    "`Lion, LR`": (lambda lr: [m.Lion(), m.LR(lr)], (3e-4, 1e-3, 3e-3)),
    "`SOAP(merge_small=False), LR`": (lambda lr: [m.SOAP(merge_small=False), m.LR(lr)], (3e-3, 1e-2, 3e-2)),
    '`Split("hidden_matrices", Muon(adjust_lr=True), Adam), LR`': (
        lambda lr: [m.Split("hidden_matrices", m.Muon(adjust_lr=True), m.Adam()), m.LR(lr)],
        (3e-3, 1e-2, 3e-2),
    ),
}
PHYSICS: dict[str, tuple[Chain, Sequence[float]]] = {
    "`Adam, LR`": (lambda lr: [m.Adam(), m.LR(lr)], (3e-3, 1e-2, 3e-2)),
    "`PolakRibiere, StrongWolfe`": (lambda lr: [m.PolakRibiere(), m.StrongWolfe()], (1.0,)),
    "`LBFGS, StrongWolfe`": (lambda lr: [m.LBFGS(), m.StrongWolfe()], (1.0,)),
    "`BFGS, StrongWolfe`": (lambda lr: [m.BFGS(), m.StrongWolfe()], (1.0,)),
    "`NewtonCG, StrongWolfe`": (lambda lr: [m.NewtonCG(), m.StrongWolfe()], (1.0,)),
}
SEEDS, EPOCHS, EVALUATIONS = (0, 1), 4, 1000


def digits() -> tuple[Tensor, Tensor]:
    """Images and labels in a fixed random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)[order] / 16, torch.tensor(data.target)[order]


def train_digits(chain: Chain, lr: float, seed: int) -> tuple[float, float]:
    """The loss on the fifth of the images that was held out, and the milliseconds of a step."""
    images, labels = digits()
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = tz.Modular(net, *chain(lr))
    count, spent, steps = len(images) * 4 // 5, 0.0, 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (count // 64))
    for _ in range(EPOCHS):
        order = torch.randperm(count)
        for k in range(count // 64):
            at = order[64 * k : 64 * (k + 1)]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[at]), labels[at]).backward()
            start = time.process_time()
            optimizer.step()
            spent, steps = spent + time.process_time() - start, steps + 1
            schedule.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(net(images[count:]), labels[count:]).item(), 1e3 * spent / steps


def train_physics(chain: Chain, lr: float, seed: int) -> tuple[float, float]:
    """The largest error of the solution, and the seconds it took."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    t = torch.linspace(0, 6, 60, dtype=torch.float64).unsqueeze(1).requires_grad_()
    optimizer = tz.Modular(net, *chain(lr))

    def solution() -> Tensor:
        return t + t**2 * net(t)

    def closure(backward: bool = True) -> Tensor:
        u = solution()
        (du,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), t, create_graph=True)
        loss = (ddu + u).square().mean()
        if backward:
            optimizer.zero_grad()
            loss.backward(inputs=list(net.parameters()))
        return loss

    used, start = 0, time.process_time()
    while used < EVALUATIONS:
        optimizer.step(closure)
        used += max(optimizer.last_step.evaluations, 1)
    with torch.no_grad():
        return (solution() - t.sin()).abs().max().item(), time.process_time() - start


def best(
    train: Callable[[Chain, float, int], tuple[float, float]], chain: Chain, rates: Sequence[float]
) -> tuple[float, list[float], float]:
    """The best learning rate, the results of the seeds with it, and the time."""
    found = []
    for lr in rates:
        runs = [train(chain, lr, seed) for seed in SEEDS]
        results = [r if r == r else float("inf") for r, _ in runs]
        found.append((statistics.mean(results), lr, results, statistics.median(t for _, t in runs)))
    _, lr, results, spent = min(found)
    return lr, results, spent


def table(
    title: str,
    unit: str,
    train: Callable[[Chain, float, int], tuple[float, float]],
    chains: dict[str, tuple[Chain, Sequence[float]]],
) -> list[str]:
    """The rows of a problem, the best first."""
    lines = [f"| chain | {title} | from – to | lr | {unit} |", "| --- | ---: | ---: | ---: | ---: |"]
    rows = []
    for name, (chain, rates) in chains.items():
        lr, results, spent = best(train, chain, rates)
        mean = statistics.mean(results)
        rate = f"{lr:g}" if len(rates) > 1 else "–"
        rows.append((mean, f"| {name} | {mean:.2g} | {min(results):.2g} – {max(results):.2g} | {rate} | {spent:.2g} |"))
        print(rows[-1][1], flush=True)
    return [*lines, *(row for _, row in sorted(rows))]


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    lines = [
        f"Digits: {EPOCHS} epochs of 22 steps, cosine schedule, loss on what was held out, over {len(SEEDS)} seeds; "
        "each chain with the best of three learning rates. Time: of the optimizer's step alone, processor time, one "
        "thread.",
        "",
        *table("loss", "ms / step", train_digits, DIGITS),
        "",
        f"A differential equation: {EVALUATIONS:,} evaluations of the loss, largest error of the solution, float64, "
        f"over {len(SEEDS)} seeds. Time: of the whole run, processor time, one thread.",
        "",
        *table("error", "seconds", train_physics, PHYSICS),
        "",
    ]
    Path(__file__).with_name("CHOOSING.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
