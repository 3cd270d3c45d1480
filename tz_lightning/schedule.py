"""Schedules: of learning rates as YAML can spell them, and of any other setting."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchzero_core.core import Modular
from torchzero_core.core.groups import check_keys
from torchzero_core.core.near import did_you_mean
from torchzero_core.core.settings import BETAS

from . import compat
from .mistakes import raised_in


class WarmupCosine(LRScheduler):
    r"""A warm-up in a line, then half a cosine.

    .. math::

        lr_t = base·\left(s + (1-s)\frac{t}{w}\right) \text{ for } t < w,

        lr_t = base·\left(e + (1-e)\frac{1 + \cos(π\,\min(1, (t-w)/(T-w)))}{2}\right) \text{ then}

    Args:
        optimizer: the optimizer.
        warmup: how many steps of the scheduler w the learning rate rises for.
        total: after how many T it has reached its end, where it stays. None: at the end of the training, which
            ``ModularCLI`` finds out; elsewhere it has to be given.
        start_factor: s, what the learning rate begins at, as a share of the optimizer's.
        end_factor: e, what it ends at.
        last_epoch: how many steps were made, for a scheduler that goes on; -1 for none.

    Raises:
        ValueError: a warm-up that is longer than the whole.

    Example:
        >>> import torch
        >>> from tz_lightning.schedule import WarmupCosine
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler, rates = WarmupCosine(optimizer, warmup=2, total=6, start_factor=0.5), []
        >>> for _ in range(7):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int = 0,
        total: int | None = None,
        start_factor: float = 0.01,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if warmup < 0:
            raise ValueError(f"WarmupCosine(warmup={warmup}) must be at least 0.")
        for name, value in (("start_factor", start_factor), ("end_factor", end_factor)):
            if not 0 <= value < math.inf:
                raise ValueError(f"WarmupCosine({name}={value}) must be at least 0.")
        self.warmup, self.start_factor, self.end_factor = warmup, start_factor, end_factor
        self.total: int | None = None
        if total is not None:
            self.last(total)
        super().__init__(optimizer, last_epoch)

    def last(self, total: int) -> None:
        """Say after how many steps it ends.

        Args:
            total: the steps of the scheduler.
        """
        if total < 1 or total < self.warmup:
            raise ValueError(f"WarmupCosine(warmup={self.warmup}, total={total}): the warm-up must fit in the whole.")
        self.total = total

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by.

        Args:
            step: how many steps of the scheduler were made.
        """
        if step < self.warmup:
            return self.start_factor + (1 - self.start_factor) * step / self.warmup
        if step == 0:
            return 1.0
        if self.total is None:
            raise ValueError("WarmupCosine does not know when it ends: give it total, the number of its steps.")
        part = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * part)) / 2

    def get_lr(self) -> list[Any]:
        """The learning rates of now."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class Ramp(LRScheduler):
    """From one value to another, whatever the optimizer's own is; made for settings other than the learning rate.

    A group that has the value 0 keeps it, so that what has no weight decay has none later.

    Args:
        optimizer: the optimizer.
        end: the last value, where it stays.
        total: after how many steps of the scheduler it is reached.
        start: the first value; None for that of the optimizer.
        shape: whether it goes in a line or in half a cosine.
        last_epoch: how many steps were made, for a scheduler that goes on; -1 for none.

    Example:
        >>> import torch
        >>> from tz_lightning.schedule import Ramp
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> scheduler, values = Ramp(optimizer, end=0.9, total=4), []
        >>> for _ in range(6):
        ...     values.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> values
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.9]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        end: float,
        total: int,
        start: float | None = None,
        shape: Literal["linear", "cosine"] = "linear",
        last_epoch: int = -1,
    ) -> None:
        if total < 1:
            raise ValueError(f"Ramp(total={total}) must be at least 1.")
        self.end, self.total, self.start, self.shape = end, total, start, shape
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """The values of now."""
        part = min(1.0, self.last_epoch / self.total)
        if self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        starts = [base if self.start is None else self.start for base in self.base_lrs]
        return [
            base if base == 0 else start + (self.end - start) * part
            for base, start in zip(self.base_lrs, starts, strict=True)
        ]


class SequentialLR(lr_scheduler.SequentialLR):
    """torch's scheduler of this name, whose parts a configuration file can give.

    Args:
        optimizer: the optimizer.
        schedulers: functions that make the schedulers of an optimizer; in YAML their classes with ``init_args``.
        milestones: after how many steps the second one begins, the third, and so on.

    Raises:
        ValueError: another number of milestones.

    Example:
        >>> import torch
        >>> from torch.optim.lr_scheduler import ConstantLR, ExponentialLR
        >>> from tz_lightning.schedule import SequentialLR
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> parts = [lambda o: ConstantLR(o, 0.5, 2), lambda o: ExponentialLR(o, 0.1)]
        >>> scheduler, rates = SequentialLR(optimizer, parts, [2]), []
        >>> for _ in range(4):
        ...     rates.append(round(scheduler.get_last_lr()[0], 3))
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 0.5, 1.0, 0.1]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int], last_epoch: int = -1
    ) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR has {len(schedulers)} schedulers and {len(milestones)} milestones; it needs one "
                "milestone less than schedulers, the step at which each but the first begins."
            )
        if any(b <= a for a, b in zip([0, *milestones], milestones, strict=False)):
            raise ValueError(f"SequentialLR(milestones={milestones}) must rise.")
        super().__init__(optimizer, [_made(make, optimizer) for make in schedulers], milestones, last_epoch)


