"""How the time of a step grows with the number of tensors and of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .measure import quartiles, run_set
from .subjects import Subject, parameters

NAMES = [
    "torch Adam fused",
    "torch Adam foreach",
    "tz Adam + LR",
    "tz Adam + LR compiled",
    "tz five modules",
    "tz five modules compiled",
]
ELEMENTS = 100  # of each tensor, where their number grows
TENSORS = 10  # where the number of parameters grows


@dataclass
class Line:
    """Medians of one subject over sizes, and the line through them.

    Attributes:
        name: the subject.
        sizes: numbers of tensors, or of parameters.
        seconds: median time of a step for each size.
        slope: seconds for each further tensor or parameter.
        intercept: seconds of a step of nothing.
    """

    name: str
    sizes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    slope: float = 0.0
    intercept: float = 0.0

    def fit(self) -> None:
        """Least squares of relative errors, so that the small sizes weigh as much as the large ones."""
        x, y = np.array(self.sizes, dtype=float), np.array(self.seconds)
        rows = np.stack([x, np.ones_like(x)], axis=1) / y[:, None]
        (self.slope, self.intercept), *_ = np.linalg.lstsq(rows, np.ones_like(y), rcond=None)


def study(
    chosen: Sequence[Subject],
    device: torch.device,
    quick: bool,
    log: Callable[[str], None],
) -> dict[str, list[Line]]:
    """Time the subjects of NAMES over numbers of tensors and over numbers of parameters."""
    subjects = [subject for subject in chosen if subject.name in NAMES]
    top = 10**6 if quick else 10**8
    sizes = {
        "tensors": [n for n in (10, 30, 100, 300, 1000, 3000, 10_000) if n * 1000 <= top],
        "parameters": [n for n in (10**4, 10**5, 10**6, 10**7, 10**8) if n <= top],
    }
    lines: dict[str, list[Line]] = {}
    for axis, values in sizes.items():
        found = {subject.name: Line(subject.name) for subject in subjects}
        for n in values:
            shapes: list[tuple[int, ...]]
            shapes = [(ELEMENTS,)] * n if axis == "tensors" else [(n // TENSORS,)] * TENSORS
            timings, _ = run_set(subjects, parameters(shapes, device), 0.3 if quick else 1.2, (3, 9), memory=False)
            for timing in timings:
                found[timing.subject.name].sizes.append(n)
                found[timing.subject.name].seconds.append(quartiles(timing.main)[1])
        lines[axis] = [line for line in found.values() if len(line.sizes) >= 2]
        for line in lines[axis]:
            line.fit()
        log(f"scaling over {axis} done")
    return lines
