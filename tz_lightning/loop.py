"""Lightning's loop of automatic optimization, for chains that evaluate the loss themselves.

Automatic optimization hands the optimizer a closure that evaluates the batch, logs, and calls the hooks. Here that
closure is the first evaluation of the step, and only between Lightning and the optimizer, within ``optimizer.step``,
there is another one that evaluates the same batches again. So the rest of Lightning sees what it sees
with any optimizer.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from torch import Tensor
from torch.optim import Optimizer

from torchzero_core.core import Modular
from torchzero_core.optim import Split
from torchzero_core.optim.wrappers.base import Wrapper

from . import compat
from .evaluations import Batch, NoLoss, StepClosure, place_of
from .hooked import Hooked
from .known import Memory, Point


class FirstEvaluation(Closure):
    """Lightning's closure, which may leave the backward pass out, and counts as one of a step.

    Attributes:
        backward: whether to compute gradients.
        graph: whether the loss can be differentiated where they are not computed.
        loss: what the evaluation gave.
        known: what is known of it without an evaluation.
    """

    def __init__(
        self,
        batch: Batch,
        optimizer: Optimizer,
        hooked: Hooked,
        step_fn: Callable[[], ClosureResult],
        backward_fn: Callable[[Tensor], None],
        zero_grad_fn: Callable[[], None] | None,
    ) -> None:
        super().__init__(self._evaluate, self._compute_gradients, zero_grad_fn)
        self.batch, self.optimizer = batch, optimizer
        self.backward = self.graph = True
        self.hooked = hooked
        self.loss: Tensor | None = None
        self.known: Point | None = None
        self._parts = step_fn, backward_fn

    def _evaluate(self) -> ClosureResult:
        known = self.known
        if known is None or not known.quiet:
            return self.batch.watched(self._parts[0])
        self.batch.left_out(known)
        return ClosureResult(known.loss.clone(), extra=dict(known.output.extra))

    def _compute_gradients(self, loss: Tensor) -> None:
        if self.known is None:
            with self.hooked.backward(self.batch.module.trainer):
                self._parts[1](loss)
            return
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        compat.take_gradients(self.batch.module.trainer, loss, params, self.known.grads)

    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        """Evaluate, log, compute gradients."""
        with torch.set_grad_enabled(self.backward or self.graph):
            result = super().closure() if self.backward else self._step_fn()
        self.loss = result.closure_loss if self.graph and not self.backward else result.loss
        batch = self.batch
        batch.loss, batch.differentiated, batch.place = result.loss, self.backward, place_of(self.optimizer)
        result.closure_loss = None  # its graph is not needed any more
        return result


class ClosureLoop(_AutomaticOptimization):
    """Automatic optimization for every optimizer, one that evaluates the loss itself too.

    Args:
        trainer: the trainer.
        plain: the loop that it replaces, and whose progress it goes on with.
        check: called once with an optimizer that evaluates the loss itself, before its first batch.
    """

    def __init__(self, trainer: Trainer, plain: _AutomaticOptimization, check: Callable[[Optimizer], None]) -> None:
        super().__init__(trainer)
        self.take_over(plain)
        self.check = check
        self._memory: tuple[Optimizer, Memory] | None = None
        self._batches: list[Batch] = []

    def take_over(self, other: _AutomaticOptimization) -> None:
        """Go on where another loop is."""
        compat.give_progress(other, self)

    def _make_closure(self, kwargs: OrderedDict[str, Any], optimizer: Optimizer, batch_idx: int) -> Closure:
        closure = super()._make_closure(kwargs, optimizer, batch_idx)
        if self._skip_backward or not evaluates_the_loss(optimizer):
            return closure
        step_fn, backward_fn, zero_grad_fn = compat.parts(closure)
        if zero_grad_fn is not None:
            self._batches = []
        module, memory = module_of(self.trainer), self._memory_of(optimizer)
        batch = Batch(module, lambda: self._again(kwargs), memory, kwargs, module.training_step)
        self._batches.append(batch)
        first = FirstEvaluation(batch, optimizer, memory.hooked, step_fn, backward_fn, zero_grad_fn)
        first.backward = first.graph = memory.starts_with_gradients  # where the batch only adds to the gradient
        return first

    def _again(self, kwargs: OrderedDict[str, Any]) -> tuple[Tensor | None, ClosureResult]:
        """Evaluate again."""
        trainer = self.trainer
        output = trainer.strategy.training_step(*kwargs.values())
        result = ClosureResult.from_training_step_output(output, trainer.accumulate_grad_batches)
        loss, result.closure_loss = result.closure_loss, None
        return loss, result

    def _memory_of(self, optimizer: Optimizer) -> Memory:
        if self._memory is None or self._memory[0] is not optimizer:
            self.check(optimizer)
            self._memory = optimizer, Memory(module_of(self.trainer), optimizer, "training_step")
        return self._memory[1]

    def _optimizer_step(self, batch_idx: int, train_step_and_backward_closure: Callable[[], Tensor | None]) -> None:
        first, optimizer = train_step_and_backward_closure, self.trainer.optimizers[0]
        if not evaluates_the_loss(optimizer):
            super()._optimizer_step(batch_idx, first)
            return
        if not isinstance(first, FirstEvaluation):  # an epoch for batch norm alone, after weights were averaged
            with stepping(optimizer, lambda original, closure=None: None if closure is None else closure()):
                super()._optimizer_step(batch_idx, first)
            return
        batches, self._batches = self._batches, []
        memory = self._memory_of(optimizer)
        for chain in chains_of(optimizer):
            chain.forget_evaluations()  # the first evaluation of a step logs and counts the batch

        def step(original: Callable[..., Any], closure: Callable[[], Any] | None = None) -> Any:
            if closure is None:
                return original()

            def evaluate(backward: bool, known: Point | None) -> Tensor | None:
                first.backward, first.known, first.graph = backward, known, torch.is_grad_enabled()
                closure()
                memory.hooked.look()
                return first.loss

            step_closure = StepClosure(optimizer, batches, evaluate, memory)
            try:
                return original(step_closure)
            except NoLoss:
                return None
            finally:
                memory.starts_with_gradients = step_closure.started_with_gradients

        with stepping(optimizer, step):
            super()._optimizer_step(batch_idx, first)
        memory.repeats.note(optimizer)
        memory.hooked.say([chain.last_step for chain in chains_of(optimizer)])


def evaluates_the_loss(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of this package's that needs a closure: a chain, several as one, a wrapper."""
    return isinstance(optimizer, Wrapper) or (isinstance(optimizer, (Modular, Split)) and optimizer.requires_closure)


