"""Random updates."""

from __future__ import annotations

from dataclasses import KW_ONLY

from ...core import Context, Finite, Seed, Transform
from ...lang import Distribution, Operand, Value


class Randn(Transform):
    """u ← normal random numbers of mean 0 and variance 1.

    Args:
        seed: of the module's own generator, whose position is saved with the optimizer; None draws one from torch's.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1000, requires_grad=True)
        >>> p.grad = torch.zeros(1000)
        >>> tz.Modular([p], tz.m.Randn(seed=0)).step()
        >>> 0.9 < p.std().item() < 1.1
        True
    """

    _: KW_ONLY
    seed: Seed | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.noise("normal")


class RandomSample(Transform):
    """u ← eps times random numbers of mean 0 and variance 1.

    Args:
        eps: their scale.
        distribution: "normal" or "gaussian"; "rademacher": ±1; "uniform": on [−√3, √3]; "sphere": uniformly on the
            sphere of radius √n of each tensor's n elements.
        seed: of the module's own generator, whose position is saved with the optimizer; None draws one from torch's.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(4, requires_grad=True)
        >>> p.grad = torch.zeros(4)
        >>> tz.Modular([p], tz.m.RandomSample(0.5, "rademacher", seed=0)).step()
        >>> p.detach().abs()
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    eps: Finite = 1
    distribution: Distribution = "normal"
    _: KW_ONLY
    seed: Seed | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.settings.eps * ctx.noise(ctx.settings.distribution)


class Uniform(Transform):
    """u ← random numbers from a uniform distribution between two numbers.

    Args:
        low: the one end.
        high: the other end.
        seed: of the module's own generator, whose position is saved with the optimizer; None draws one from torch's.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1000, requires_grad=True)
        >>> p.grad = torch.zeros(1000)
        >>> tz.Modular([p], tz.m.Uniform(-3, -2, seed=0)).step()
        >>> 2 <= p.min().item() < 2.1, 2.9 < p.max().item() <= 3
        (True, True)
    """

    low: Finite
    high: Finite
    _: KW_ONLY
    seed: Seed | None = None

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        return h.low + (h.high - h.low) * ctx.random("uniform", 0.0, 1.0)
