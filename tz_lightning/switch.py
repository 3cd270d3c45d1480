"""From one optimizer to another within a fit."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from torchzero_core.core.stopping import StoppingRule, as_rule

from . import compat, loop
from .stop import loss_of

_MAKES = (
    "SwitchOptimizer takes a function that makes an optimizer of parameters, as in "
    "lambda params: tz.Modular(params, *tz.recipes.lbfgs())"
)


def _shown(value: Any) -> str:
    """What stands in the place of an optimizer, in short."""
    return repr(value) if value is None or isinstance(value, str) else f"a {type(value).__name__}"


class SwitchOptimizer(Callback):
    """Trains with the optimizer of ``configure_optimizers`` for some epochs or until it stalls, and then with another.

    The other one gets the same parameters. Its state is saved with checkpoints and loaded from them like that of the
    first; schedulers of the first end with it. Where the second one is a chain that evaluates the loss itself, the
    model is a :class:`~tz_lightning.ClosureModule`, or the Trainer has
    :class:`~tz_lightning.ClosureOptimization`, as always. (A chain that changes from one method to another,
    ``tz.m.SwitchWhen``, needs no callback, but is one optimizer with one closure from the beginning.)

    Args:
        optimizer: makes the second one from a list of parameters.
        epochs: after how many epochs; None for no matter how many.
        rule: a stopping rule, asked after each step with the loss that ``training_step`` returned; its answer counts at
            once. None for no rule.

    Raises:
        ValueError: neither ``epochs`` nor ``rule``; several optimizers.
        TypeError: ``optimizer`` is no function, or makes no optimizer.
        MisconfigurationException: the second optimizer evaluates the loss, and nothing runs its closure. It is made
            once before the first batch, and given up again, so that all of this is said then.

    Example:
        >>> import torchzero_core as tz
        >>> from tz_lightning import SwitchOptimizer
        >>> callback = SwitchOptimizer(
        ...     lambda params: tz.Modular(params, tz.m.LBFGS(), tz.m.StrongWolfe()),
        ...     epochs=50,
        ...     rule=tz.stopping.LossChange(1e-4, patience=20),
        ... )
        >>> callback.switched
        False
    """

    def __init__(
        self, optimizer: OptimizerCallable, epochs: int | None = None, rule: StoppingRule | None = None
    ) -> None:
        if epochs is None and rule is None:
            raise ValueError("SwitchOptimizer needs epochs or a rule, so that it knows when to switch.")
        if not callable(optimizer):
            raise TypeError(f"{_MAKES}, and not {_shown(optimizer)}.")
        if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0):
            raise ValueError(f"SwitchOptimizer(epochs={epochs!r}) must be a whole number from 0 on.")
        self.optimizer, self.epochs = optimizer, epochs
        self.rule = None if rule is None else as_rule(rule)
        self.switched = False
        self._resumed = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin; or, before its state is loaded, be where the checkpoint was."""
        if len(trainer.optimizers) != 1:
            raise ValueError(f"SwitchOptimizer replaces one optimizer, and there are {len(trainer.optimizers)}.")
        if not self._resumed:
            self.switched = False
            if self.rule is not None:
                self.rule.reset()
        if self.switched:
            self._switch(trainer)
        else:
            self._try(trainer, pl_module)
        self._resumed = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch where the epochs are over."""
        if not self.switched and self.epochs is not None and trainer.current_epoch >= self.epochs:
            self._switch(trainer)
            rank_zero_info(f"SwitchOptimizer: {type(trainer.optimizers[0]).__name__} after {self.epochs} epochs")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the rule."""
        if self.switched or self.rule is None or compat.accumulates(trainer):
            return
        met = self.rule(trainer.optimizers[0], loss_of(outputs))
        if trainer.strategy.reduce_boolean_decision(met, all=False):
            self._switch(trainer)
            rank_zero_info(f"SwitchOptimizer: {type(trainer.optimizers[0]).__name__}, {self.rule.message}")

    def _try(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse now what could not be right when it switches, and would end the training only then."""
        with torch.random.fork_rng(devices=[]):  # seeds are drawn anew where it switches
            made = self._made(trainer)
        if pl_module.automatic_optimization and loop.evaluates_the_loss(made):
            runs = trainer.fit_loop.epoch_loop.automatic_optimization
            if not isinstance(runs, loop.ClosureLoop):
                raise MisconfigurationException(
                    "SwitchOptimizer: the second optimizer evaluates the loss several times a step. Give the Trainer "
                    "the callback tz_lightning.ClosureOptimization(), or derive the model from "
                    "tz_lightning.ClosureModule."
                )
            runs.check(made)

    def _made(self, trainer: Trainer) -> Optimizer:
        made = self.optimizer([p for group in trainer.optimizers[0].param_groups for p in group["params"]])
        if not isinstance(made, Optimizer):
            raise TypeError(f"{_MAKES}, and this one has made {_shown(made)}.")
        return made

    def _switch(self, trainer: Trainer) -> None:
        trainer.optimizers = [self._made(trainer)]
        trainer.strategy.lr_scheduler_configs = []
        self.switched = True

    def state_dict(self) -> dict[str, Any]:
        """Whether it has switched, and what the rule remembers."""
        return {"switched": self.switched, "rule": None if self.rule is None else self.rule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.switched = state_dict["switched"]
        if self.rule is not None and state_dict["rule"] is not None:
            self.rule.load_state_dict(state_dict["rule"])
        self._resumed = True
