"""Running a comparison."""

from __future__ import annotations

import functools
import logging
import math
import signal
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Optimizer

from torchzero_core.core import Modular
from torchzero_core.core.packages import required

from ..closure import ClosureOptimization
from .outcome import Outcome
from .plan import Plan, Rival, Search
from .progress import Progress

#: How many points of a curve are kept; each is the mean over as many steps.
POINTS = 300
#: Whatever stands in this part of a run counts for the training loss at its end, where batches differ.
TAIL = 0.1


class Recorder(Callback):
    """Notes what a run comes to, and ends it where its budget is used up.

    Args:
        outcome: where it is noted.
        plan: with the budget.
        progress: is told after each step.
    """

    def __init__(self, outcome: Outcome, plan: Plan, progress: Progress) -> None:
        self.outcome, self.plan, self.progress = outcome, plan, progress
        self._began = 0.0
        self._rows: list[list[float]] = []
        self._whole = False
        self._undo: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count evaluations from here on; every optimizer gets the same batches and the same dropout."""
        step = pl_module.training_step

        @functools.wraps(step)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.outcome.evaluations += 1
            return step(*args, **kwargs)

        pl_module.training_step = counted  # type: ignore[method-assign]
        self._undo = functools.partial(vars(pl_module).pop, "training_step", None)
        self._whole = trainer.num_training_batches == 1
        torch.manual_seed(self.outcome.seed)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss, and look at the budget."""
        out = self.outcome
        out.seconds += time.perf_counter() - self._began
        out.steps += 1
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self._rows.append([out.steps, out.evaluations, out.seconds, loss])
        if not math.isfinite(loss):
            out.status = "diverged"
            trainer.should_stop = True
        used = {"steps": out.steps, "evaluations": out.evaluations, "seconds": out.seconds}
        share = max(used[name] / limit for name, limit in self.plan.budget.items())
        if share >= 1:
            trainer.should_stop = True
        self.progress.step(min(share, 1.0), loss)
        self._began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation takes no time from the budget."""
        self.outcome.seconds += time.perf_counter() - self._began

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the value that decides."""
        out, monitor = self.outcome, self.plan.monitor
        if monitor is not None and monitor in trainer.callback_metrics and out.steps:
            value = float(trainer.callback_metrics[monitor])
            if not out.checks or out.checks[-1][0] != out.steps:
                out.checks.append([out.steps, out.evaluations, out.seconds, value])
        self._began = time.perf_counter()

    def close(self) -> None:
        """Give the model its own ``training_step`` back, and finish the outcome."""
        self._undo()
        rows, out = self._rows, self.outcome
        width = max(1, math.ceil(len(rows) / POINTS))
        parts = [rows[i : i + width] for i in range(0, len(rows), width)]
        out.curve = [[*part[-1][:3], statistics.fmean(row[3] for row in part)] for part in parts]
        if out.status != "ok":
            return
        if self.plan.monitor is not None:
            out.value = out.checks[-1][3] if out.checks else None
        elif rows:
            count = 1 if self._whole else max(1, round(TAIL * len(rows)))
            out.value = statistics.fmean(row[3] for row in rows[-count:])
        if out.value is not None and not math.isfinite(out.value):
            out.status, out.value = "diverged", None


def compare(plan: Plan, folder: Path, *, progress: Progress | None = None, retry: bool = False) -> Iterator[Outcome]:
    """Make all runs that have not been made yet, and give each as it ends.

    A run that has ended is a file in ``folder/runs``, and is not made again.

    Args:
        plan: what is compared.
        folder: where the runs are kept.
        progress: shows where it is.
        retry: make runs anew that have failed.
    """
    progress = progress or Progress(on=False)
    progress.begin(sum(len(plan.seeds) * _tries(rival) for rival in plan.rivals))
    for rival in plan.rivals:
        told: list[list[float | None]] = []
        for lr in _rates(plan, rival, told):
            told.append([])
            for seed in plan.seeds:
                outcome = _kept_or_run(plan, rival, lr, seed, folder, progress, retry=retry)
                told[-1].append(outcome.value if outcome.status == "ok" else None)
                yield outcome


