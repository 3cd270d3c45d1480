"""What an example of the gallery hands back: curves for its picture, and its figure beside a baseline's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Curve = tuple[Sequence[float], Sequence[float]]

#: One colour for the chains of this library in turn, and grays for what they are measured against.
COLOURS = ("#3b6fd4", "#d1495b", "#2a9d6f", "#8e5bc4", "#d98a1f")
GRAYS = ("#6b7280", "#a3a8b0")


@dataclass
class Shown:
    """The outcome of an example.

    Attributes:
        figure: what is compared, such as "loss after 500 steps".
        ours: a name and its figure for each chain of this library, the best one first.
        baselines: the same for what they are measured against.
        curves: points by name; those of the baselines are drawn gray.
        x: what stands on the horizontal axis.
        y: what stands on the vertical one.
        log: axes with a logarithmic scale, "", "x", "y" or "xy".
        digits: how the figures are written.
        draw: draws instead of the curves, onto a row of axes.
        panels: how many axes ``draw`` gets.
    """

    figure: str
    ours: dict[str, float]
    baselines: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    x: str = "step"
    y: str = "loss"
    log: str = "y"
    digits: str = ".2e"
    draw: Callable[..., None] | None = None
    panels: int = 1

    def picture(self, path: Path) -> Path:
        """Draw it.

        Args:
            path: of the PNG file.
        """
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        with plt.rc_context(style):
            wide = 6.4 if self.panels == 1 else 2.9 * self.panels
            figure, axes = plt.subplots(1, self.panels, figsize=(wide, 3.1), layout="constrained", squeeze=False)
            if self.draw is None:
                self._lines(axes[0][0])
            else:
                self.draw(*axes[0])
            figure.savefig(path, dpi=110, metadata={"Software": ""})
            plt.close(figure)
        return path

    def _lines(self, axes: Any) -> None:
        ours, grays = iter(COLOURS * 3), iter(GRAYS * 3)
        for name, (x, y) in self.curves.items():
            theirs = name in self.baselines
            style = {"lw": 1.4, "ls": "--" if theirs else "-", "zorder": 4 if theirs else 3}
            axes.plot(x, y, label=name, color=next(grays) if theirs else next(ours), **style)
        axes.set(xlabel=self.x, ylabel=self.y)
        for axis in self.log:
            axes.set(**{f"{axis}scale": "log"})
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)

    def text(self) -> str:
        """The figures, a line each."""
        rows = [*self.ours.items(), *self.baselines.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.figure, *(f"  {name:<{width}}  {value:{self.digits}}" for name, value in rows)])


def best(runs: dict[Any, float]) -> Any:
    """The setting with the lowest figure.

    Args:
        runs: figures by setting; one that is not a number counts as the worst.

    Example:
        >>> best({0.1: 3.0, 0.01: 2.0, 1.0: float("nan")})
        0.01
    """
    return min(runs, key=lambda setting: runs[setting] if runs[setting] == runs[setting] else float("inf"))


def smooth(values: Sequence[float], beta: float = 0.95) -> list[float]:
    """A running average, for curves of noisy losses.

    Args:
        values: the losses of the batches.
        beta: how much of the average stays at each step.
    """
    out: list[float] = []
    for value in values:
        out.append(value if not out else beta * out[-1] + (1 - beta) * value)
    return out


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning says at the start of each training."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def show(main: Callable[[], Shown]) -> None:
    """Run an example and print its figures; on one core, as those of the gallery.

    Args:
        main: of the example.
    """
    torch.set_num_threads(1)
    print(main().text())
