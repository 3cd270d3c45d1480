"""This tree beside another checkout of it: ``python -m benchmarks.against PATH_OF_ANOTHER_TREE [--quick]``.

Both are loaded into one process, the other one under a name of its own, and the same chains of both are timed by turns:
a chain is built anew many times, in another order each time, since where its tensors happen to lie in memory makes more
difference than a change of code usually does.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler, which counts bytes, reports each start

import torch
from torch import Tensor

import torchzero_core

from .measure import Runner
from .memory import synchronize
from .report import machine
from .stats import paired, spread
from .subjects import CHAINS, SETS, Subject, parameters
from .units import Table, human, markdown

OTHER = "torchzero_core_of_the_other_tree"
CPU = torch.device("cpu")
#: Pairs of samples that are taken of one pair of builds.
SAMPLES = 5
#: Seconds for each set, and the sets of the quick version with theirs.
SECONDS = {"tiny": 60.0, "small": 150.0, "transformer": 300.0}
QUICK = {"tiny": 20.0, "small": 30.0}


def load(tree: Path) -> ModuleType:
    """The package of another checkout, under the name :data:`OTHER`.

    Args:
        tree: the folder that holds ``torchzero_core``.

    Raises:
        FileNotFoundError: there is none in it.
        ValueError: it is the tree that this runs from.
    """
    folder = tree.resolve() / "torchzero_core"
    if not (folder / "__init__.py").is_file():
        raise FileNotFoundError(f"{tree} is no checkout: it has no torchzero_core/__init__.py")
    if folder == Path(torchzero_core.__file__).parent:
        raise ValueError(f"{tree} is this very tree; name another checkout")
    for name in [name for name in sys.modules if name == OTHER or name.startswith(f"{OTHER}.")]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(
        OTHER, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = sys.modules[OTHER] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


class Searching:
    """An optimizer that needs a closure, as one that needs none: it minimises a problem of its own, which never ends.

    Each step draws on another of eight quadratics, so that the method has something to learn and never arrives. Both
    trees see the same ones.

    Args:
        build: makes the optimizer for a list of parameters.
        params: what its own parameters are copies of.
    """

    def __init__(self, build: Callable[[list[Tensor]], Any], params: list[Tensor]) -> None:
        self.params = [p.detach().clone().requires_grad_() for p in params]
        self.optimizer = build(self.params)
        self.batch = 0

    @property
    def state(self) -> Any:
        """The optimizer's state."""
        return self.optimizer.state

    def closure(self, backward: bool = True) -> Tensor:
        """The loss of this step's batch."""
        center, curvature = 0.1 * (self.batch % 8), 1.0 + 0.25 * (self.batch % 3)
        terms = [curvature * (p - center).square().sum() + 0.1 * (p - center).pow(4).sum() for p in self.params]
        loss = torch.stack(terms).sum()
        if backward:
            for p in self.params:
                p.grad = None
            loss.backward()
        return loss

    def step(self) -> None:
        """One step on the next batch."""
        self.batch += 1
        self.optimizer.step(self.closure)


def is_matrix(param: Tensor) -> bool:
    """What Muon is for."""
    return param.ndim >= 2


@dataclass(frozen=True)
class Contest:
    """A chain that both trees are to run.

    Attributes:
        name: what the table calls it.
        make: the modules, from ``tz.m``.
        forms: eager, compiled or both.
        sets: where it is timed.
        closure: whether it needs one.
    """

    name: str
    make: Callable[[Any], list[Any]]
    forms: tuple[str, ...] = ("eager", "compiled")
    sets: tuple[str, ...] = tuple(SETS)
    closure: bool = False

    def subject(self, package: ModuleType, form: str) -> Subject:
        """What is timed of one tree."""

        def optimizer(params: list[Tensor]) -> Any:
            return package.Modular(params, *self.make(package.m), compile=form == "compiled")

        def build(params: list[Tensor]) -> Any:
            return Searching(optimizer, params) if self.closure else optimizer(params)

        return Subject(f"{self.name} {form}", build, 0)


SMALL = ("tiny", "small")
CONTESTS: list[Contest] = [
    *(Contest(name, make) for name, make in CHAINS.items()),
    Contest("ClipNorm + Adam + LR", lambda m: [m.ClipNorm(1.0, dim="global"), m.Adam(), m.LR(1e-3)]),
    Contest("ClipNorm + Lion + LR", lambda m: [m.ClipNorm(1.0), m.Lion(), m.LR(1e-4)], sets=SMALL),
    Contest("Muon and Adam", lambda m: [m.Split(is_matrix, m.Muon(), m.Adam()), m.LR(1e-3)], sets=("tiny",)),
    Contest("LBFGS + StrongWolfe", lambda m: [m.LBFGS(), m.StrongWolfe()], ("eager",), ("tiny",), closure=True),
    Contest("NewtonCG + Backtracking", lambda m: [m.NewtonCG(), m.Backtracking()], ("eager",), ("tiny",), closure=True),
]


@dataclass
class Score:
    """What was measured of one contest in one form on one set: this tree first, the other second.

    Attributes:
        where: the set.
        contest: the chain.
        form: eager or compiled.
        seconds: of a step, one value a sample.
        calls: functions that the interpreter calls in a step.
        temporary: bytes that a step allocates at most at one time beyond those that stay.
        workspace: bytes that are kept besides the state.
        builds: how often it was built.
        steps: of one sample.
    """

    where: str
    contest: Contest
    form: str
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    calls: list[int] = field(default_factory=list)
    temporary: list[int] = field(default_factory=list)
    workspace: list[int] = field(default_factory=list)
    builds: int = 0
    steps: int = 0


