"""The closure of a step over its batches: the first evaluation is Lightning's own, the others leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from . import compat
from .known import KnownPoints, Memory, Point
from .reevaluation import other_gradients_kept, reevaluation
from .side_effects import Snapshot


class NoLoss(Exception):
    """training_step returned None: the batch is skipped."""


def place_of(optimizer: Optimizer) -> list[int | None]:
    """What tells that somebody has written to the parameters since, if only to put them back."""
    return [compat.written(p) for group in optimizer.param_groups for p in group["params"]]


class Batch:
    """One batch's part of the loss.

    Args:
        module: the model.
        evaluate: evaluates its part of the loss again: the loss, None where there is none, and what was returned.
        memory: of the optimizer.
        data: the batch, which the evaluation may change.
        function: the user's, which it calls.

    Attributes:
        start: where the first evaluation started.
        loss: what it gave.
        differentiated: whether the gradients of the first evaluation lie in the parameters.
        place: where the parameters were, as :func:`place_of` tells it.
    """

    def __init__(
        self,
        module: LightningModule,
        evaluate: Callable[[], tuple[Tensor | None, Any]],
        memory: Memory,
        data: Any,
        function: Callable[..., Any],
    ) -> None:
        self.module, self._evaluate, self._memory, self.data = module, evaluate, memory, data
        self._function = function
        self.start: Snapshot | None = None
        self.loss: Tensor | None = None
        self.differentiated = False
        self.place: list[int | None] = []
        self._loud = False  # whether an evaluation did more than log

    def watched(self, evaluate: Callable[[], Any]) -> Any:
        """Run the first evaluation, and note what it changes."""
        keeper, graphless = self._memory.keeper, self._memory.graphless
        self.start = start = keeper.snapshot(self.data)
        with start.things.taping(), keeper.watching(start):
            output = graphless(lambda: self._attempt(evaluate, start), start.undo)
        start.look()
        return output

    def _attempt(self, evaluate: Callable[[], Any], start: Snapshot) -> Any:
        """Evaluate; where that may have to be broken off and begun anew, log only what has come to its end."""
        graphless = self._memory.graphless
        if torch.is_grad_enabled() or graphless.proven:
            return evaluate()
        with compat.unlogged(self.module) as unlogged:
            output = evaluate()
        if unlogged.complete:
            compat.log_again(self.module, unlogged.logged)
            return output
        start.undo()  # something has gone to a logger itself
        return evaluate()

    def left_out(self, point: Point) -> None:
        """Instead of the first evaluation: it would do nothing but log."""
        self.start = self._memory.keeper.snapshot(self.data)
        compat.log_again(self.module, point.logged)

    def again(self, optimizer: Optimizer, end: Snapshot, *, backward: bool, known: KnownPoints | None) -> Tensor:
        """The same evaluation at another point.

        Args:
            optimizer: the raw optimizer.
            end: how everything is to be afterwards.
            backward: whether to compute gradients.
            known: remembers the evaluation.
        """
        if backward:
            return self._evaluated(optimizer, end, backward=True, known=known)
        # everything is put back after an attempt too
        return self._memory.graphless(
            lambda: self._evaluated(optimizer, end, backward=False, known=known), lambda: None
        )

    def _evaluated(self, optimizer: Optimizer, end: Snapshot, *, backward: bool, known: KnownPoints | None) -> Tensor:
        assert self.start is not None and self.loss is not None
        outside = self._memory.outside.watching(self._function, self.start, end)
        with outside, reevaluation(self.module, self.start, end) as unlogged:
            loss, output = self._evaluate() if self.start.looked else self._first_time()
            self._loud |= known is not None and not self.start.quiet()
        if loss is None:  # there is no loss at this point, so it cannot be a good one
            return torch.full_like(self.loss, torch.inf)
        if not backward:
            return loss
        compat.backward(self.module.trainer, loss, optimizer, hooks=False)
        if known is not None:
            known.note(loss, output, unlogged.logged, quiet=unlogged.complete and not self._loud)
        return loss.detach()

    def _first_time(self) -> tuple[Tensor | None, Any]:
        """The first evaluation after one that was left out; what it changes is put back, as if it had not been made."""
        assert self.start is not None
        with self.start.things.taping(), self._memory.keeper.watching(self.start):
            found = self._evaluate()
        self.start.look()
        self._loud = not self.start.quiet()
        self.start.restore()
        return found


class StepClosure:
    """``closure(backward=True)`` over the batches of a step.

    Args:
        optimizer: the raw optimizer.
        batches: all but the last have been evaluated once.
        first: evaluates the last one for the first time, with all that Lightning does around it; gets ``backward``, and
            what is known of the loss where the parameters are.
        memory: of the optimizer.

    Attributes:
        started_with_gradients: whether it was called with ``backward`` at first.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        batches: list[Batch],
        first: Callable[[bool, Point | None], Tensor | None],
        memory: Memory,
    ) -> None:
        self._optimizer, self._first, self._keeper = optimizer, first, memory.keeper
        self._known = memory.known if len(batches) == 1 else None
        self._module = batches[-1].module
        self._last, self._before = batches[-1], [b for b in batches[:-1] if b.loss is not None]
        self._batches = list(batches)
        self._end: Snapshot | None = None
        self._evaluated = self.started_with_gradients = False

    def __call__(self, backward: bool = True) -> Tensor:
        """Evaluate the loss of all batches."""
        if self._evaluated:
            return self._again(self._batches, backward=backward)
        self.started_with_gradients = backward
        moved = any(b.place != place_of(self._optimizer) for b in self._before)
        rest: Tensor | None = None  # of the other batches, where it is not what they gave at first
        if backward and self._before and (moved or not all(b.differentiated for b in self._before)):
            rest = self._again(self._before, backward=True)
            self._end = None
        loss = self._at_the_start(backward)
        self._evaluated = True
        self._batches = list(self._before)
        if loss is not None:
            self._last.loss = loss.detach()
            self._batches.append(self._last)
        if not self._batches:
            raise NoLoss
        if not self._before:
            assert loss is not None
            return loss
        if not backward and (moved or torch.is_grad_enabled()):
            rest = self._again(self._before, backward=False)
        if rest is None:
            return torch.stack([b.loss for b in self._batches if b.loss is not None]).sum()
        return rest if loss is None else loss + rest

    def _at_the_start(self, backward: bool) -> Tensor | None:
        known = self._known
        point = known.recall() if known is not None and backward else None
        if known is None or point is None or known.trusted:
            return self._first(backward, point)
        loss = self._first(backward, None)
        known.compare(point, loss)
        return loss

    def _again(self, batches: list[Batch], *, backward: bool) -> Tensor:
        if self._end is None:
            starts = [b.start for b in batches if b.start is not None]
            self._end = self._keeper.end(starts, [b.data for b in self._batches])
        known = self._known
        with other_gradients_kept(self._module, self._optimizer):
            if backward:
                self._optimizer.zero_grad()
            return torch.stack(
                [b.again(self._optimizer, self._end, backward=backward, known=known) for b in batches]
            ).sum()
