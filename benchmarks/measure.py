"""How it is timed: shuffled rounds in one process, every subject once in each."""

from __future__ import annotations

import gc
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .memory import allocations, free, state_bytes, synchronize
from .stats import Spread, paired
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
        steps: steps of one sample.
        cpu: seconds of processor time of a step, one value a round; on CUDA, what it takes to launch the step.
        wall: seconds of wall time of a step, one value a round.
        main: what ratios are made of: processor time on the CPU, time between two events on CUDA.
        temporary: bytes that a step allocates at most at one time, beyond those that stay.
        state: bytes of the tensors in the optimizer's state.
        workspace: bytes that the optimizer holds besides its state.
        calls: Python and C functions that the interpreter called in a step.
        beside: the timings of the same rounds, this one too.
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
    calls: int = 0
    beside: list[Timing] = field(default_factory=list, repr=False)

    def ratio(self, name: str = REFERENCE) -> Spread | None:
        """Spread of the ratio to the subject of this name, if that was in the same rounds."""
        other = find(self.beside, name)
        return None if other is None else paired(self.main, other.main)

    @property
    def to_peer(self) -> Spread | None:
        """Spread of the ratio to the peer, if that was in the same rounds."""
        return self.ratio(self.subject.peer)


@dataclass
class Result:
    """What was measured on one set.

    Attributes:
        timings: one for each subject that ran.
        notes: a sentence for each subject that did not run, or not as its name says.
    """

    timings: list[Timing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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

    def start_and_weigh(self) -> None:
        """Start, take two more steps, and fill in bytes and calls."""
        _, held = allocations(self.start, self.device)
        with self.gradients():
            # some rules treat their first step specially, so the second may prepare something and the third is usual
            _, prepared = allocations(self.step, self.device)
            peak, kept = allocations(self.count_calls, self.device)
        timing = self.timing
        timing.temporary = peak - max(kept, 0)
        timing.state = state_bytes(self.optimizer)
        timing.workspace = max(0, held + prepared + kept - timing.state)

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
        """Choose the number of steps of a sample; a single slow step must not decide it."""
        with self.gradients():
            seconds = self.sample(1)[2]
            if seconds < 3 * SAMPLE_SECONDS:
                seconds = min(self.sample(1)[2] for _ in range(3))
        self.timing.steps = max(1, min(MAX_STEPS, int(SAMPLE_SECONDS / max(seconds, 1e-9))))

    def record(self) -> None:
        """Take one sample and keep it."""
        with self.gradients():
            cpu, wall, main = self.sample(self.timing.steps)
        self.timing.cpu.append(cpu)
        self.timing.wall.append(wall)
        self.timing.main.append(main)

    def count_calls(self) -> None:
        """Count what the interpreter calls in a step: unlike a time, it is the same on every machine."""
        count = 0

        def on_event(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        previous, collects = sys.getprofile(), gc.isenabled()
        gc.disable()  # what is collected meanwhile may call functions too
        sys.setprofile(on_event)
        try:
            self.step()
        finally:
            sys.setprofile(previous)
            if collects:
                gc.enable()
        self.timing.calls = count


def run_set(
    chosen: Sequence[Subject],
    params: list[Tensor],
    seconds: float,
    rounds: tuple[int, int],
    memory: bool = True,
    log: Callable[[str], None] = lambda line: None,
) -> Result:
    """Time the subjects on one set of parameters.

    Args:
        chosen: the subjects.
        params: the parameters, shared by all.
        seconds: when this much time is over, no further round begins.
        rounds: least and largest number of rounds.
        memory: measure the bytes too.
        log: is told what goes on.

    Returns:
        The timings, and what was left out.

    Raises:
        RuntimeError: a subject made a parameter infinite.
    """
    result = Result()
    runners: list[Runner] = []
    gc.collect()  # what an earlier set held is free again
    for subject in chosen:
        runner = Runner(subject, params)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if memory:
                    runner.start_and_weigh()
                else:
                    runner.start()
            runner.calibrate()
            if not memory:
                with runner.gradients():
                    runner.count_calls()
            runners.append(runner)
            lines = [line for line in (_line(w.message) for w in caught) if "compile" in line]
            result.notes += [f"{subject.name}: {line}" for line in dict.fromkeys(lines)]
        except Exception as error:  # a peer that breaks must not void the table
            result.notes.append(f"{subject.name} was left out: {type(error).__name__}: {_line(error)}")
    for note in result.notes:
        log(note)
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
    result.timings = [runner.timing for runner in runners]
    for timing in result.timings:
        timing.beside = result.timings
    return result


def groups(chosen: Sequence[Subject], most: int = 5) -> list[list[Subject]]:
    """Parts of the subjects that are to be timed together: ``most`` of them, their peer, and the reference.

    Fewer optimizers at a time need less memory, and what one part gives back the next one gets sooner than new memory.
    """
    found = []
    peers = dict.fromkeys(s.peer for s in chosen)
    for peer in peers:
        heads = [s for s in chosen if s.name in (REFERENCE, peer)]
        members = [s for s in chosen if s.peer == peer and s.name not in peers]
        found += [[*heads, *members[i : i + most]] for i in range(0, max(1, len(members)), most)]
    return [group for group in found if group]


def merge(results: Sequence[Result], order: Sequence[Subject]) -> Result:
    """One result of several parts; who was in more than one of them appears once."""
    merged = Result(notes=list(dict.fromkeys(note for result in results for note in result.notes)))
    for subject in order:
        timing = next((t for result in results if (t := find(result.timings, subject.name)) is not None), None)
        merged.timings += [] if timing is None else [timing]
    return merged


def _line(message: object) -> str:
    """The first line of an error or warning."""
    return next(iter(str(message).splitlines()), "")


def fits(numel: int, count: int, device: torch.device) -> bool:
    """Whether ``count`` optimizers of a set are likely to fit the memory that is free."""
    available = free(device)
    return not available or numel * 4 * (3 + 2.2 * count) < available


def find(timings: Sequence[Timing], name: str) -> Timing | None:
    """The timing of the subject with this name."""
    return next((timing for timing in timings if timing.subject.name == name), None)
