"""A factor under a name of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...core import Context, Range, Transform
from ...core.validate import check_kind, check_range
from ...lang import Operand, Value


class StepSize(Transform):
    """Multiplies the update by a number: u ← step_size·u.

    Args:
        step_size: the number.
        key: the name of the setting, under which parameter groups can change it.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p, q = (torch.zeros(1, requires_grad=True) for _ in range(2))
        >>> p.grad, q.grad = torch.ones(1), torch.ones(1)
        >>> groups = [dict(params=[p]), dict(params=[q], scale=3.0)]
        >>> tz.Modular(groups, tz.m.StepSize(0.5, key="scale")).step()
        >>> p.item(), q.item()
        (-0.5, -3.0)
    """

    size_effect = "factor"

    def __init__(self, step_size: float, key: str = "step_size") -> None:
        if not isinstance(key, str) or not key.isidentifier():
            raise ValueError(f"StepSize(key={key!r}) must be a name, which parameter groups then have as a key.")
        self.key = key
        super().__init__({key: step_size})

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        check_kind(self.key, settings[self.key], float, "StepSize: ")
        check_range(self.key, settings[self.key], Range(-math.inf, math.inf, "()"), "StepSize: ")

    def rule(self, u: Value, ctx: Context) -> Operand:
        return getattr(ctx.settings, self.key) * u
