"""Steps of chains that evaluate the loss themselves: line searches, Newton methods, gradient approximations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from torchzero_core.distributed import Reductions

from . import compat, loop
from .evaluations import Batch, NoLoss, StepClosure
from .known import Memory, Point

#: What closure_step has remembered of an optimizer that it has stepped.
_MEMORIES: WeakKeyDictionary[Optimizer, Memory] = WeakKeyDictionary()


def closure_step(module: LightningModule, optimizer: Optimizer, fn: Callable[[], Any]) -> Any:
    """One step of a chain that evaluates the loss itself, for use in a ``training_step`` of manual optimization.

    ``fn`` is evaluated as often as the chain wants. Only the first evaluation logs, updates metrics and changes
    buffers; the others see the same random numbers.

    Args:
        module: the LightningModule.
        optimizer: one of ``module.optimizers()``.
        fn: evaluates the loss; returns it, or a dict with it under ``"loss"``, or None to skip the step. No
            ``backward`` inside.

    Returns:
        What the first evaluation of ``fn`` returned, detached.

    Raises:
        MisconfigurationException: what cannot be right, such as several processes or a gradient scaler.

    Example:
        .. code-block:: python

            def training_step(self, batch, batch_idx):
                optimizer = self.optimizers()
                return closure_step(self, optimizer, lambda: self.loss(batch))
    """
    raw = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    _check_arguments(module, raw, fn)
    trainer = module.trainer
    if raw not in _MEMORIES:
        refuse_everywhere(trainer, raw, "closure_step")
        _MEMORIES[raw] = Memory(module, raw, "The function given to closure_step")
    memory = _MEMORIES[raw]
    for chain in loop.chains_of(raw):
        chain.forget_evaluations()  # the first evaluation of a step logs and counts the batch
    outputs: list[Any] = []

    def again() -> tuple[Tensor | None, Any]:
        with compat.forward_context(trainer):
            output = fn()
        return _loss(output), _detached(output)

    def first(backward: bool, known: Point | None) -> Tensor | None:
        value = _evaluated(trainer, batch, fn, known, outputs)
        if value is not None and backward:
            compat.zero_grad(trainer, raw)
            if known is None:
                with memory.hooked.backward(trainer):
                    _backward(trainer, value, raw)
            else:
                params = [p for group in raw.param_groups for p in group["params"]]
                compat.take_gradients(trainer, value, params, known.grads)
            value = value.detach()
        if value is not None:
            compat.call_hooks(trainer, "on_before_optimizer_step", raw)
            memory.hooked.look()
        return value

    batch = Batch(module, again, memory, [compat.current_batch(trainer)], fn)
    step = StepClosure(raw, [batch], first, memory)
    try:
        compat.step_optimizer(trainer, raw, step)
    except NoLoss:
        return None
    memory.hooked.say([chain.last_step for chain in loop.chains_of(raw)])
    return outputs[0] if outputs else None


def _check_arguments(module: LightningModule, optimizer: Any, fn: Any) -> None:
    """Refuse what closure_step cannot be called with."""
    _refuse_if(
        not isinstance(optimizer, Optimizer),
        f"closure_step steps one optimizer, such as self.optimizers() where there is one, and not a "
        f"{type(optimizer).__name__}; with several call it for each.",
    )
    _refuse_if(
        not callable(fn),
        f"closure_step evaluates the loss several times, so fn must be a function that returns it, as in "
        f"closure_step(self, optimizer, lambda: self.loss(batch)), and not a {type(fn).__name__}.",
    )
    _refuse_if(compat.of_other_package(module), f"closure_step: {compat.OTHER_PACKAGE}")
    _refuse_if(
        _needs_arguments(fn),
        "closure_step calls fn() without arguments and computes the gradients itself: fn only returns the loss.",
    )
    _refuse_if(
        module.automatic_optimization,
        "closure_step belongs into manual optimization, self.automatic_optimization = False. With automatic "
        "optimization training_step just returns the loss, and the Trainer has the callback ClosureOptimization().",
    )


def _needs_arguments(fn: Callable[..., Any]) -> bool:
    """Whether a function cannot be called with nothing; False where nobody knows."""
    try:
        inspect.signature(fn).bind()
    except TypeError:
        return True
    except ValueError:  # of C
        pass
    return False


def _backward(trainer: Trainer, loss: Tensor, optimizer: Optimizer) -> None:
    """The first backward pass of a step."""
    try:
        compat.backward(trainer, loss, optimizer, hooks=True)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise MisconfigurationException(
            "closure_step: the graph of the loss has been used already when fn() returns it. fn only returns the loss; "
            "loss.backward() and self.manual_backward(loss) do not belong into it."
        ) from error


def _evaluated(
    trainer: Trainer, batch: Batch, fn: Callable[[], Any], known: Point | None, outputs: list[Any]
) -> Tensor | None:
    """The loss of the first evaluation, which goes into ``outputs``."""
    if known is not None and known.quiet:
        batch.left_out(known)
        outputs.append(known.output)
        return known.loss.clone()
    with compat.forward_context(trainer):
        output = batch.watched(fn)
    loss = _loss(output)
    outputs.append(_detached(output))
    return loss


class ClosureOptimization(Callback):
    """Lets chains with line searches, Newton methods or gradient approximations train an ordinary LightningModule.

    ``training_step`` returns the loss as always, and is evaluated as often as the chain wants. Logging, metrics,
    buffers, attributes of the model and the batch see each batch once; all evaluations of a batch see the same
    random numbers. Everything else in Lightning is as with any other optimizer. With ``accumulate_grad_batches`` the
    closure spans the accumulated batches. For an optimizer that needs no closure, and for a module that does manual
    optimization, the callback does nothing. The optimizer may be exchanged between two batches.

    Raises:
        MisconfigurationException: before the first batch, for what cannot be right with such a chain.
    """

    def __init__(self) -> None:
        self._end: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Be there before anything trains, such as the learning rate finder."""
        _refuse_if(compat.of_other_package(trainer), f"ClosureOptimization: {compat.OTHER_PACKAGE}")
        if stage == "fit":
            self._release()
            self._end = loop.install(trainer, lambda optimizer: _refuse(trainer, optimizer))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be right."""
        if pl_module.automatic_optimization:
            for optimizer in filter(loop.evaluates_the_loss, trainer.optimizers):
                _refuse(trainer, optimizer)

    def _release(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Lightning's loop back."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give Lightning's loop back."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_end": None}


class ClosureModule(LightningModule):
    """A LightningModule that brings :class:`ClosureOptimization` with it.

    A subclass that overrides ``configure_callbacks`` adds to ``super().configure_callbacks()``.
    """

    def configure_callbacks(self) -> list[Callback]:
        """The callback that runs the closure."""
        return [ClosureOptimization()]


def _refuse_if(condition: object, message: str) -> None:
    if condition:
        raise MisconfigurationException(message)


def refuse_everywhere(trainer: Trainer, optimizer: Optimizer, who: str) -> None:
    """Refuse what cannot be right in either mode."""
    chains = loop.chains_of(optimizer)
    alone = (
        any(type(chain.distributed) is Reductions for chain in chains) if chains else loop.evaluates_the_loss(optimizer)
    )
    _refuse_if(
        trainer.world_size > 1 and alone,
        f"{who}: there are {trainer.world_size} processes, and each would search along the loss of its own data, so "
        "that the parameters drift apart. Train with devices=1, or let them search along the mean of their losses: "
        "optimizer.distributed = tz.RankMeans(), where configure_optimizers makes it.",
    )
    _refuse_if(
        compat.scaler(trainer) is not None,
        f"{who}: float16 training scales the loss, which a chain that compares losses cannot use. Train with "
        "precision='bf16-mixed' or 32.",
    )


def _refuse(trainer: Trainer, optimizer: Optimizer) -> None:
    """Say before the first batch what cannot be right."""
    who, module = "ClosureOptimization", trainer.lightning_module
    refuse_everywhere(trainer, optimizer, who)
    _refuse_if(
        trainer.gradient_clip_val,
        f"{who}: the Trainer's gradient_clip_val would clip the gradient of the first evaluation only. Remove it and "
        "put ClipNorm or ClipValue into the chain.",
    )
    name = type(module).__name__
    _refuse_if(
        is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True),
        f"{who}: {name}.training_step takes dataloader_iter, so its batch cannot be evaluated again; let it take "
        "batch.",
    )
    _refuse_if(
        is_overridden("configure_gradient_clipping", module),
        f"{who}: {name} overrides configure_gradient_clipping, which would clip the gradient of the first evaluation "
        "only. Remove it and put ClipNorm or ClipValue into the chain.",
    )
    _refuse_if(
        trainer.strategy.handles_gradient_accumulation,
        f"{who}: {type(trainer.strategy).__name__} steps the optimizer itself; use another strategy.",
    )


def _loss(output: Any) -> Tensor | None:
    """The loss in what a training step returned."""
    if output is None:
        return None
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise MisconfigurationException(
            f"closure_step: fn must return the loss, a dict with it under 'loss', or None to skip the step; not "
            f"{output!r}."
        )
    return loss


def _detached(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {k: v.detach() if k == "loss" and isinstance(v, Tensor) else v for k, v in output.items()}
    return output if output is None else output.detach()
