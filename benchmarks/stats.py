"""Medians with their spread, ratios formed within rounds, and lines through points."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """A median between the 10th and the 90th percentile.

    Attributes:
        low: the 10th percentile.
        middle: the median.
        high: the 90th percentile.
    """

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f}–{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Median and percentiles, interpolated between the values.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        Spread(low=1.2, middle=2.0, high=2.8)
    """
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(tenths[0], statistics.median(values), tenths[-1])


def paired(values: Sequence[float], others: Sequence[float]) -> Spread:
    """Spread of the ratios of values that belong to the same round, where both met the same machine.

    Example:
        >>> paired([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]).middle
        3.0
    """
    return spread([a / b for a, b in zip(values, others, strict=True)])


@dataclass
class Line:
    """Times of one subject over sizes, and the line through them.

    Attributes:
        name: the subject.
        sizes: numbers of tensors, or of parameters.
        seconds: median time of a step for each size.
        calls: Python and C functions that the interpreter called in a step, for each size.
        slope: seconds for each further tensor or parameter.
        intercept: seconds of a step of nothing.

    Example:
        >>> line = Line("x", [10, 1000], [3.0, 102.0])
        >>> line.fit()
        >>> round(line.slope, 6), round(line.intercept, 6)
        (0.1, 2.0)
    """

    name: str
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    slope: float = 0.0
    intercept: float = 0.0

    def fit(self) -> None:
        """Least squares of relative errors, so that the small sizes weigh as much as the large ones."""
        x, y = np.array(self.sizes, dtype=float), np.array(self.seconds)
        rows = np.stack([x, np.ones_like(x)], axis=1) / y[:, None]
        # the sizes span decades: without a common scale of the columns the solver would drop one of them
        scale = np.linalg.norm(rows, axis=0)
        solution, *_ = np.linalg.lstsq(rows / scale, np.ones_like(y), rcond=None)
        self.slope, self.intercept = (float(v) for v in solution / scale)
