"""Learning rate warmup."""

from __future__ import annotations

from ...core import Context, Count, NonNegative, Transform
from ...lang import Number, Operand, Value


class Warmup(Transform):
    """Scales the update by a factor that rises in a line over the first steps.

    u ← u·(start_lr + (end_lr − start_lr)·min(t/steps, 1)), with t = 0 at the first step.

    Args:
        start_lr: the factor at the first step.
        end_lr: the factor after ``steps`` steps.
        steps: how many steps the rise takes, at least 1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Warmup(0, 1, steps=2))
        >>> for _ in range(4):  # 0, 0.5, 1, 1
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item()
        -2.5
    """

    size_effect = "factor"
    keeps_place = True
    start_lr: NonNegative = 1e-5
    end_lr: NonNegative = 1
    steps: Count = 100

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        done: Number = (ctx.step - 1) / h.steps
        return u * (h.start_lr + (h.end_lr - h.start_lr) * done.minimum(1.0))
