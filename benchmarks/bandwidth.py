"""Every elementwise module, compiled, beside a copy of as many bytes: ``python -m benchmarks.bandwidth``.

A step has to read parameters, gradients and states once and to write parameters and states once. The bytes of that come
from the plan of the compiled step, and the time beside that of copying, in turns, in one process, with one thread: the
share of the bandwidth that a module reaches is the median over the rounds.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import torchzero_core as tz
from torchzero_core.core.route import RuleStage
from torchzero_core.lang.graph import Place

from .report import machine
from .stats import paired, spread
from .units import Table, human, markdown

REACH = 0.85


@dataclass
class Subject:
    """A module and the seconds of its steps.

    Attributes:
        name: of the module.
        step: makes a step.
        bytes: an element has to be read and written.
        passes: over memory.
        numel: of the parameter.
        seconds: of each round.
    """

    name: str
    step: Callable[[], Any]
    bytes: int
    passes: int
    numel: int
    seconds: list[float] = field(default_factory=list)


def traffic(optimizer: tz.Modular, numel: int) -> tuple[int, int] | None:
    """The bytes an element that a compiled step moves at least, and its passes; None where not all of it is compiled.

    Args:
        optimizer: it has made a step.
        numel: of its parameter.
    """
    stages = optimizer.stages(optimizer.chain)
    if len(stages) != 1 or not isinstance(stages[0], RuleStage):
        return None
    (bucket,) = optimizer.all_params.derived[stages[0].segment].buckets
    program = bucket.program
    if program is None or not bucket.compilable or program.foreign:
        return None
    read = {s for here in program.plan.passes for s in here.reads.values()}
    written = {s for here in program.plan.passes for s, _ in here.writes}
    apart = {s for s in (*read, *written) if s.place in (Place.WORK, Place.RESULT)}
    if any(s.place is Place.RESULT for s in apart):
        return None
    size = bucket.data[0].element_size()
    moved = 0
    for storage in (*(read - apart), *(written - apart)):
        state = storage.place is Place.STATE and storage.at < 0
        moved += bucket.states(storage.rule, storage.name)[0].element_size() if state else size
    return moved, len(program.plan.passes)


def entries(only: str = "") -> list[Any]:
    """The elementwise modules of the registry of the tests.

    Args:
        only: a part of the name.
    """
    from tests.registry import ENTRIES

    return [e for e in ENTRIES if e.elementwise and e.compiles and not e.closure and only in e.id]


def subjects(chosen: Sequence[Any], numel: int) -> list[Subject]:
    """Modules, each as the whole chain of an optimizer, as far as all of it is compiled.

    Args:
        chosen: their entries in the registry.
        numel: of the parameter.
    """
    out = []
    for entry in chosen:
        p = torch.rand(numel).add_(0.5).requires_grad_()
        p.grad = torch.rand(numel).add_(0.5)
        optimizer = tz.Modular([p], entry.module(), compile=True, advice=False)
        for _ in range(3):
            optimizer.step()
        found = traffic(optimizer, numel)
        if found is not None:
            out.append(Subject(entry.id, optimizer.step, *found, numel))
    return out


def run(found: Sequence[Subject], rounds: int, numel: int) -> list[float]:
    """Let all make a step a round, in shuffled order, beside a copy; the seconds a byte of the copies.

    A copy is the quicker one of copying and of scaling in place, which need not fetch what they overwrite.

    Args:
        found: the modules.
        rounds: how many.
        numel: of what is copied.
    """
    rng, a, b, copies = random.Random(0), torch.ones(numel), torch.ones(numel), []
    for _ in range(rounds):
        quickest = float("inf")
        for copy in (lambda: a.copy_(b), lambda: a.mul_(1.0)):
            begun = time.process_time()
            copy()
            copy()
            quickest = min(quickest, (time.process_time() - begun) / (4 * a.nbytes))
        copies.append(quickest)
        for subject in rng.sample(list(found), len(found)):
            begun = time.process_time()
            subject.step()
            subject.seconds.append(time.process_time() - begun)
    return copies


Measured = tuple[Subject, Sequence[float]]


def table(found: Sequence[Measured]) -> str:
    """The shares in Markdown, the smallest first."""
    rows: Table = [("module", "bytes an element", "passes", "step", "share of the copy's bandwidth")]
    # the time that copying takes by the time of the step
    shares = [(paired([c * s.bytes * s.numel for c in copies], s.seconds), s) for s, copies in found]
    for share, s in sorted(shares, key=lambda pair: pair[0].middle):
        rows.append((s.name, str(s.bytes), str(s.passes), human(spread(s.seconds).middle), str(share)))
    reached = sum(share.middle >= REACH for share, _ in shares)
    return f"{markdown(rows)}\n\n{reached} of {len(shares)} reach {REACH:.0%}."


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.bandwidth", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="modules whose name contains this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--numel", type=int, default=1 << 22, help="of the parameter")
    parser.add_argument("--batch", type=int, default=12, help="modules that are timed together, for memory")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen, found = entries(args.only), list[Measured]()
    for i in range(0, len(chosen), args.batch):
        part = subjects(chosen[i : i + args.batch], args.numel)
        copies = run(part, args.rounds, args.numel)
        found += [(subject, copies) for subject in part]
    print("\n".join([*(f"- {fact}" for fact in machine(torch.device("cpu"))), "", table(found)]))


if __name__ == "__main__":
    main()
