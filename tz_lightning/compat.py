"""All that reaches into Lightning's internals, with :mod:`.loop`: its bookkeeping around a step, its hooks and logs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.utilities.memory import recursive_detach
from torch import Tensor
from torch.optim import Optimizer

from torchzero_core.core.closure import made_by
from torchzero_core.core.sight import changes

#: The arguments of ``_ResultCollection.log``.
Logged = tuple[str, str, Any, tuple[Any, ...], dict[str, Any]]


#: Where a Trainer or a model comes from the package of the other name.
OTHER_PACKAGE = (
    "tz_lightning works inside lightning.pytorch, which is pytorch_lightning under its newer name, and not with both: "
    "write import lightning.pytorch as pl."
)


def of_other_package(thing: Any) -> bool:
    """Whether a Trainer or a model is one of ``pytorch_lightning``, whose classes are not those of Lightning."""
    return any(cls.__module__.startswith("pytorch_lightning.") for cls in type(thing).__mro__)


def module_of_lightning_closure(closure: Any) -> Any:
    """The module for which Lightning made a closure, of whatever package; None where it made none."""
    if not isinstance(closure, functools.partial) or made_by(closure) is None:
        return None
    return next((a for a in closure.args if hasattr(a, "automatic_optimization")), None)


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
    of ``global_step`` and the profiler, are its two callables. A step that fails leaves no action of the profiler open.
    """
    wrapper = lightning_optimizer(trainer, optimizer)
    wrapper._on_before_step()
    try:
        with without_autocast(trainer):
            result = wrapper.optimizer.step(closure)
    except BaseException:
        trainer.profiler.stop("optimizer_step")  # type: ignore[attr-defined]
        raise
    wrapper._on_after_step()
    return result


@contextmanager
def without_autocast(trainer: Trainer) -> Iterator[None]:
    """Compute in the dtypes of the parameters, as Lightning steps optimizers in automatic optimization."""
    device = trainer.strategy.root_device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            yield
    else:
        yield


def forward_context(trainer: Trainer) -> Any:
    """The precision that training steps are run in."""
    return trainer.precision_plugin.train_step_context()


def written(tensor: Tensor) -> int | None:
    """How often a tensor has been written to; None of one that was made in inference mode."""
    return None if tensor.is_inference() else changes(tensor)


def backward(trainer: Trainer, loss: Tensor, optimizer: Optimizer, *, hooks: bool) -> None:
    """Compute gradients as Lightning does, with the hooks around it or without."""
    if hooks:
        trainer.strategy.backward(loss, optimizer)
    else:
        trainer.strategy.pre_backward(loss)
        trainer.strategy.precision_plugin.backward(loss, trainer.lightning_module, optimizer)
        trainer.strategy.post_backward(loss)


@contextmanager
def before_hooks(trainer: Trainer, note: Callable[[], None]) -> Iterator[None]:
    """Within it, ``note`` is called when gradients have been computed, and before hooks see them."""
    plugin = trainer.precision_plugin
    own, original = vars(plugin), plugin.post_backward

    def post_backward(*args: Any, **kwargs: Any) -> Any:
        note()
        return original(*args, **kwargs)

    own["post_backward"] = post_backward
    try:
        yield
    finally:
        del own["post_backward"]


def take_gradients(trainer: Trainer, loss: Tensor, params: Iterable[Tensor], grads: Iterable[Tensor | None]) -> None:
    """Let gradients that are known be those of the parameters, with the hooks of a backward pass."""
    trainer.precision_plugin.pre_backward(loss, trainer.lightning_module)
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else grad.clone()
    trainer.precision_plugin.post_backward(loss, trainer.lightning_module)


def zero_grad(trainer: Trainer, optimizer: Optimizer) -> None:
    """Clear gradients as Lightning does, with the hook before it."""
    call_hooks(trainer, "on_before_zero_grad", optimizer)
    batch_idx = trainer.fit_loop.epoch_loop.batch_idx
    trainer.lightning_module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)


def call_hooks(trainer: Trainer, name: str, *args: Any) -> None:
    """Call a hook of the callbacks and of the module."""
    call._call_callback_hooks(trainer, name, *args)
    call._call_lightning_module_hook(trainer, name, *args)


