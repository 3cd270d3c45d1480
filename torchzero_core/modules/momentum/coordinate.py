"""Momentum that is renewed at random elements."""

from __future__ import annotations

from dataclasses import KW_ONLY

from ...core import Context, Fraction, Seed, Slot, Target, Transform
from ...lang import Value


class CoordinateMomentum(Transform):
    r"""Keeps the last update of each element and renews a random part of them: v ← u with probability p, else v.

    Args:
        p: the share of the elements that are renewed at a step.
        target: what is replaced by v.
        seed: of the random choice; None draws one from torch's generator.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1000, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.CoordinateMomentum(0.1, seed=0))
        >>> p.grad = torch.ones(1000)
        >>> optimizer.step()
        >>> 70 < -p.sum().item() < 130
        True
    """

    p: Fraction = 0.1
    target: Target = "update"
    _: KW_ONLY
    seed: Seed | None = None
    velocity = Slot()

    def rule(self, u: Value, ctx: Context) -> Value:
        renewed = ctx.random("bernoulli", ctx.settings.p) > 0
        ctx.state.velocity = v = renewed.where(u, ctx.state.velocity)
        return v
