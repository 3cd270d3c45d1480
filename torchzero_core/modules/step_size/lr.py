"""Learning rate and step size."""

from __future__ import annotations

from ...core import Context, NonNegative, Transform
from ...lang import Operand, Value


class LR(Transform):
    """Multiplies the update by the learning rate: u ← lr·u.

    Its ``lr`` is the ``"lr"`` of the parameter groups, so schedulers drive it.

    Args:
        lr: the learning rate, at least 0.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.ones(1)
        >>> optimizer = tz.Modular([p], tz.m.LR(0.5))
        >>> optimizer.step()
        >>> p.item(), optimizer.param_groups[0]["lr"]
        (-0.5, 0.5)
    """

    size_effect = "factor"
    lr: NonNegative
    kernel = "lr"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.settings.lr * u
