"""Where a comparison is: bars where rich is installed, a line that is written over, or a line for each run."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any, TextIO

from .outcome import Outcome


def number(value: float | None) -> str:
    """A figure as tables show it.

    Args:
        value: it, or None where there is none.

    Example:
        >>> number(0.00012345), number(12.345), number(None)
        ('1.234e-04', '12.35', '–')
    """
    if value is None:
        return "–"
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def title(outcome: Outcome) -> str:
    """What a run is called.

    Args:
        outcome: the run.
    """
    rate = "" if outcome.lr is None else f", lr {outcome.lr:.3g}"
    return f"{outcome.rival}{rate}, seed {outcome.seed}"


def ending(outcome: Outcome) -> str:
    """How it ended, in few words.

    Args:
        outcome: the run.
    """
    if outcome.status == "failed":
        return f"failed: {outcome.message}"
    if outcome.status == "diverged":
        return f"diverged after {outcome.steps} steps"
    return f"{number(outcome.value)} after {outcome.steps} steps, {outcome.seconds:.1f} s"


class Progress:
    """Shows where a comparison is, on a terminal in place and elsewhere a line for each run.

    Args:
        on: whether it shows anything.
        stream: where; the error output by default.
    """

    def __init__(self, *, on: bool = True, stream: TextIO | None = None) -> None:
        self._on, self._stream = on, stream or sys.stderr
        self._over = on and self._stream.isatty()
        self._total = self._done = 0
        self._next = 0.0
        self._label = ""
        self._bars: Any = None
        self._tasks: tuple[Any, Any] = (None, None)

    def begin(self, total: int) -> None:
        """Begin.

        Args:
            total: how many runs there are.
        """
        self._total = total
        if not self._over:
            return
        try:
            console, progress = importlib.import_module("rich.console"), importlib.import_module("rich.progress")
        except ImportError:
            return
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(file=self._stream),
            transient=True,
        )
        self._tasks = self._bars.add_task("all runs", total=total), self._bars.add_task("", total=1.0)
        self._bars.start()

    def start(self, outcome: Outcome) -> None:
        """A run begins.

        Args:
            outcome: the run.
        """
        self._label = title(outcome)

    def step(self, share: float, loss: float) -> None:
        """A step was made.

        Args:
            share: of the budget that is used up.
            loss: the loss.
        """
        now = time.monotonic()
        if not self._over or now < self._next:
            return
        self._next = now + 0.1
        if self._bars is not None:
            self._bars.update(self._tasks[1], description=f"{self._label}: {number(loss)}", completed=share)
            return
        text = f"run {self._done + 1} of {self._total}: {self._label}: {100 * share:.0f} %, loss {number(loss)}"
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()

    def end(self, outcome: Outcome, *, kept: bool) -> None:
        """A run has ended.

        Args:
            outcome: the run.
            kept: whether it was there already.
        """
        self._done += 1
        text = f"{self._done}/{self._total}  {title(outcome)}: {ending(outcome)}" + " (kept)" * kept
        if self._bars is not None:
            self._bars.update(self._tasks[0], completed=self._done)
            self._bars.console.print(text, markup=False, highlight=False)
        elif self._on:
            self._stream.write(("\r\x1b[K" if self._over else "") + text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
        elif self._over:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