def _tries(rival: Rival) -> int:
    if isinstance(rival.rates, Search):
        return rival.rates.trials
    return 1 if rival.rates is None else len(rival.rates)


def _rates(plan: Plan, rival: Rival, told: list[list[float | None]]) -> Iterator[float | None]:
    """The learning rates to try, one after the other.

    Args:
        plan: what is compared.
        rival: the optimizer.
        told: for each rate so far the values that it led to.
    """
    if isinstance(rival.rates, Search):
        return _searched(rival.rates, told, maximise=plan.maximise)
    return iter([None] if rival.rates is None else rival.rates)


def _searched(search: Search, told: list[list[float | None]], *, maximise: bool) -> Iterator[float]:
    """Those that Optuna's TPE chooses; the same ones again where the same values come back."""
    optuna = required("optuna", "optuna", "A search for the learning rate, lr: {low, high, trials},")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {"lr": optuna.distributions.FloatDistribution(search.low, search.high, log=True)}
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize" if maximise else "minimize", sampler=sampler)
    for _ in range(search.trials):
        trial = study.ask(space)
        yield trial.params["lr"]
        known = [value for value in told[-1] if value is not None]
        if len(known) < len(told[-1]):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, statistics.fmean(known))


def _kept_or_run(
    plan: Plan, rival: Rival, lr: float | None, seed: int, folder: Path, progress: Progress, *, retry: bool
) -> Outcome:
    path = folder / "runs" / f"{plan.key(rival, lr, seed)}.json"
    outcome = Outcome.load(path)
    if outcome is not None and not (retry and outcome.status == "failed"):
        progress.end(outcome, kept=True)
        return outcome
    outcome = Outcome(rival.name, lr, seed)
    progress.start(outcome)
    run(plan, rival, outcome, progress)
    outcome.save(path)
    progress.end(outcome, kept=False)
    return outcome


def run(plan: Plan, rival: Rival, outcome: Outcome, progress: Progress) -> None:
    """Make one run.

    Args:
        plan: with the problem and the budget.
        rival: the optimizer.
        outcome: says learning rate and seed, and is filled in.
        progress: is told after each step.
    """
    recorder = Recorder(outcome, plan, progress)
    try:
        with _quiet(), _interruptible():
            _train(plan, rival, outcome, recorder)
    except Exception as error:  # whatever a model or an optimizer may raise: the other runs go on
        outcome.status = "failed"
        lines = str(error).strip().splitlines()
        outcome.message = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    recorder.close()


def _train(plan: Plan, rival: Rival, outcome: Outcome, recorder: Recorder) -> None:
    seed_everything(outcome.seed, verbose=False)
    module, data = plan.problem()
    if not module.automatic_optimization:
        raise ValueError(f"{type(module).__name__} optimizes by hand, so its optimizer cannot be exchanged.")
    optimizer = _optimizer(rival, module, outcome.lr)
    scheduler = plan.scheduler(optimizer) if plan.scheduler is not None else None
    configured: Any = optimizer
    if scheduler is not None:
        configured = {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
    module.configure_optimizers = lambda: configured  # type: ignore[method-assign]
    trainer = Trainer(
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if plan.monitor is not None else 0,
        callbacks=[ClosureOptimization(), recorder],
        accelerator="auto",
        devices=1,
        val_check_interval=plan.check_every,
        check_val_every_n_epoch=1 if plan.check_every is None else None,
    )
    trainer.fit(module, datamodule=data)
    if plan.monitor is None or outcome.status != "ok":
        return
    if not outcome.checks or outcome.checks[-1][0] != outcome.steps:
        trainer.validate(module, datamodule=data, verbose=False)
    if not outcome.checks:
        known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "nothing"
        raise ValueError(f"monitor: {plan.monitor!r} is never logged in validation; logged is {known}.")


def _optimizer(rival: Rival, module: LightningModule, lr: float | None) -> Optimizer:
    optimizer = rival.make([p for p in module.parameters() if p.requires_grad])
    if isinstance(optimizer, Modular) and optimizer.model is None:
        optimizer.model = module
    if lr is not None:
        for group in optimizer.param_groups:
            group["lr"] = lr
    return optimizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning says at the start of each run."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.|torch\.")
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stays what it is: Lightning makes an exit of it, and ignores the next one."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
