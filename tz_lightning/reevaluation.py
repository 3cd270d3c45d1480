"""Evaluating a training step again without its side effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from . import compat
from .side_effects import Randomness, Snapshot

_ACTIVE: ContextVar[bool] = ContextVar("reevaluation", default=False)


def is_reevaluation() -> bool:
    """Whether the loss is evaluated again at another point of the same step.

    Only the first evaluation of a step logs, counts and changes buffers. Code with other side effects (it writes to a
    file, say) can ask.

    Example:
        >>> is_reevaluation()
        False
    """
    return _ACTIVE.get()


@contextmanager
def reevaluation(module: LightningModule, start: Snapshot, end: Snapshot) -> Iterator[compat.Unlogged]:
    """Evaluate from the state of ``start``, without logging; afterwards everything is as in ``end``."""
    randomness = Randomness(module.device)
    start.randomness.restore()
    start.restore()
    token = _ACTIVE.set(True)
    try:
        with compat.unlogged(module) as unlogged:
            yield unlogged
    finally:
        _ACTIVE.reset(token)
        end.restore()
        randomness.restore()


@contextmanager
def other_gradients_kept(module: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Keep the gradients of parameters that the optimizer does not have."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    others: list[tuple[nn.Parameter, Tensor | None]] = []
    for p in module.parameters():
        if p.requires_grad and id(p) not in own:
            others.append((p, p.grad))
            p.grad = None
    try:
        yield
    finally:
        for p, grad in others:
            p.grad = grad