class ChainedScheduler(lr_scheduler.ChainedScheduler):
    """torch's scheduler of this name, which multiplies several, and whose parts a configuration file can give.

    Args:
        optimizer: the optimizer.
        schedulers: functions that make the schedulers of an optimizer; in YAML their classes with ``init_args``.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable]) -> None:
        super().__init__([_made(make, optimizer) for make in schedulers], optimizer)


def _made(make: Callable[[Optimizer], Any], optimizer: Optimizer) -> LRScheduler:
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau waits for a metric, so it cannot be a part of another scheduler.")
    return scheduler


class _Stage(Optimizer):
    """What a scheduler takes for an optimizer: its "lr" is a setting of another one.

    Args:
        optimizer: the other one.
        setting: the key of its groups.
        values: of the setting, for each group.
    """

    def __init__(self, optimizer: Optimizer, setting: str, values: Sequence[Any]) -> None:
        # The constructor of the base would refuse groups without parameters of their own.
        super().__setstate__({"defaults": {}, "state": {}, "param_groups": [{"params": [], "lr": v} for v in values]})
        self.actor, self.setting = optimizer, setting

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing; schedulers ask whether it was called."""

    def play(self) -> None:
        """Give the other optimizer the values that the scheduler has set."""
        for mine, theirs in zip(self.param_groups, self.actor.param_groups, strict=True):
            theirs[self.setting] = value = float(mine["lr"])
            place = BETAS.get(self.setting)
            if place is not None and "betas" in theirs:  # the same under torch's name, which monitors read
                theirs["betas"] = tuple(value if i == place else beta for i, beta in enumerate(theirs["betas"]))

    def kept(self) -> list[dict[str, Any]]:
        """What the scheduler keeps in the groups."""
        return [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]


