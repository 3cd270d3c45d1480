"""The command: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler, which counts bytes, reports each start

import torch

from . import report
from .measure import copy_bandwidth, run_set
from .scaling import study
from .starts import CACHES, starts
from .subjects import SETS, parameters, subjects


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Time chains beside their peers.")
    parser.add_argument("--sets", default="tiny,small,transformer", help="which sets of parameters, with commas")
    parser.add_argument("--only", default="", help="only subjects whose name contains one of these, with commas")
    parser.add_argument("--seconds", type=float, default=7.0, help="time for the rounds of a set (at least 5 rounds)")
    parser.add_argument("--quick", action="store_true", help="tiny and small, a second each: to see that it works")
    parser.add_argument("--no-scaling", action="store_true", help="leave out the study over sizes")
    parser.add_argument("--compile-peers", action="store_true", help="compile heavyball too (minutes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", type=Path, help="the report (benchmarks/RESULTS.md; on CUDA RESULTS-cuda.md)")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for, and write the report."""
    args = arguments()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    began = time.perf_counter()

    def log(line: str) -> None:
        print(f"[{time.perf_counter() - began:5.1f} s] {line}", flush=True)

    torch.optim.Adam(parameters([(1,)], device)).step()  # loads what torch loads late, which is nobody's first step
    wanted = [part for part in args.only.split(",") if part]
    chosen = [s for s in subjects(args.compile_peers) if not wanted or any(part in s.name for part in wanted)]
    sets = [name for name in args.sets.split(",") if not (args.quick and name == "transformer")]
    seconds = 1.0 if args.quick else args.seconds
    results = {}
    for name in sets:
        log(f"{name}: setting up")
        results[name] = run_set(chosen, parameters(SETS[name](), device), seconds, (5, 60), log=log)
    lines = {} if args.no_scaling else study(chosen, device, args.quick, log)
    first = starts(sets[-1:], device)
    log("first steps done")
    output = args.output or Path(__file__).parent / ("RESULTS-cuda.md" if device.type == "cuda" else "RESULTS.md")
    command = "python -m benchmarks " + " ".join(sys.argv[1:])
    report.write(output, device, results, lines, first, copy_bandwidth(device), command.strip())
    log(f"written to {output}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        # kernels are made afresh, so that the first steps are those of a new machine
        os.environ.update(dict.fromkeys(CACHES, cache))
        main()
