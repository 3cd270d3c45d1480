"""Steps of chains that evaluate the loss themselves: line searches, Newton methods, gradient approximations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from torchzero_core.core import Modular
from torchzero_core.distributed import Reductions

from . import compat
from .reevaluation import Snapshot, reevaluation


class _NoLoss(Exception):
    """training_step returned None: the batch is skipped."""


class Batch:
    """One batch's part of the loss.

    Args:
        module: the model.
        fn: evaluates the loss, as ``training_step`` does.
        share: its weight in the loss of the step.
    """

    def __init__(self, module: LightningModule, fn: Callable[[], Any], share: float = 1.0) -> None:
        self.module, self.fn, self.share = module, fn, share
        self.start: Snapshot | None = None
        self.output: Any = None
        self.loss: Tensor | None = None

    def first(self, optimizer: Optimizer, *, backward: bool) -> Tensor:
        """The evaluation that logs, counts and is returned."""
        self.start = Snapshot(self.module)
        output = self.fn()
        loss = _loss(output) * self.share
        self.output = _detached(output)
        if backward:
            compat.backward(self.module.trainer, loss, optimizer, hooks=True)
        self.loss = loss.detach()
        return loss

    def again(self, optimizer: Optimizer, *, backward: bool) -> Tensor:
        """The same evaluation at another point."""
        assert self.start is not None
        with reevaluation(self.module, self.start):
            loss = _loss(self.fn()) * self.share
            if backward:
                compat.backward(self.module.trainer, loss, optimizer, hooks=False)
        return loss


class StepClosure:
    """``closure(backward=True)`` over the batches of a step.

    Args:
        optimizer: the raw optimizer.
        batches: all but the last have been evaluated once, and their gradients lie in the parameters.
        batch_idx: for Lightning's ``optimizer_zero_grad``.
    """

    def __init__(self, optimizer: Optimizer, batches: list[Batch], batch_idx: int) -> None:
        self.optimizer, self.batches, self.batch_idx = optimizer, batches, batch_idx
        self.trainer = batches[-1].module.trainer
        self.evaluated = False

    def __call__(self, backward: bool = True) -> Tensor:
        """Evaluate the loss of all batches."""
        if self.evaluated:
            return self._again(self.batches, backward=backward)
        self.evaluated = True
        *before, last = self.batches
        if backward and not before:
            compat.zero_grad(self.trainer, self.optimizer, self.batch_idx, hooks=True)
        loss = last.first(self.optimizer, backward=backward)
        if before and backward:
            loss = loss + torch.stack([b.loss for b in before if b.loss is not None]).sum()
        elif before:  # the first evaluations of the other batches have no graph any more
            loss = loss + self._again(before, backward=False)
        compat.call_hooks(self.trainer, "on_before_optimizer_step", self.optimizer)
        return loss

    def _again(self, batches: list[Batch], *, backward: bool) -> Tensor:
        if backward:
            compat.zero_grad(self.trainer, self.optimizer, self.batch_idx, hooks=False)
        return torch.stack([batch.again(self.optimizer, backward=backward) for batch in batches]).sum()


def closure_step(module: LightningModule, optimizer: Optimizer, fn: Callable[[], Any]) -> Any:
    """One step of a chain that evaluates the loss itself, for use in a ``training_step`` of manual optimization.

    ``fn`` is evaluated as often as the chain wants. Only the first evaluation logs, updates metrics and changes
    buffers; the others see the same random numbers.

    Args:
        module: the LightningModule.
        optimizer: one of ``module.optimizers()``.
        fn: evaluates the loss; returns it, or a dict with it under ``"loss"``. No ``backward`` inside.

    Returns:
        What the first evaluation of ``fn`` returned, detached.

    Example:
        .. code-block:: python

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                return closure_step(self, optimizer, lambda: self.loss(batch))
    """
    return _step(module, optimizer, [Batch(module, fn)], module.trainer.fit_loop.epoch_loop.batch_idx)


def _step(module: LightningModule, optimizer: Optimizer, batches: list[Batch], batch_idx: int) -> Any:
    raw = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    if isinstance(raw, Modular):
        raw.forget_evaluations()  # the first evaluation of a step logs and counts the batch
    try:
        compat.step_optimizer(module.trainer, raw, StepClosure(raw, batches, batch_idx))
    except _NoLoss:
        return None
    return batches[-1].output


class ClosureOptimization(Callback):
    """Lets chains with line searches, Newton methods or gradient approximations train an ordinary LightningModule.

    ``training_step(batch, batch_idx)`` returns the loss as in automatic optimization; the callback runs it as the
    closure of the chain, as often as that wants, by manual optimization. Logging, metrics and buffers see each batch
    once. Learning rate schedulers run as in automatic optimization, and with ``accumulate_grad_batches`` the closure
    spans the accumulated batches. For an optimizer that needs no closure, and for a module that does manual
    optimization itself, the callback does nothing. The optimizer may be exchanged between two batches.

    Raises:
        MisconfigurationException: before the first batch, for what cannot be right with such a chain.
    """

    def __init__(self) -> None:
        self._module: LightningModule | None = None
        self._batches: list[Batch] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go before the other callbacks.

        One that trains in its own ``on_fit_start``, such as the learning rate finder, has to find the training step
        taken over.
        """
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the training step, if the optimizer needs it."""
        if _needs_closure(trainer):
            self._take_over(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the optimizer of the moment: another callback may have exchanged it since the last batch."""
        needed = _needs_closure(trainer)
        if needed and self._module is None:
            self._take_over(trainer, pl_module)
        elif not needed and self._module is not None:
            self._release(trainer)

    def _take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:  # it calls closure_step itself
            return
        _refuse(trainer, pl_module)
        self._module, self._batches = pl_module, []
        original = pl_module.training_step

        def training_step(batch: Any, *args: Any) -> Any:
            return self._training_step(trainer, pl_module, lambda: original(batch, *args))

        vars(pl_module)["training_step"] = training_step
        compat.count_manual_steps(trainer)
        pl_module.automatic_optimization = False
        compat.drive_schedulers(trainer)

    def _training_step(self, trainer: Trainer, module: LightningModule, fn: Callable[[], Any]) -> Any:
        optimizer = trainer.optimizers[0]
        batch = Batch(module, fn, 1 / trainer.accumulate_grad_batches)
        batch_idx = trainer.fit_loop.epoch_loop.batch_idx
        if compat.accumulates(trainer):
            if not self._batches:
                compat.zero_grad(trainer, optimizer, batch_idx, hooks=True)
            try:
                batch.first(optimizer, backward=True)
            except _NoLoss:
                return None
            self._batches.append(batch)
            return batch.output
        batches, self._batches = [*self._batches, batch], []
        steps = trainer.global_step
        output = _step(module, optimizer, batches, batch_idx)
        if trainer.global_step > steps:
            compat.count_automatic_step(trainer)
        return output

    def _release(self, trainer: Trainer) -> None:
        if self._module is not None:
            vars(self._module).pop("training_step", None)
            self._module.automatic_optimization = True
            compat.release_schedulers(trainer)
            self._module, self._batches = None, []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the training step back."""
        self._release(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the training step back."""
        self._release(trainer)


