"""The closure of a step over its batches: the first evaluation is Lightning's own, the others leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from . import compat
from .reevaluation import other_gradients_kept, reevaluation
from .side_effects import Keeper, Snapshot


class NoLoss(Exception):
    """training_step returned None: the batch is skipped."""


class Batch:
    """One batch's part of the loss.

    Args:
        module: the model.
        evaluate: evaluates its part of the loss again; None where there is none.
        keeper: takes the snapshots.
        data: the batch, which the evaluation may change.
    """

    def __init__(
        self, module: LightningModule, evaluate: Callable[[], Tensor | None], keeper: Keeper, data: Any
    ) -> None:
        self.module, self._evaluate, self._keeper, self.data = module, evaluate, keeper, data
        self.start: Snapshot | None = None
        self.loss: Tensor | None = None

    def watched(self, evaluate: Callable[[], Any]) -> Any:
        """Run the first evaluation, and note what it changes."""
        self.start = self._keeper.snapshot(self.data)
        with self._keeper.watching(self.start):
            output = evaluate()
        self.start.look()
        return output

    def again(self, optimizer: Optimizer, end: Snapshot, *, backward: bool) -> Tensor:
        """The same evaluation at another point."""
        assert self.start is not None and self.loss is not None
        with reevaluation(self.module, self.start, end):
            loss = self._evaluate()
            if loss is None:  # there is no loss at this point, so it cannot be a good one
                return torch.full_like(self.loss, torch.inf)
            if backward:
                compat.backward(self.module.trainer, loss, optimizer, hooks=False)
                return loss.detach()
            return loss


class StepClosure:
    """``closure(backward=True)`` over the batches of a step.

    Args:
        optimizer: the raw optimizer.
        batches: all but the last have been evaluated once, and their gradients lie in the parameters.
        first: evaluates the last one for the first time, with all that Lightning does around it.
        keeper: takes the snapshots.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        batches: list[Batch],
        first: Callable[[bool], Tensor | None],
        keeper: Keeper,
    ) -> None:
        self._optimizer, self._first, self._keeper = optimizer, first, keeper
        self._module = batches[-1].module
        self._last, self._before = batches[-1], [b for b in batches[:-1] if b.loss is not None]
        self._batches = list(batches)
        self._end: Snapshot | None = None
        self._evaluated = False

    def __call__(self, backward: bool = True) -> Tensor:
        """Evaluate the loss of all batches."""
        if self._evaluated:
            return self._again(self._batches, backward=backward)
        self._evaluated = True
        loss = self._first(backward)
        self._batches = list(self._before)
        if loss is not None:
            self._last.loss = loss.detach()
            self._batches.append(self._last)
        if not self._batches:
            raise NoLoss
        if not self._before:
            assert loss is not None
            return loss
        if backward:
            return torch.stack([b.loss for b in self._batches if b.loss is not None]).sum()
        # the first evaluations of the other batches have no graph any more
        rest = self._again(self._before, backward=False)
        return rest if loss is None else loss + rest

    def _again(self, batches: list[Batch], *, backward: bool) -> Tensor:
        if self._end is None:
            starts = [b.start for b in batches if b.start is not None]
            self._end = self._keeper.end(starts, [b.data for b in self._batches])
        with other_gradients_kept(self._module, self._optimizer):
            if backward:
                self._optimizer.zero_grad()
            return torch.stack([b.again(self._optimizer, self._end, backward=backward) for b in batches]).sum()