def meet(score: Score, packages: Sequence[ModuleType], params: list[Tensor], rng: random.Random) -> None:
    """Build a chain of both trees and time them by turns.

    Args:
        score: where it is written down.
        packages: this tree's and the other's.
        params: the parameters, shared by both.
        rng: chooses the order.
    """
    runners = [Runner(score.contest.subject(package, score.form), params) for package in packages]
    first = not score.builds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compile=True says what it has no effect on
        for i in rng.sample(range(2), 2):
            runners[i].start_and_weigh() if first else runners[i].start()
        if first:
            score.calls = [r.timing.calls for r in runners]
            score.temporary = [r.timing.temporary for r in runners]
            score.workspace = [r.timing.workspace for r in runners]
            runners[0].calibrate()
            score.steps = runners[0].timing.steps
        for r in runners:
            r.timing.steps = score.steps
            r.record()  # what is still being prepared is not counted
            r.timing.main.clear()
        synchronize(params[0].device)
        gc.disable()
        try:
            for _ in range(SAMPLES):
                for i in rng.sample(range(2), 2):
                    runners[i].record()
        finally:
            gc.enable()
    for kept, r in zip(score.seconds, runners, strict=True):
        kept.extend(r.timing.main)
    score.builds += 1


def compare(
    packages: Sequence[ModuleType],
    contests: Sequence[Contest],
    seconds: dict[str, float],
    *,
    builds: tuple[int, int] = (3, 40),
    log: Callable[[str], None] = lambda line: None,
) -> list[Score]:
    """Let both trees run all contests.

    Args:
        packages: this tree's and the other's.
        contests: the chains.
        seconds: the sets, and when no further builds begin.
        builds: least and largest number of builds.
        log: is told what goes on.
    """
    rng, scores = random.Random(0), []
    for where, limit in seconds.items():
        params = parameters(SETS[where](), CPU)
        here = [Score(where, c, form) for c in contests if where in c.sets for form in c.forms]
        began, done = time.perf_counter(), 0
        while done < builds[0] or (done < builds[1] and time.perf_counter() - began < limit):
            for score in rng.sample(here, len(here)):
                meet(score, packages, params, rng)
                gc.collect()
            done += 1
        log(f"{where}: {done} builds of {len(here)} chains in {time.perf_counter() - began:.0f} s")
        scores += here
    return scores


def table(scores: Sequence[Score]) -> str:
    """The results in Markdown; bytes are a parameter."""
    rows: Table = [
        ("set", "chain", "form", "this tree", "other tree", "this / other", "calls", "temporaries B/p", "workspace B/p")
    ]
    for s in scores:
        ours, theirs = (human(spread(x).middle) for x in s.seconds)
        numel = sum(torch.Size(shape).numel() for shape in SETS[s.where]())
        calls = " / ".join(f"{n:,}" for n in s.calls)
        each = (" / ".join(f"{n / numel:.2f}" for n in pair) for pair in (s.temporary, s.workspace))
        rows.append((s.where, s.contest.name, s.form, ours, theirs, str(paired(*s.seconds)), calls, *each))
    return markdown(rows, 3)


def text(scores: Sequence[Score], tree: str) -> str:
    """The whole report."""
    builds = ", ".join(f"{w} {max(s.builds for s in scores if s.where == w)}" for w in {s.where: 0 for s in scores})
    facts = [*machine(CPU), f"This tree against {tree}; fresh builds of each chain: {builds}; {SAMPLES} samples each"]
    ratios = [paired(*s.seconds).middle for s in scores]
    return "\n\n".join(
        [
            "\n".join(f"- {fact}" for fact in facts),
            "Processor time of a step, median over all samples; ratios are formed of neighbouring samples, the table "
            "has their median and in brackets their 10th and 90th percentiles. Pairs: this tree / the other.",
            table(scores),
            f"Median of the ratios: {spread(ratios)}",
        ]
    )


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Args:
        given: what was typed after the command's name; None takes it from the process.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.against", description="This tree beside another checkout.")
    parser.add_argument("tree", type=Path, help="the folder of the other checkout")
    parser.add_argument("--quick", action="store_true", help="one minute: the sets tiny and small")
    parser.add_argument("--sets", default="", metavar="A,B", help=f"of {', '.join(SETS)}")
    parser.add_argument("--chains", default="", metavar="A,B", help="only those whose name contains one of these")
    parser.add_argument("--seconds", type=float, metavar="S", help="time for each set")
    args = parser.parse_args(given)
    args.seconds_of = dict(QUICK if args.quick else SECONDS)
    if args.sets:
        names = [name.strip() for name in args.sets.split(",")]
        if unknown := [name for name in names if name not in SETS]:
            parser.error(f"there is no set {unknown[0]!r}; there are {', '.join(SETS)}")
        args.seconds_of = {name: SECONDS[name] for name in names}
    if args.seconds is not None:
        args.seconds_of = dict.fromkeys(args.seconds_of, args.seconds)
    wanted = [part.strip() for part in args.chains.split(",") if part.strip()]
    args.contests = [c for c in CONTESTS if not wanted or any(part in c.name for part in wanted)]
    if not args.contests:
        parser.error(f"no chain's name contains {args.chains!r}; there are {', '.join(c.name for c in CONTESTS)}")
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Compare this tree with the one of the command line, and print the report."""
    args = arguments(given)
    torch.set_num_threads(1)
    packages = [torchzero_core, load(args.tree)]
    torch.optim.Adam(parameters([(1,)], CPU)).step()  # loads what torch loads late: nobody's first step
    fewest = 2 if args.quick or args.seconds is not None else 3
    scores = compare(
        packages, args.contests, args.seconds_of, builds=(fewest, 40), log=lambda line: print(line, flush=True)
    )
    print(text(scores, args.tree.name))


if __name__ == "__main__":
    main()
