"""How the steps go that evaluate the loss themselves."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from torchzero_core.core import Modular, StepInfo

from .. import loop
from .hooks import Handles, check_interval, due, log, prefixes

#: Where a search stays because there is nothing left to gain.
AT_A_MINIMUM = ("converged", "zero slope")
#: What to try, by a word of the status.
ADVICE = {
    "not finite": "the loss or its gradient is not finite where the step starts: look at the data and at the scale of "
    "the loss, begin with smaller steps (init=...), or add tz_lightning.SkipNonFinite()",
    "descent": "the direction leads uphill: give the method damping, let the search go both ways (plus_minus or "
    "try_negative), or take the gradient itself for a while",
    "decrease": "the loss does not fall along the direction: it may be noisy (larger batches, accumulate_grad_batches, "
    "no dropout), the search may need more evaluations (maxiter=...), or the losses more digits (precision 64)",
    "too small": "the steps are too small for the dtype of the parameters: the training has converged as far as it "
    "can (tz_lightning.StopWhen), or needs more digits (precision 64)",
    "gradient": "no parameter has a gradient: is the loss computed from the parameters that the optimizer has",
}
OTHERWISE = "try larger batches, smaller first steps, or another method in front of the search"


class ClosureMonitor(Callback):
    """Logs how the steps go of chains that evaluate the loss themselves: searches, Newton methods, approximations.

    For the step that is logged: ``evaluations`` of the loss, ``step_size`` (of a line search the α, of a trust region
    the length of the step), ``loss_before``, ``loss_after`` (at the point that the search has accepted) and
    ``step_time`` in seconds; over all steps so far: ``evaluations_total`` and ``failed_searches``. What a chain does
    not have is not logged. ``evaluations`` and ``failed_searches`` are in the progress bar too. With several
    optimizers, names start with that of the optimizer as in :class:`~tz_lightning.UpdateNormMonitor`. Optimizers that
    need no closure are left alone.

    A search has failed where the parameters stay and it is not because the slope is zero. After ``patience`` failures
    in a row one warning says which they were and what to try.

    Args:
        every_n_steps: log every so many steps; None for the Trainer's ``log_every_n_steps``.
        patience: failed searches in a row until the warning; None for no warning.
        progress_bar: show the two numbers in the progress bar.

    Attributes:
        failures: how often each optimizer's searches have failed, by name of the optimizer and status.

    Raises:
        ValueError: an interval or a patience of less than one step.

    Example:
        >>> from tz_lightning import ClosureMonitor
        >>> ClosureMonitor(patience=0)
        Traceback (most recent call last):
        ValueError: ClosureMonitor(patience=0) must be at least 1.
    """

    def __init__(self, every_n_steps: int | None = None, patience: int | None = 5, progress_bar: bool = True) -> None:
        check_interval(type(self).__name__, every_n_steps)
        if patience is not None and patience < 1:
            raise ValueError(f"ClosureMonitor(patience={patience}) must be at least 1.")
        self.every_n_steps, self.patience, self.progress_bar = every_n_steps, patience, progress_bar
        self.failures: dict[str, Counter[str]] = {}
        self._evaluations: Counter[str] = Counter()
        self._warned = False
        self._watches: dict[int, _Watch] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Be there for the steps of optimizers that are new."""
        if [id(o) for o in trainer.optimizers if loop.evaluates_the_loss(o)] == list(self._watches):
            return
        self._remove()
        for optimizer, prefix in zip(trainer.optimizers, prefixes(trainer.optimizers), strict=True):
            if isinstance(optimizer, Modular) and loop.evaluates_the_loss(optimizer):
                self.failures.setdefault(prefix, Counter())
                self._watches[id(optimizer)] = _Watch(self, optimizer, prefix)

    def note(self, name: str, info: StepInfo, in_a_row: int) -> None:
        """A step was made.

        Args:
            name: of its optimizer.
            info: how it went.
            in_a_row: how many searches have failed in a row.
        """
        self._evaluations[name] += info.evaluations
        if in_a_row:
            self.failures[name][info.status] += 1
        if in_a_row == self.patience and not self._warned:
            self._warned = True
            advice = next((text for word, text in ADVICE.items() if word in info.status), OTHERWISE)
            of = f" of {name.rstrip('/')}" if name else ""
            rank_zero_warn(
                f"ClosureMonitor: the last {in_a_row} searches{of} have failed, the last one with the status "
                f"{info.status!r}, and the parameters stay where they are. What to try: {advice}."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the steps that were made in this batch."""
        found: dict[str, float] = {}
        logs = due(trainer, self.every_n_steps)
        for watch in self._watches.values():
            if watch.info is None:
                continue
            name, info = watch.prefix, watch.info
            failed = float(sum(self.failures[name].values()))
            bar = {f"{name}evaluations": float(info.evaluations), f"{name}failed_searches": failed}
            if self.progress_bar:
                pl_module.log_dict(bar, prog_bar=True, logger=False, on_step=True, on_epoch=False)
            if logs:
                found |= bar | {f"{name}evaluations_total": float(self._evaluations[name])}
                found |= {f"{name}{key}": value for key, value in watch.numbers(info).items()}
            watch.info = None
        log(trainer, found)

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        failures = {name: dict(counts) for name, counts in self.failures.items()}
        return {"evaluations": dict(self._evaluations), "failures": failures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._evaluations = Counter(state_dict["evaluations"])
        self.failures = {name: Counter(counts) for name, counts in state_dict["failures"].items()}

    def _remove(self) -> None:
        for watch in self._watches.values():
            watch.handles.remove()
        self._watches = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch no longer."""
        self._remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no longer."""
        self._remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_watches": {}}


class _Watch:
    """Follows the steps of one optimizer.

    Attributes:
        info: of the last step, until it is logged.
    """

    def __init__(self, monitor: ClosureMonitor, optimizer: Modular, prefix: str) -> None:
        self._monitor, self._optimizer, self.prefix = monitor, optimizer, prefix
        self.info: StepInfo | None = None
        self._in_a_row, self._began, self._seconds = 0, 0.0, 0.0
        self.handles = Handles()
        self.handles.around(optimizer, self._before, self._after)

    def _before(self) -> None:
        self._began = time.perf_counter()

    def _after(self) -> None:
        self._seconds = time.perf_counter() - self._began
        self.info = info = self._optimizer.last_step
        self._in_a_row = self._in_a_row + 1 if failed(info) else 0
        self._monitor.note(self.prefix, info, self._in_a_row)

    def numbers(self, info: StepInfo) -> dict[str, float]:
        """What is known of a step, beside its evaluations."""
        known = {
            "step_size": info.step_size,
            "loss_before": info.loss,
            "loss_after": info.accepted_loss,
            "step_time": self._seconds,
        }
        return {name: float(value) for name, value in known.items() if value is not None}


def failed(info: StepInfo) -> bool:
    """Whether a step has failed: the parameters stay, or nothing sensible was found.

    Args:
        info: how it went.

    Example:
        >>> failed(StepInfo(status="curvature condition not met", step_size=0.5))
        False
        >>> failed(StepInfo(status="no sufficient decrease", step_size=0.0))
        True
    """
    stays = info.step_size is None or float(info.step_size) == 0
    return info.status != "ok" and info.status not in AT_A_MINIMUM and stays
