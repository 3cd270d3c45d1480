"""What the callbacks share: hooks on steps, names of optimizers, and logging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch.optim import Optimizer

from .. import compat


class Removable(Protocol):
    """What hangs somewhere until it is taken off."""

    def remove(self) -> None:
        """Take it off."""


class Handles:
    """Hooks that are taken off together."""

    def __init__(self) -> None:
        self._handles: list[Removable] = []

    def add(self, *handles: Removable) -> None:
        """Take note of hooks.

        Args:
            *handles: have a method ``remove``.
        """
        self._handles += handles

    def around(self, optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Call something before and after each step of an optimizer.

        Args:
            optimizer: the optimizer.
            before: called before a step.
            after: called after one that did not fail.
        """
        self.add(
            optimizer.register_step_pre_hook(lambda *_: before()),
            optimizer.register_step_post_hook(lambda *_: after()),
        )

    def remove(self) -> None:
        """Take all of them off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def prefixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """What the names of an optimizer's numbers start with: nothing where it is the only one.

    Several are named as :class:`~lightning.pytorch.callbacks.LearningRateMonitor` names them.

    Args:
        optimizers: those of a trainer.

    Example:
        >>> import torch
        >>> p = torch.zeros(1, requires_grad=True)
        >>> prefixes([torch.optim.Adam([p]), torch.optim.SGD([p]), torch.optim.Adam([p])])
        ['Adam/', 'SGD/', 'Adam-1/']
    """
    if len(optimizers) == 1:
        return [""]
    names = [type(o).__name__ for o in optimizers]
    numbers = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name}-{n}/" if n else f"{name}/" for name, n in zip(names, numbers, strict=True)]


def check_interval(who: str, every_n_steps: int | None) -> None:
    """Refuse an interval that is none.

    Args:
        who: the callback.
        every_n_steps: the interval; None stands for that of the Trainer.

    Raises:
        ValueError: it is less than 1.
    """
    if every_n_steps is not None and every_n_steps < 1:
        raise ValueError(f"{who}(every_n_steps={every_n_steps}) must be at least 1.")


def due(trainer: Trainer, every_n_steps: int | None) -> bool:
    """Whether this batch belongs to a step that is logged.

    Args:
        trainer: the trainer.
        every_n_steps: the interval; None stands for that of the Trainer.
    """
    every = compat.log_every_n_steps(trainer) if every_n_steps is None else every_n_steps
    return bool(trainer.loggers and every and (compat.logging_step(trainer) + 1) % every == 0)


def log(trainer: Trainer, metrics: Mapping[str, Any]) -> None:
    """Give numbers to every logger, and to callbacks that monitor one of them.

    Args:
        trainer: the trainer.
        metrics: the numbers by name.
    """
    if not metrics:
        return
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=compat.logging_step(trainer))
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
