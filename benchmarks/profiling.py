"""Where the time of one step goes: ``python -m benchmarks profile --subjects "tz five modules" --sets small``."""

from __future__ import annotations

import cProfile
import io
import pstats
from pathlib import PurePath

import torch

from .measure import Runner, run_set
from .memory import copy_bandwidth
from .stats import spread
from .subjects import SETS, Subject, parameters
from .units import Table, human, markdown

ROWS = 14


def explain(subject: Subject, where: str, device: torch.device, seconds: float = 2.0) -> str:
    """A text with the split of a step, the kernels, and the Python functions.

    Args:
        subject: whose step it is.
        where: the set.
        device: where it runs.
        seconds: time for the timing.

    Returns:
        Four sections. The overhead is the time of a step on as many tensors of one element each.
    """
    shapes = SETS[where]()
    numel = sum(torch.Size(s).numel() for s in shapes)
    bandwidth = copy_bandwidth(device)
    times = []
    for shape in (shapes, [(1,) * len(s) for s in shapes]):
        result = run_set([subject], parameters(shape, device), seconds / 2, (3, 40), memory=False)
        if not result.timings:
            raise RuntimeError(result.notes[0])
        times.append(spread(result.timings[0].main).middle)
    step, overhead = times[0], min(times)
    least = subject.traffic * numel / bandwidth
    rows: Table = [
        ("part", "time", "share"),
        ("a step", human(step), "100%"),
        ("overhead: what remains with one element a tensor", human(overhead), f"{overhead / step:.0%}"),
        ("arithmetic and memory: what grows with the elements", human(step - overhead), f"{1 - overhead / step:.0%}"),
        (f"least traffic ({subject.traffic} B / parameter at copy bandwidth)", human(least), f"{least / step:.0%}"),
    ]
    runner = Runner(subject, parameters(shapes, device))
    runner.start()
    runner.calibrate()
    steps = runner.timing.steps
    with runner.gradients():
        kernels = _kernels(runner, steps)
        functions = _functions(runner, steps)
    return "\n\n".join(
        [
            f"{subject.name} on {where}: {len(shapes)} tensors, {numel:,} parameters",
            markdown(rows),
            f"torch's own operations, {steps} steps (generated C is called past torch and does not appear):",
            kernels,
            f"Python functions by their own time, {steps} steps (with the kernels that they call directly):",
            functions,
        ]
    )


def _kernels(runner: Runner, steps: int) -> str:
    """The table of torch's profiler."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, *([activity.CUDA] if runner.device.type == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(steps):
            runner.step()
    key = "self_device_time_total" if runner.device.type == "cuda" else "self_cpu_time_total"
    found = sorted(profile.key_averages(), key=lambda event: -getattr(event, key))[:ROWS]
    rows: Table = [("operation", "calls / step", "own time / step")]
    rows += [(e.key, f"{e.count / steps:.1f}", human(getattr(e, key) / 1e6 / steps)) for e in found]
    return markdown(rows)


def _functions(runner: Runner, steps: int) -> str:
    """The table of cProfile, without directories."""
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(steps):
        runner.step()
    profile.disable()
    stats = pstats.Stats(profile, stream=io.StringIO())
    found = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:ROWS]  # type: ignore[attr-defined]
    rows: Table = [("function", "calls / step", "own time / step", "with what it calls")]
    for (file, line, name), (_, count, own, total, _) in found:
        place = f"{PurePath(file).name}:{line} " if line else ""
        rows.append((place + name, f"{count / steps:.1f}", human(own / steps), human(total / steps)))
    return markdown(rows)
