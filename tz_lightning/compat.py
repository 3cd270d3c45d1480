"""All that reaches into Lightning's internals: its bookkeeping around an optimizer step, its hooks, its closures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.optim import Optimizer


def is_lightning_closure(closure: Any) -> bool:
    """Whether a closure is the one that automatic optimization passes."""
    return isinstance(closure, functools.partial) and isinstance(getattr(closure.func, "__self__", None), Precision)


def lightning_optimizer(trainer: Trainer, optimizer: Optimizer) -> LightningOptimizer:
    """Lightning's wrapper of an optimizer, in which it keeps its bookkeeping.

    Raises:
        ValueError: the optimizer is none of the trainer's.
    """
    for wrapper in trainer.strategy._lightning_optimizers:
        if optimizer in (wrapper, wrapper.optimizer):
            return wrapper
    raise ValueError("The optimizer is none of those that configure_optimizers returned.")


def step_optimizer(trainer: Trainer, optimizer: Optimizer, closure: Callable[..., Any]) -> Any:
    """Step the raw optimizer with a closure that takes ``backward``, inside Lightning's bookkeeping.

    ``LightningOptimizer.step`` would wrap the closure in one without arguments. What it does around that, the counting
    of ``global_step`` and the profiler, are its two callables.
    """
    wrapper = lightning_optimizer(trainer, optimizer)
    wrapper._on_before_step()
    result = wrapper.optimizer.step(closure)
    wrapper._on_after_step()
    return result


def count_automatic_step(trainer: Trainer) -> None:
    """Count a step for automatic optimization too, so that ``global_step`` reads the same in both modes."""
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.increment_ready()
    progress.increment_completed()


def count_manual_steps(trainer: Trainer) -> None:
    """Let the count of manual steps, which ``global_step`` is from now on, go on from that of automatic ones."""
    loop = trainer.fit_loop.epoch_loop
    total = loop.manual_optimization.optim_step_progress.total
    total.ready = total.completed = loop.automatic_optimization.optim_progress.optimizer_steps


def backward(trainer: Trainer, loss: Tensor, optimizer: Optimizer, *, hooks: bool) -> None:
    """Compute gradients as Lightning does, with the hooks around it or without."""
    if hooks:
        trainer.strategy.backward(loss, optimizer)
    else:
        trainer.strategy.pre_backward(loss)
        trainer.strategy.precision_plugin.backward(loss, trainer.lightning_module, optimizer)
        trainer.strategy.post_backward(loss)


def zero_grad(trainer: Trainer, optimizer: Optimizer, batch_idx: int, *, hooks: bool) -> None:
    """Clear gradients as Lightning does, with the hook before it or without."""
    if hooks:
        call_hooks(trainer, "on_before_zero_grad", optimizer)
    trainer.lightning_module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)


def call_hooks(trainer: Trainer, name: str, *args: Any) -> None:
    """Call a hook of the callbacks and of the module."""
    call._call_callback_hooks(trainer, name, *args)
    call._call_lightning_module_hook(trainer, name, *args)


@contextmanager
def automatic(module: LightningModule) -> Iterator[None]:
    """Let Lightning see the module as one of automatic optimization."""
    before, module.automatic_optimization = module.automatic_optimization, True
    try:
        yield
    finally:
        module.automatic_optimization = before


def drive_schedulers(trainer: Trainer) -> None:
    """Let the trainer step the learning rate schedulers as in automatic optimization, although it is manual."""
    loop = trainer.fit_loop.epoch_loop
    update = type(loop)._update_learning_rates.__get__(loop)

    def update_learning_rates(*args: Any, **kwargs: Any) -> None:
        with automatic(trainer.lightning_module):
            update(*args, **kwargs)

    loop._update_learning_rates = update_learning_rates  # type: ignore[method-assign]


def release_schedulers(trainer: Trainer) -> None:
    """End :func:`drive_schedulers`."""
    trainer.fit_loop.epoch_loop.__dict__.pop("_update_learning_rates", None)


def accumulates(trainer: Trainer) -> bool:
    """Whether this batch only adds to the gradient."""
    return trainer.fit_loop._should_accumulate()


def logging_step(trainer: Trainer) -> int:
    """The step that Lightning logs the present batch under."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def log_every_n_steps(trainer: Trainer) -> int:
    """The Trainer's argument of that name."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]


def scaler(trainer: Trainer) -> Any:
    """The gradient scaler of float16 training, or None."""
    return getattr(trainer.precision_plugin, "scaler", None)