class _Unlogged(_ResultCollection):
    """Takes note of what would be logged, and logs nothing."""

    def __init__(self) -> None:
        super().__init__(training=True)
        self.logged: list[Logged] = []

    def log(self, fx: str, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self.logged.append((fx, name, recursive_detach(value), args, kwargs))


class _NoLogger(DummyLogger):
    """A logger that says whether anybody has used it."""

    used = False

    @property
    def experiment(self) -> Any:
        """Nothing."""
        self.used = True
        return super().experiment

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""
        self.used = True


def log_again(module: LightningModule, logged: list[Logged]) -> None:
    """Log what an evaluation without logging would have logged."""
    connector, results = module.trainer._logger_connector, module.trainer.fit_loop.epoch_loop._results
    for fx, name, value, args, kwargs in logged:
        if connector.should_reset_tensors(fx):  # as LightningModule.log does
            results.reset(metrics=False, fx=fx)
        results.log(fx, name, value, *args, **kwargs)
        connector._current_fx = fx


class Unlogged:
    """What an evaluation without logging would have logged.

    Attributes:
        logged: by ``self.log``.
        complete: whether it is all: nothing has gone to a logger itself.
    """

    def __init__(self) -> None:
        self.logged: list[Logged] = []
        self.complete = True


@contextmanager
def unlogged(module: LightningModule) -> Iterator[Unlogged]:
    """Let everything that the module logs, under whatever name, and to whatever logger, go nowhere."""
    trainer, loop = module.trainer, module.trainer.fit_loop.epoch_loop
    connector = trainer._logger_connector
    results, loggers = loop._results, trainer.loggers
    names = module._current_fx_name, connector._current_fx
    nowhere, found = _Unlogged(), Unlogged()
    nowhere.batch, nowhere.batch_size, nowhere.dataloader_idx = results.batch, results.batch_size, None
    no_loggers = [_NoLogger() for _ in loggers]
    loop._results, trainer.loggers = nowhere, list(no_loggers)
    module._current_fx_name = "training_step"
    try:
        yield found
    finally:
        found.logged, found.complete = nowhere.logged, not any(logger.used for logger in no_loggers)
        loop._results, trainer.loggers = results, loggers
        module._current_fx_name, connector._current_fx = names


def current_batch(trainer: Trainer) -> Any:
    """The batch that is being trained on."""
    return trainer.fit_loop.epoch_loop._results.batch


def parts(closure: Any) -> tuple[Any, Any, Any]:
    """What Lightning's closure of automatic optimization runs: the training step, its backward pass, zero_grad."""
    return closure._step_fn, closure._backward_fn, closure._zero_grad_fn


def give_progress(source: Any, target: Any) -> None:
    """Let ``target`` go on where ``source`` is."""
    target.optim_progress, target._skip_backward = source.optim_progress, source._skip_backward
    target._restarting = source._restarting


def logging_step(trainer: Trainer) -> int:
    """The step that Lightning logs the present batch under."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def accumulates(trainer: Trainer) -> bool:
    """Whether this batch only adds to the gradient."""
    return trainer.fit_loop._should_accumulate()


def mid_epoch(trainer: Trainer) -> bool:
    """Whether there are more batches to come in this epoch."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.training and 0 < done < trainer.num_training_batches


def log_every_n_steps(trainer: Trainer) -> int:
    """The Trainer's argument of that name."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]


def scaler(trainer: Trainer) -> Any:
    """The gradient scaler of float16 training, or None."""
    return getattr(trainer.precision_plugin, "scaler", None)


def yielded(iterator: Any) -> int | None:
    """How many batches an iterator over a DataLoader has given; None of others."""
    return getattr(iterator, "_num_yielded", None)


def _where_there_is_one(extract: Any, key: str) -> Any:
    """A method of LearningRateMonitor that logs a value of a group: nothing where there is none."""

    @functools.wraps(extract)
    def extracted(monitor: LearningRateMonitor, param_group: dict[str, Any], name: str) -> dict[str, Any]:
        return extract(monitor, param_group, name) if key in param_group else {}

    return extracted


def leave_out_missing_rates() -> None:
    """Let ``LearningRateMonitor`` log nothing, and not fail, where a group has no learning rate or no weight decay.

    A group could be given a zero instead, but then it would have a key that nothing honours.
    """
    for key, method in (("lr", "_extract_lr"), ("weight_decay", "_extract_weight_decay")):
        setattr(LearningRateMonitor, method, _where_there_is_one(getattr(LearningRateMonitor, method), key))
