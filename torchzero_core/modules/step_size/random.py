"""A random step size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core import Context, Finite, Seed, Transform
from ...lang import Operand, Value


class RandomStepSize(Transform):
    """Multiplies the update by a random number, drawn at each step evenly between two bounds.

    Args:
        low: the least number.
        high: the largest.
        parameterwise: a number for each tensor; otherwise one for all.
        seed: of the numbers; None draws one from torch's generator.

    Raises:
        ValueError: low is above high.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.ones(2)
        >>> tz.Modular([p], tz.m.RandomStepSize(2, 3)).step()
        >>> bool((2 <= -p[0] <= 3) and (p[0] == p[1]))
        True
    """

    low: Finite = 0
    high: Finite = 1
    parameterwise: bool = False
    seed: Seed | None = None

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        low, high = settings["low"], settings["high"]
        if low > high:
            raise ValueError(f"low={low} is above high={high}; {self.path or 'RandomStepSize'} draws between them.")

    def rule(self, u: Value, ctx: Context) -> Operand:
        if ctx.settings.parameterwise:
            h = ctx.settings
            return u * ctx.random("uniform", h.low, h.high, per="tensor")
        h = ctx.whole.settings
        return u * ctx.random("uniform", h.low, h.high, per="all")
