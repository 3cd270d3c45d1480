"""The command: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler, which counts bytes, reports each start

import torch

from .measure import Result, fits, groups, merge, run_set
from .memory import copy_bandwidth
from .profiling import explain
from .report import Report
from .scaling import study
from .starts import CACHES, starts
from .subjects import SETS, Subject, absent, parameters, subjects

Log = Callable[[str], None]
DESCRIPTION = """\
Time chains of modules beside their peers.

  python -m benchmarks            everything (under two minutes); writes RESULTS.md and its pictures
  python -m benchmarks sets       the table of each set of parameters only
  python -m benchmarks scaling    the time of a step over the number of tensors and of parameters only
  python -m benchmarks profile    where the time of a step goes, for each of --subjects and --sets

Anything but the first prints its report, unless --output names a folder.
"""
#: Sets of more parameters than this are timed in parts.
TOGETHER = 3 * 10**7
#: Seconds for the rounds of a set; the large one needs more for as many rounds.
SECONDS = {"tiny": 3.5, "small": 7.5, "transformer": 15.0}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Args:
        given: what was typed after the command's name; None takes it from the process.

    Returns:
        The options; ``sets`` and ``subjects`` are lists.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all", choices=["all", "sets", "scaling", "profile"])
    parser.add_argument("--sets", type=_list, default=list(SETS), metavar="A,B", help=f"of {', '.join(SETS)} (all)")
    parser.add_argument(
        "--subjects", type=_list, default=[], metavar="A,B", help="only those of this name, or whose name contains this"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="this many rounds a set, however long they take")
    parser.add_argument("--seconds", type=float, metavar="S", help="time for the rounds of a set (at least 3 rounds)")
    parser.add_argument("--top", type=float, default=1e8, metavar="N", help="scaling: most parameters (1e8)")
    parser.add_argument("--device", type=torch.device, default="cpu", metavar="D", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument("--compile-peers", action="store_true", help="compile heavyball too (minutes)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the report goes")
    args = parser.parse_args(given)
    if unknown := [name for name in args.sets if name not in SETS]:
        parser.error(f"there is no set {unknown[0]!r}; there are {', '.join(SETS)}")
    if args.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; leave out --device")
    args.full = args.what == "all" and args.sets == list(SETS) and not args.subjects and args.top == 1e8
    return args


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def command(args: argparse.Namespace) -> str:
    """What to type for the same run, without the place of its report."""
    words = ["python -m benchmarks"]
    words += [args.what] if args.what != "all" else []
    words += [f"--sets {','.join(args.sets)}"] if args.sets != list(SETS) else []
    words += [f'--subjects "{",".join(args.subjects)}"'] if args.subjects else []
    words += [f"--rounds {args.rounds}"] if args.rounds else []
    words += [f"--seconds {args.seconds:g}"] if args.seconds else []
    words += [f"--top {args.top:g}"] if args.top != 1e8 else []
    words += [f"--device {args.device}"] if args.device.type != "cpu" else []
    words += [f"--threads {args.threads}"] if args.threads != 1 else []
    words += ["--compile-peers"] if args.compile_peers else []
    return " ".join(words)


def choose(found: Sequence[Subject], wanted: Sequence[str]) -> list[Subject]:
    """The subjects asked for by a part of their name, or by all of it, which means no other."""
    names = {s.name for s in found}
    return [s for s in found if not wanted or any(s.name == w or (w not in names and w in s.name) for w in wanted)]


def measure_sets(args: argparse.Namespace, chosen: Sequence[Subject], log: Log) -> dict[str, Result]:
    """The table of each set."""
    results = {}
    for name in args.sets:
        shapes = SETS[name]()
        numel = sum(torch.Size(s).numel() for s in shapes)
        skipped = [] if args.subjects else [s.name for s in chosen if name in s.without]
        there = [s for s in chosen if s.name not in skipped]
        parts = groups(there) if numel > TOGETHER else [there]
        if not fits(numel, max(map(len, parts)), args.device):
            results[name] = Result(notes=["the set was left out, as it would not fit the memory that is free"])
            continue
        log(f"{name}: {numel:,} parameters")
        params = parameters(shapes, args.device)
        seconds = SECONDS[name] if args.seconds is None else args.seconds
        rounds = (args.rounds, args.rounds) if args.rounds else (3, 60)
        found = []
        for part in parts:
            share = len(part) / sum(map(len, parts))
            found.append(run_set(part, params, share * seconds, rounds, log=log))
        results[name] = merge(found, there)
        results[name].notes += [f"{s} takes too long here; ask for it by --subjects." for s in skipped]
    return results


def main(given: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, and write or print the report."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    began = time.perf_counter()

    def log(line: str) -> None:
        print(f"[{time.perf_counter() - began:5.1f} s] {line}", flush=True)

    torch.optim.Adam(parameters([(1,)], args.device)).step()  # loads what torch loads late: nobody's first step
    chosen = choose(subjects(args.compile_peers), args.subjects)
    if not chosen:
        names = ", ".join(s.name for s in subjects())
        raise SystemExit(f"no subject's name contains {' or '.join(args.subjects)}; there are: {names}")
    if args.what == "profile":
        for subject in chosen:
            for where in args.sets:
                print(explain(subject, where, args.device), end="\n\n")
        return
    report = Report(args.device, command(args), copy_bandwidth(args.device), notes=absent())
    if args.what in ("all", "sets"):
        report.results = measure_sets(args, chosen, log)
    if args.what in ("all", "scaling"):
        report.lines = study(chosen, args.device, int(args.top), 0.5 if args.seconds is None else args.seconds / 5, log)
    if args.what == "all":
        report.starts = starts(args.sets, args.device)
        log("first steps done")
    report.bandwidth = max(report.bandwidth, copy_bandwidth(args.device))
    if args.full or args.output:
        folder = args.output or Path(__file__).parent
        log(f"written to {report.write(folder).name}")
    else:
        print(report.text())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        # kernels are made afresh, so that the first steps are those of a new machine
        os.environ.update(dict.fromkeys(CACHES, cache))
        main()
