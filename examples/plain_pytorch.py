"""A chain in a plain PyTorch loop, and one with a line search: ``python -m examples.plain_pytorch``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchzero_core as tz


def data() -> tuple[Tensor, Tensor]:
    """A noisy sine."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-3, 3, 256).unsqueeze(1)
    return x, x.sin() + 0.05 * torch.randn(x.shape, generator=generator)


def network() -> nn.Module:
    """Two small layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))


def by_gradients(steps: int = 300) -> float:
    """Adam and its company; returns the last loss."""
    model, (x, y) = network(), data()
    optimizer = tz.Modular(
        model.parameters(),
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(max_ema_growth=1.1),
        tz.m.WeightDecay(1e-4),
        tz.m.LR(1e-1),
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
    return loss.item()


def by_search(steps: int = 60) -> float:
    """L-BFGS with a line search, which needs a closure; returns the last loss."""
    model, (x, y) = network(), data()
    optimizer = tz.Modular(model.parameters(), tz.m.LBFGS(), tz.m.StrongWolfe())

    def closure(backward: bool = True) -> Tensor:
        loss = nn.functional.mse_loss(model(x), y)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    for _ in range(steps):
        loss = optimizer.step(closure)
    return float(loss)


if __name__ == "__main__":
    print(f"five modules: {by_gradients():.5f}")
    print(f"L-BFGS:       {by_search():.5f}")
