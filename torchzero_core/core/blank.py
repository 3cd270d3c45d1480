"""A step that makes the state and nothing else.

``torch.distributed.checkpoint`` wants all state before there was a step, to load into it, and has torch's optimizers
make it by a step without closure, with gradients and learning rates of zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .closure import Closure


def asks_for_state(groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, Any]) -> bool:
    """Whether a step without closure is one that only wants the state to be made.

    Args:
        groups: the groups.
        state: the state of each parameter.
    """
    if state or any(float(group.get("lr", 0.0)) != 0 for group in groups):
        return False
    params = [p for group in groups for p in group["params"] if p.requires_grad]
    return bool(params) and all(p.grad is not None and not p.grad.any() for p in params)


def blank_closure(params: Sequence[Tensor]) -> Closure:
    """A closure whose loss and gradients are zero everywhere.

    Args:
        params: the parameters.
    """

    def closure(backward: bool = True) -> Tensor:
        live = [p for p in params if p.requires_grad]
        if backward:
            for p in live:
                p.grad = torch.zeros_like(p)
        zeros = [(p * 0.0).nansum().to(live[0].device, live[0].dtype) for p in live]
        return torch.stack(zeros).sum()

    return closure
