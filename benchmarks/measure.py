"""How it is timed: shuffled rounds in one process, medians, ratios within a round; and memory from the allocator."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .subjects import REFERENCE, Subject

SAMPLE_SECONDS = 0.02  # one sample takes as many steps as fit, at least one
MAX_STEPS = 400


@dataclass
class Timing:
    """What was measured of one subject on one set.

    Attributes:
        subject: whom it is about.
        tensors: the number of tensors.
        numel: the number of parameters.
        first: seconds that construction and first step took (wall time).
        cpu: seconds of processor time of a step, one value a round; on CUDA, what it takes to launch the step.
        wall: seconds of wall time of a step, one value a round.
        main: what ratios are made of: processor time on the CPU, time between two events on CUDA.
        temporary: bytes that a step allocates at most at one time, beyond those that stay.
        state: bytes of the tensors in the optimizer's state.
        workspace: bytes that the optimizer holds besides its state.
    """

    subject: Subject
    tensors: int
    numel: int
    first: float = 0.0
    steps: int = 1
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    main: list[float] = field(default_factory=list)
    temporary: int = 0
    state: int = 0
    workspace: int = 0


class Runner:
    """One subject with its parameters."""

    def __init__(self, subject: Subject, params: list[Tensor]) -> None:
        self.subject, self.params, self.device = subject, params, params[0].device
        self.shared = [p.grad for p in params]
        self.grads = self.shared
        if subject.gradients == "changed":
            self.grads = [torch.zeros_like(p) for p in params]  # zeros stay zeros, whatever share of them is added
        self.timing = Timing(subject, len(params), sum(p.numel() for p in params))

    def start(self) -> None:
        """Construct the optimizer and take its first step."""
        with self.gradients():
            synchronize(self.device)
            start = time.perf_counter()
            self.optimizer = self.subject.build(self.params)
            self.step()
            synchronize(self.device)
            self.timing.first = time.perf_counter() - start

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Within it the parameters have this subject's gradients, after it the shared ones again."""
        try:
            self._give(self.grads)
            yield
        finally:
            self._give(self.shared)

    def _give(self, grads: Sequence[Tensor | None]) -> None:
        for p, g in zip(self.params, grads, strict=True):
            p.grad = g

    def step(self) -> None:
        """Take one step; gradients that it takes away are put back."""
        self.optimizer.step()
        if self.subject.gradients == "taken":
            self._give(self.grads)

    def sample(self, steps: int) -> tuple[float, float, float]:
        """Seconds of a step: processor, wall, and the one that counts on this device."""
        for _ in range(min(steps - 1, 2)):
            self.step()  # a set that fits the caches is in them, as in a loop of its own
        synchronize(self.device)
        cuda = self.device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
        wall, cpu = time.perf_counter(), time.process_time()
        for event in events[:1]:
            event.record()
        for _ in range(steps):
            self.step()
        for event in events[1:]:
            event.record()
        cpu = time.process_time() - cpu
        synchronize(self.device)
        wall = time.perf_counter() - wall
        main = events[0].elapsed_time(events[1]) / 1e3 if cuda else cpu
        return cpu / steps, wall / steps, main / steps

    def calibrate(self) -> None:
        """Choose the number of steps of a sample."""
        with self.gradients():
            seconds = self.sample(1)[1]
            if seconds < SAMPLE_SECONDS:  # the second step may still prepare something
                seconds = min(self.sample(1)[1] for _ in range(3))
        self.timing.steps = max(1, min(MAX_STEPS, int(SAMPLE_SECONDS / max(seconds, 1e-9))))

    def record(self) -> None:
        """Take one sample and keep it."""
        with self.gradients():
            cpu, wall, main = self.sample(self.timing.steps)
        self.timing.cpu.append(cpu)
        self.timing.wall.append(wall)
        self.timing.main.append(main)


def measure_memory(timing: Timing, params: list[Tensor]) -> None:
    """Fill in the bytes, with an optimizer of its own: the allocator reports only what it saw from the beginning."""
    runner = Runner(timing.subject, params)
    _, held = allocations(runner.start, runner.device)
    with runner.gradients():
        peak, kept = allocations(runner.step, runner.device)
    timing.temporary = peak - kept
    timing.state = state_bytes(runner.optimizer)
    timing.workspace = max(0, held + kept - timing.state)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocations(run: Callable[[], None], device: torch.device) -> tuple[int, int]:
    """Bytes that ``run`` holds at most at one time beyond those held before, and bytes that are left of them."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before
    # the allocator reports to the profiler, so this sees what happens inside a kernel too
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        peak = max(peak, held)
    return peak, held


def state_bytes(optimizer: Any) -> int:
    """Bytes of all tensors in an optimizer's state, each storage counted once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(dict(optimizer.state))
    return sum(storages.values())


def run_set(
    chosen: Sequence[Subject],
    params: list[Tensor],
    seconds: float,
    rounds: tuple[int, int],
    memory: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[list[Timing], list[str]]:
    """Time the subjects on one set of parameters.

    Args:
        chosen: the subjects.
        params: the parameters, shared by all.
        seconds: when this much time is over, no further round begins.
        rounds: least and largest number of rounds.
        memory: measure the bytes too.
        log: is told what goes on.

    Returns:
        The timings, and a sentence for each subject that could not run.
    """
    runners, left_out = [], []
    for subject in chosen:
        runner = Runner(subject, params)
        try:
            runner.start()
            runner.calibrate()
            runners.append(runner)
        except Exception as error:  # a peer that breaks must not void the table
            left_out.append(
                f"{subject.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            log(f"left out {left_out[-1]}")
    order = random.Random(0)
    start = time.perf_counter()
    done = 0
    gc.collect()
    gc.disable()
    try:
        while done < rounds[0] or (done < rounds[1] and time.perf_counter() - start < seconds):
            for r in order.sample(runners, len(runners)):
                r.record()
            done += 1
    finally:
        gc.enable()
    log(f"{done} rounds of {len(runners)} subjects in {time.perf_counter() - start:.1f} s")
    if not all(bool(p.isfinite().all()) for p in params):
        raise RuntimeError("a parameter is no longer finite, so the timings may be those of a special case")
    timings = [runner.timing for runner in runners]
    del runners, runner
    for timing in timings if memory else []:
        measure_memory(timing, params)
    return timings, left_out


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(timing: Timing, other: Timing) -> tuple[float, float, float]:
    """Quartiles of the ratio to another subject, formed within each round, where both met the same machine."""
    return quartiles([a / b for a, b in zip(timing.main, other.main, strict=True)])


def find(timings: Sequence[Timing], name: str = REFERENCE) -> Timing | None:
    """The timing of the subject with this name."""
    return next((timing for timing in timings if timing.subject.name == name), None)


def copy_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes a second, read and written, of the fastest of copying and scaling in place; large tensors."""
    a, b = (torch.ones(megabytes * 2**18, device=device) for _ in range(2))
    best = 0.0
    for _ in range(7):
        for run in (lambda: a.copy_(b), lambda: a.mul_(1.0)):
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            best = max(best, 2 * a.nbytes / (time.perf_counter() - start))
    return best