class LRSchedulerCallback(Callback):
    """A scheduler for any setting of any module: weight decay, momentum, a clipping threshold, the learning rate too.

    Whatever schedules a learning rate schedules the setting: torch's schedulers, which multiply the value that a group
    has, and :class:`~tz_lightning.schedule.Ramp`, which goes from one value to another. Where it has come to is saved
    with checkpoints. The values are logged as ``schedule/SETTING``, with the name of the group behind it where there
    are several. Chains that need a closure are scheduled like others.

    Args:
        setting: its name ("weight_decay"), or for one of several modules its path ("Adam.beta1").
        scheduler: a function that makes the scheduler of an optimizer; in YAML its class with ``init_args``.
        interval: whether it steps with the optimizer or with the epochs.
        frequency: every how many of these.
        monitor: the metric for ``ReduceLROnPlateau``.
        optimizer: which optimizer, where there are several.
        log: whether values are logged.

    Raises:
        ValueError: an interval or frequency that is none.
        TypeError: a scheduler, or a class of them that needs more than the optimizer, in the place of the function.
        MisconfigurationException: as the training begins, a setting that no module of the chain has, with the nearest.

    Example:
        >>> from torch.optim.lr_scheduler import CosineAnnealingLR
        >>> from tz_lightning import LRSchedulerCallback
        >>> LRSchedulerCallback("weight_decay", lambda o: CosineAnnealingLR(o, T_max=1000)).setting
        'weight_decay'
    """

    def __init__(
        self,
        setting: str,
        scheduler: LRSchedulerCallable,
        interval: Literal["step", "epoch"] = "step",
        frequency: int = 1,
        monitor: str | None = None,
        optimizer: int = 0,
        log: bool = True,
    ) -> None:
        _check_maker(setting, scheduler)
        if interval not in ("step", "epoch"):
            raise ValueError(f"LRSchedulerCallback(interval={interval!r}) must be 'step' or 'epoch'.")
        if frequency < 1:
            raise ValueError(f"LRSchedulerCallback(frequency={frequency}) must be at least 1.")
        self.setting, self.make, self.interval, self.frequency = setting, scheduler, interval, frequency
        self.monitor, self.optimizer, self.log = monitor, optimizer, log
        self.scheduler: Any = None
        self._stage: _Stage | None = None
        self._count = 0
        self._saved: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        """Under what its state is saved: a callback for each setting."""
        return f"{type(self).__name__}[{self.setting}, {self.optimizer}]"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the scheduler, or go on with that of a checkpoint."""
        if self.optimizer >= len(trainer.optimizers):
            raise MisconfigurationException(
                f"LRSchedulerCallback(optimizer={self.optimizer}): there are {len(trainer.optimizers)}."
            )
        optimizer = trainer.optimizers[self.optimizer]
        try:
            values = values_of(optimizer, self.setting)
        except ValueError as error:
            raise MisconfigurationException(f"LRSchedulerCallback(setting={self.setting!r}): {error}") from None
        for group, value in zip(optimizer.param_groups, values, strict=True):
            group.setdefault(f"initial_{self.setting}", value)
        first = [group[f"initial_{self.setting}"] for group in optimizer.param_groups]
        self._stage, self._count = _Stage(optimizer, self.setting, first), 0
        self.scheduler = self._said(self.make, self._stage)
        if isinstance(self.scheduler, ReduceLROnPlateau) and self.monitor is None:
            self.monitor = getattr(self.scheduler, "monitor", None)
            if self.monitor is None:
                raise MisconfigurationException(
                    "LRSchedulerCallback: ReduceLROnPlateau needs monitor, a metric's name."
                )
        if self._saved is not None:
            self._count = self._saved["count"]
            self.scheduler.load_state_dict(self._saved["scheduler"])
            for group, kept in zip(self._stage.param_groups, self._saved["groups"], strict=True):
                group.update(kept)
            self._saved = None
        self._stage.play()

    def _said(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a scheduler, with the name of this callback before what torch refuses there."""
        try:
            return fn(*args)
        except ValueError as error:
            if not raised_in(error, "torch.optim.lr_scheduler"):
                raise
            text = str(error)
            if "`cycle_momentum` option" in text:
                text = "there is no momentum beside the one setting; give the scheduler cycle_momentum=False."
            raise MisconfigurationException(f"LRSchedulerCallback(setting={self.setting!r}): {text}") from error

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step with the optimizer, and log."""
        if compat.accumulates(trainer):
            return
        self._log(trainer)
        if self.interval == "step":
            self._advance(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step with the epochs."""
        if self.interval == "epoch":
            self._advance(trainer)

    def _advance(self, trainer: Trainer) -> None:
        assert self._stage is not None
        self._count += 1
        if self._count % self.frequency:
            return
        self._stage.step()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            metrics = trainer.callback_metrics
            if self.monitor not in metrics:
                near = did_you_mean(str(self.monitor), metrics) or f" There are {', '.join(metrics) or 'none'}."
                raise MisconfigurationException(
                    f"LRSchedulerCallback(monitor={self.monitor!r}): there is no such metric.{near}"
                )
            self._said(self.scheduler.step, metrics[self.monitor])
        else:
            self._said(self.scheduler.step)
        self._stage.play()

    def _log(self, trainer: Trainer) -> None:
        step = compat.logging_step(trainer)
        every = compat.log_every_n_steps(trainer)
        if not (self.log and trainer.loggers and every and (step + 1) % every == 0):
            return
        groups = trainer.optimizers[self.optimizer].param_groups
        labels = [""] if len(groups) == 1 else [f"/{g.get('name', f'pg{i + 1}')}" for i, g in enumerate(groups)]
        values = [float(group[self.setting]) for group in groups]
        found = {f"schedule/{self.setting}{label}": v for label, v in zip(labels, values, strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(found, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler has come to."""
        if self._stage is None:
            return self._saved or {}
        scheduler = {k: v for k, v in self.scheduler.state_dict().items() if not callable(v)}
        return {"count": self._count, "scheduler": scheduler, "groups": self._stage.kept()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there when the training begins."""
        self._saved = dict(state_dict) or None


def _check_maker(setting: Any, scheduler: Any) -> None:
    """Refuse what is no name of a setting, and what makes no scheduler of an optimizer."""
    if not isinstance(setting, str):
        raise TypeError(f"LRSchedulerCallback(setting=...) is the name of a setting, and not {setting!r}.")
    made = isinstance(scheduler, (LRScheduler, ReduceLROnPlateau))
    if made or not callable(scheduler) or not _takes_one(scheduler):
        kind = type(scheduler) if made or not isinstance(scheduler, type) else scheduler
        example = f"{kind.__name__}(optimizer, ...)" if issubclass(kind, LRScheduler) else "StepLR(optimizer, 10)"
        raise TypeError(
            "LRSchedulerCallback takes a function that makes a scheduler of an optimizer, lambda optimizer: "
            f"{example}, and not {'a ' if kind is not scheduler else ''}{kind.__name__}."
        )


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument; True where nobody knows."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # of C
        pass
    return True


def values_of(optimizer: Optimizer, setting: str) -> list[Any]:
    """The value that a setting has in each group.

    Args:
        optimizer: the optimizer.
        setting: its name, or its path for one of several modules.

    Raises:
        ValueError: there is no such setting, or several modules have it with other values.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> values_of(tz.Modular([p], tz.m.Adam(), tz.m.LR(0.1)), "beta1")
        [0.9]
    """
    groups = optimizer.param_groups
    if not isinstance(optimizer, Modular):
        unknown = [group for group in groups if setting not in group]
        if unknown:
            names = [name for name in unknown[0] if name != "params"]
            near = did_you_mean(setting, names) or f" It has {', '.join(names)}."
            raise ValueError(f"{type(optimizer).__name__} has no setting {setting!r}.{near}")
        return [group[setting] for group in groups]
    check_keys([setting], optimizer.unrolled_modules)
    found = []
    path, _, name = setting.rpartition(".")
    for group in groups:
        if setting in group:
            found.append(group[setting])
            continue
        end = f".{path}" if path else ""
        owners = [m for m in optimizer.unrolled_modules if name in m.defaults and f".{m.path}".endswith(end)]
        values = [m.settings[p][name] for m in owners for p in group["params"][:1]]
        if any(v != values[0] for v in values):
            paths = ", ".join(f"{m.path}.{name}" for m in owners)
            raise ValueError(f"Several modules have a setting {setting!r}, with other values; name one of {paths}.")
        if not values or not isinstance(values[0], (int, float)):
            raise ValueError(f"{setting!r} is {values[0] if values else None!r}, which no schedule can change.")
        found.append(values[0])
    return found


__all__ = ["ChainedScheduler", "LRSchedulerCallback", "Ramp", "SequentialLR", "WarmupCosine", "values_of"]