class ClosureModule(LightningModule):
    """A LightningModule that brings :class:`ClosureOptimization` with it.

    A subclass that overrides ``configure_callbacks`` adds to ``super().configure_callbacks()``.
    """

    def configure_callbacks(self) -> list[Callback]:
        """The callback that runs the closure."""
        return [ClosureOptimization()]


def _needs_closure(trainer: Trainer) -> bool:
    """Whether an optimizer evaluates the loss itself."""
    return any(isinstance(o, Modular) and o.requires_closure for o in trainer.optimizers)


def _refuse(trainer: Trainer, module: LightningModule) -> None:
    """Say before the first batch what cannot be right."""
    name = type(module).__name__

    def refuse(condition: object, message: str) -> None:
        if condition:
            raise MisconfigurationException(f"ClosureOptimization: {message}")

    refuse(
        len(trainer.optimizers) != 1,
        f"{name}.configure_optimizers returned {len(trainer.optimizers)} optimizers, and one closure serves one. Join "
        "the parameters in one chain with Split, or do manual optimization with tz_lightning.closure_step.",
    )
    refuse(
        trainer.world_size > 1 and type(getattr(trainer.optimizers[0], "distributed", None)) is Reductions,
        f"there are {trainer.world_size} processes, and each would search along the loss of its own data, so that the "
        "parameters drift apart. Train with devices=1, or give the optimizer reductions over the processes: "
        "optimizer.distributed, see torchzero_core.distributed.",
    )
    refuse(
        trainer.gradient_clip_val,
        "the Trainer's gradient_clip_val would clip the gradient of the first evaluation only. Remove it and put "
        "ClipNorm or ClipValue into the chain.",
    )
    refuse(
        compat.scaler(trainer) is not None,
        "float16 training scales the loss, which a chain that compares losses cannot use. Train with "
        "precision='bf16-mixed' or 32.",
    )
    refuse(
        is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True),
        f"{name}.training_step takes dataloader_iter, so its batch cannot be evaluated again; let it take batch.",
    )
    for hook in ("optimizer_step", "configure_gradient_clipping"):
        refuse(
            is_overridden(hook, module),
            f"{name} overrides {hook}, which belongs to automatic optimization and would not be called. Remove it, or "
            "do manual optimization with tz_lightning.closure_step.",
        )
    refuse(
        trainer.strategy.handles_gradient_accumulation,
        f"{type(trainer.strategy).__name__} steps the optimizer itself; use another strategy.",
    )


def _loss(output: Any) -> Tensor:
    """The loss in what a training step returned."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if output is None:
        raise _NoLoss
    if not isinstance(loss, Tensor):
        raise MisconfigurationException(
            "training_step must return the loss, a dict with it under 'loss', or None to skip the batch; not "
            f"{output!r}."
        )
    return loss


def _detached(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {k: v.detach() if k == "loss" and isinstance(v, Tensor) else v for k, v in output.items()}
    return output.detach()
