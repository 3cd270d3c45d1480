"""What a run has come to, kept as one file, and what all of them come to."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "diverged", "failed"]


@dataclass
class Outcome:
    """A run that has ended.

    Attributes:
        rival: the optimizer's name.
        lr: its learning rate; None for its own.
        seed: the seed.
        status: "ok", "diverged" where the loss was not finite, "failed" where an exception ended it.
        value: what the comparison decides by; None where there is none.
        message: why it failed.
        steps: how many steps were made.
        evaluations: how often ``training_step`` was evaluated.
        seconds: how long the training took, validation apart.
        curve: rows of steps, evaluations, seconds and the training loss.
        checks: rows of steps, evaluations, seconds and the monitored value, where one is monitored.
    """

    rival: str
    lr: float | None
    seed: int
    status: Status = "ok"
    value: float | None = None
    message: str = ""
    steps: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)
    checks: list[list[float]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it, all or nothing.

        Args:
            path: of the JSON file.
        """
        write(path, json.dumps(_finite(asdict(self)), allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> Outcome | None:
        """Read it; None where there is none that can be read.

        Args:
            path: of the JSON file.
        """
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def write(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all.

    Args:
        path: the file.
        text: what is in it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    """JSON has no infinity: None stands for it."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class Summary:
    """An optimizer at its best learning rate.

    Attributes:
        rival: its name.
        lr: the learning rate with the best mean; None for its own.
        value: the mean over the seeds; None where no learning rate has one for every seed.
        spread: the standard deviation over the seeds.
        runs: those at this learning rate.
        all_runs: those at every learning rate.
        edge: whether the best learning rate is the first or the last of several, so that a better one may lie beyond.
    """

    rival: str
    lr: float | None
    value: float | None
    spread: float
    runs: list[Outcome]
    all_runs: list[Outcome]
    edge: bool

    @property
    def note(self) -> str:
        """What to know beside the figure."""
        failed = [run for run in self.all_runs if run.status == "failed"]
        diverged = [run for run in self.all_runs if run.status == "diverged"]
        parts = []
        if failed:
            parts.append(f"{len(failed)} of {len(self.all_runs)} failed: {failed[0].message}")
        if diverged:
            parts.append(f"{len(diverged)} of {len(self.all_runs)} diverged")
        if self.edge:
            parts.append("best lr at the edge of the sweep")
        return "; ".join(parts)

    def mean(self, what: str) -> float:
        """The mean of a number over the runs at the best learning rate.

        Args:
            what: "steps", "evaluations" or "seconds".
        """
        return statistics.fmean(getattr(run, what) for run in self.runs)


def summarise(outcomes: Iterable[Outcome], *, maximise: bool = False) -> list[Summary]:
    """Each optimizer at its best learning rate, the best optimizer first.

    Args:
        outcomes: all runs.
        maximise: whether more is better.

    Example:
        >>> runs = [Outcome("A", 0.1, 0, value=2.0), Outcome("A", 0.2, 0, value=1.0), Outcome("B", None, 0, value=1.5)]
        >>> [(s.rival, s.lr, s.value) for s in summarise(runs)]
        [('A', 0.2, 1.0), ('B', None, 1.5)]
    """
    by_rival: dict[str, dict[float | None, list[Outcome]]] = {}
    for run in outcomes:
        by_rival.setdefault(run.rival, {}).setdefault(run.lr, []).append(run)
    sign = -1.0 if maximise else 1.0

    def rank(value: float | None) -> float:
        return math.inf if value is None else sign * value

    out = []
    for rival, rates in by_rival.items():
        means = {lr: _mean(runs) for lr, runs in rates.items()}
        lr = min(means, key=lambda lr: rank(means[lr]))
        tried = sorted(lr for lr in rates if lr is not None)
        edge = len(tried) > 2 and means[lr] is not None and lr in (tried[0], tried[-1])
        values = [run.value for run in rates[lr] if run.value is not None]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        everything = [run for runs in rates.values() for run in runs]
        out.append(Summary(rival, lr, means[lr], spread, rates[lr], everything, edge))
    return sorted(out, key=lambda summary: rank(summary.value))


def _mean(runs: list[Outcome]) -> float | None:
    """The mean value; None unless every seed has one."""
    values = [run.value for run in runs if run.status == "ok" and run.value is not None]
    return statistics.fmean(values) if values and len(values) == len(runs) else None
