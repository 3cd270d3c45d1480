"""Ending the training by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from torchzero_core.core.stopping import StoppingRule, as_rule

from . import compat


def loss_of(outputs: Any) -> torch.Tensor | None:
    """The loss in what a callback gets of a training step; None where there was none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, torch.Tensor) else None


class StopWhen(Callback):
    """Ends the training where a stopping rule says so, which is asked after each step of the optimizer.

    The loss is the one that ``training_step`` has returned. What the rule remembers is saved with checkpoints.

    Args:
        rule: the rule, such as ``tz.stopping.LossChange(1e-4, patience=100)``.

    Raises:
        ValueError: there are several optimizers.
        TypeError: ``rule`` is no stopping rule.

    Example:
        >>> import torchzero_core as tz
        >>> from tz_lightning import StopWhen
        >>> StopWhen(tz.stopping.MaxTime(3600) | tz.stopping.LossBelow(1e-3)).rule
        AnyOf(rules=[MaxTime(seconds=3600), LossBelow(value=0.001)])
    """

    def __init__(self, rule: StoppingRule) -> None:
        self.rule = as_rule(rule)
        self._resumed = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on from a checkpoint."""
        if len(trainer.optimizers) != 1:
            raise ValueError(f"StopWhen watches one optimizer, and there are {len(trainer.optimizers)}.")
        if not self._resumed:
            self.rule.reset()
        self._resumed = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the rule."""
        if compat.accumulates(trainer):
            return
        met = self.rule(trainer.optimizers[0], loss_of(outputs))
        if trainer.strategy.reduce_boolean_decision(met, all=False):
            trainer.should_stop = True
            rank_zero_info(f"StopWhen: {self.rule.message}")

    def state_dict(self) -> dict[str, Any]:
        """What the rule remembers."""
        return self.rule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what it remembered."""
        self.rule.load_state_dict(state_dict)
        self._resumed = True
