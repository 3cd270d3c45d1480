"""Hooks that change gradients, which run once a step, beside a chain that computes gradients several times."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from . import compat


class Hooked:
    """Notices gradients that a hook has changed in place, as ``clip_grad_norm_`` in ``on_after_backward`` does.

    Args:
        optimizer: whose gradients they are.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._marks: dict[int, tuple[int, int | None]] = {}
        self._changed = self._said = False

    @contextmanager
    def backward(self, trainer: Trainer) -> Iterator[None]:
        """A backward pass with its hooks."""
        with compat.before_hooks(trainer, self._mark):
            yield
        self.look()

    def _found(self) -> dict[int, tuple[int, int | None]]:
        """Which tensor is the gradient of each parameter, and how often it was written to."""
        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        return {id(p): (id(p.grad), compat.written(p.grad)) for p in params if p.grad is not None}

    def _mark(self) -> None:
        if not self._said:
            self._marks = self._found()

    def look(self) -> None:
        """Look whether a gradient was written to since the backward pass; one that was taken away does not count."""
        if self._said or self._changed or not self._marks:
            return
        self._changed = any(self._marks.get(p, mark) != mark for p, mark in self._found().items())

    def say(self, steps: list[Any]) -> None:
        """After a step: warn once where other gradients were computed than those that were changed.

        Args:
            steps: what the chains did.
        """
        if self._changed and not self._said and any(step.backward_evaluations > 1 for step in steps):
            self._said = True
            warnings.warn(
                "A hook (on_after_backward, on_before_optimizer_step) changes gradients. It runs once a step, so that "
                "only the gradient of the first evaluation is changed, and a search compares it with others that are "
                "not. Put what it does into the chain, as ClipNorm or ClipValue.",
                UserWarning,
                stacklevel=2,
            )
        self._changed, self._marks = False, {}


__all__ = ["Hooked"]
