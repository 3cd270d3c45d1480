"""Every elementwise module, compiled, beside a copy of as many bytes: ``python -m benchmarks.bandwidth``.

A step has to read parameters, gradients and states once and to write parameters and states once. The bytes of that come
from the plan of the compiled step, and the time beside that of copying, in turns, in one process, with one thread: the
share of the bandwidth that a module reaches is the median over the rounds.

A copy also fetches what it overwrites, which a step need not. So a step is compared with loops in place too, where a
core reads less in a second than it writes: from ``x.mul_(1)``, which reads one number for each that it writes, and
``x.add_(y)``, which reads two, follows what as many reads and writes as those of the step would take.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

import torchzero_core as tz
from torchzero_core.core.route import RuleStage
from torchzero_core.lang.graph import Place

from .report import REPORT, machine, put_section
from .stats import paired, spread
from .units import Table, human, markdown

REACH = 0.85


@dataclass
class Subject:
    """A module and the seconds of its steps.

    Attributes:
        name: of the module.
        optimizer: its chain is the module.
        numel: of the parameter.
        read: bytes that the last step had to read for an element.
        written: bytes that it had to write for an element.
        passes: over memory.
        seconds: of each round.
        copies: what a copy of as many bytes takes, in each round.
        loops: what a loop in place takes that reads and writes as much, in each round.
    """

    name: str
    optimizer: tz.Modular
    numel: int
    read: int = 0
    written: int = 0
    passes: int = 0
    seconds: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)

    def look(self) -> bool:
        """See what the last step had to move: they may differ. False if it was not compiled."""
        found = traffic(self.optimizer)
        if found is not None:
            self.read, self.written, self.passes = found
        return found is not None

    def take(self, copy: float, scale: float, add: float, step: float) -> None:
        """Enter a round.

        Args:
            copy: the seconds that copying took for each byte that is copied.
            scale: those of scaling in place.
            add: those of adding in place.
            step: the seconds of the step.
        """
        read = max(add - scale, scale / 4)  # a byte; noise must not make it free
        self.copies.append(copy / 2 * (self.read + self.written) * self.numel)
        self.loops.append((read * self.read + (scale - read) * self.written) * self.numel)
        self.seconds.append(step)


def traffic(optimizer: tz.Modular) -> tuple[int, int, int] | None:
    """The bytes an element that the last step had to read and to write, and its passes; None if it was not compiled.

    Args:
        optimizer: it has made a step.
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

    def bytes_of(storages: set[Any]) -> int:
        states = [s for s in storages if s.place is Place.STATE and s.at < 0]
        own = sum(bucket.states(s.rule, s.name)[0].element_size() for s in states)
        return own + size * (len(storages) - len(states))

    return bytes_of(read - apart), bytes_of(written - apart), len(program.plan.passes)


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
        subject = Subject(entry.id, optimizer, numel)
        if subject.look():
            out.append(subject)
    return out


def run(found: Sequence[Subject], rounds: int, numel: int) -> None:
    """Let all make a step a round, in shuffled order, each after copying.

    What is copied has not been touched since the round before, as what a step works on; else it could come from the
    cache.

    Args:
        found: the modules.
        rounds: how many.
        numel: of what is copied.
    """
    rng, (a, b, c, d, e) = random.Random(0), torch.ones(5, numel)
    for _ in range(rounds):
        for subject in rng.sample(list(found), len(found)):
            times = [time.process_time()]
            for work in (lambda: a.copy_(b), lambda: c.mul_(1.0), lambda: d.add_(e), subject.optimizer.step):
                work()
                times.append(time.process_time())
            copy, scale, add, step = (end - begun for begun, end in pairwise(times))
            subject.look()
            subject.take(copy / a.nbytes, scale / a.nbytes, add / a.nbytes, step)


def table(found: Sequence[Subject]) -> str:
    """The shares in Markdown, the smallest first."""
    rows: Table = [("module", "bytes read", "written", "passes", "step", "share of a loop's bandwidth", "of a copy's")]
    shares = [(paired(s.loops, s.seconds), paired(s.copies, s.seconds), s) for s in found]
    for loop, copy, s in sorted(shares, key=lambda row: row[0].middle):
        step = human(spread(s.seconds).middle)
        rows.append((s.name, str(s.read), str(s.written), str(s.passes), step, str(loop), str(copy)))
    loops = sum(loop.middle >= REACH for loop, _, _ in shares)
    copies = sum(copy.middle >= REACH for _, copy, _ in shares)
    return (
        f"{markdown(rows)}\n\nOf {len(shares)} modules {copies} reach {REACH:.0%} of the bandwidth of a copy, and "
        f"{loops} of that of a loop in place."
    )


def main(given: Sequence[str] | None = None) -> None:
    """Measure; print the table of the modules that were chosen, or write that of all into the report."""
    parser = argparse.ArgumentParser("python -m benchmarks.bandwidth", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="modules whose name contains this")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--numel", type=int, default=1 << 22, help="of the parameter")
    parser.add_argument("--batch", type=int, default=12, help="modules that are timed together, for memory")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen, found = entries(args.only), list[Subject]()
    for i in range(0, len(chosen), args.batch):
        part = subjects(chosen[i : i + args.batch], args.numel)
        run(part, args.rounds, args.numel)
        found += part
    text = "\n".join([*(f"- {fact}" for fact in machine(torch.device("cpu"))), "", table(found)])
    print(text) if args.only else put_section("Bandwidth", f"`python -m benchmarks.bandwidth`\n\n{text}", REPORT)


if __name__ == "__main__":
    main()
