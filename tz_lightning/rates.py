"""Lightning's LearningRateMonitor beside chains that have no weight decay, or no single one."""

from __future__ import annotations

import functools
from typing import Any

from lightning.pytorch.callbacks import LearningRateMonitor

_of_lightning = LearningRateMonitor._extract_weight_decay


@functools.wraps(_of_lightning)
def _weight_decay(monitor: LearningRateMonitor, param_group: dict[str, Any], name: str) -> dict[str, Any]:
    """The weight decay of a group; nothing where it has none, which Lightning takes for granted."""
    return _of_lightning(monitor, param_group, name) if "weight_decay" in param_group else {}


def leave_out_missing_weight_decay() -> None:
    """Let ``LearningRateMonitor(log_weight_decay=True)`` log nothing, and not fail, where a group has no weight decay.

    A group could be given a zero instead, but then a chain would have a key that none of its modules honours.
    """
    setattr(LearningRateMonitor, _of_lightning.__name__, _weight_decay)
