"""How the time of a step grows with the number of tensors and of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .measure import Timing, fits, run_set
from .stats import Line, spread
from .subjects import Subject, parameters

FOREACH = "torch Adam foreach"
NAMES = [
    "torch Adam fused",
    FOREACH,
    "tz Adam + LR",
    "tz Adam + LR compiled",
    "tz five modules",
    "tz five modules compiled",
]
ELEMENTS = 100  # of each tensor, where their number grows
TENSORS = 10  # where the number of parameters grows
ALONE = 3 * 10**7  # from this many parameters on, one optimizer at a time is held in memory


def study(
    chosen: Sequence[Subject],
    device: torch.device,
    top: int,
    seconds: float,
    log: Callable[[str], None],
) -> dict[str, list[Line]]:
    """Time the subjects of NAMES over numbers of tensors and over numbers of parameters.

    Args:
        chosen: the subjects; those not in NAMES are left out.
        device: where.
        top: the largest number of parameters; a hundredth of a hundredth of it is the largest number of tensors.
        seconds: time for the rounds of one size.
        log: is told what goes on.

    Returns:
        Lines for "tensors" and for "parameters".
    """
    subjects = [subject for subject in chosen if subject.name in NAMES]
    sizes = {
        "tensors": [n for n in (10, 30, 100, 300, 1000, 3000, 10_000) if n * 10_000 <= top],
        "parameters": [n for n in (10**4, 10**5, 10**6, 10**7, 10**8) if n <= top],
    }
    lines: dict[str, list[Line]] = {}
    for axis, values in sizes.items():
        found = {subject.name: Line(subject.name) for subject in subjects}
        for n in values:
            shapes: list[tuple[int, ...]]
            shapes = [(ELEMENTS,)] * n if axis == "tensors" else [(n // TENSORS,)] * TENSORS
            numel = sum(shape[0] for shape in shapes)
            if not fits(numel, 1 if numel >= ALONE else len(subjects), device):
                log(f"{n} {axis} would not fit the memory that is free")
                continue
            for timing in _timings(subjects, shapes, device, seconds):
                line = found[timing.subject.name]
                line.sizes.append(n)
                line.seconds.append(spread(timing.main).middle)
                line.calls.append(timing.calls)
        lines[axis] = [line for line in found.values() if len(line.sizes) >= 2]
        for line in lines[axis]:
            line.fit()
        log(f"scaling over {axis} done")
    return lines


def _timings(
    subjects: Sequence[Subject], shapes: list[tuple[int, ...]], device: torch.device, seconds: float
) -> list[Timing]:
    """All of them in the same rounds, or one after the other where they are large."""
    params = parameters(shapes, device)
    alone = sum(shape[0] for shape in shapes) >= ALONE
    groups = [[subject] for subject in subjects] if alone else [list(subjects)]
    rounds = (2, 2) if alone else (3, 15)
    return [t for group in groups for t in run_set(group, params, seconds, rounds, memory=False).timings]


def overhead(lines: Sequence[Line]) -> dict[str, list[float]]:
    """Time of a step as a multiple of torch's foreach form, for each number of tensors."""
    foreach = next((line for line in lines if line.name == FOREACH), None)
    if foreach is None:
        return {}
    return {
        line.name: [a / b for a, b in zip(line.seconds, foreach.seconds, strict=True)]
        for line in lines
        if line.name.startswith("tz ") and line.sizes == foreach.sizes
    }