def chains_of(optimizer: Optimizer) -> list[Modular]:
    """The chains that an optimizer is or consists of."""
    if isinstance(optimizer, Split):
        return [chain for inner in optimizer.optimizers for chain in chains_of(inner)]
    return [optimizer] if isinstance(optimizer, Modular) else []


def module_of(trainer: Trainer) -> LightningModule:
    """The model that is trained."""
    return trainer.lightning_module


@contextmanager
def stepping(optimizer: Optimizer, step: Callable[..., Any]) -> Iterator[None]:
    """Within it, ``optimizer.step(closure)`` is ``step(original, closure)``."""
    own = vars(optimizer)
    before, original = own.get("step"), optimizer.step
    # the original takes part in what schedulers have put onto it
    own["step"] = functools.wraps(original)(lambda closure=None, **kwargs: step(original, closure))
    try:
        yield
    finally:
        if before is None:
            del own["step"]
        else:
            own["step"] = before


def install(trainer: Trainer, check: Callable[[Optimizer], None]) -> Callable[[], None] | None:
    """Put the loop in its place.

    Returns:
        What ends it; None where another one is there already.
    """
    epoch_loop = trainer.fit_loop.epoch_loop
    plain = epoch_loop.automatic_optimization
    if isinstance(plain, ClosureLoop):
        return None
    loop = ClosureLoop(trainer, plain, check)
    epoch_loop.automatic_optimization = loop

    def release() -> None:
        if epoch_loop.automatic_optimization is loop:
            compat.give_progress(loop, plain)
            epoch_loop.automatic_optimization = plain

    return release
