"""Compare optimizers on one problem, as a YAML file says, and write a report.

Every run that has ended is kept as a file: the same command goes on where it was interrupted, and does nothing twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..comparison import Outcome, Plan, compare, summarise
from ..comparison.outcome import write
from ..comparison.page import page
from ..comparison.progress import Progress
from ..comparison.tables import show

NAME = "compare"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", type=Path, help="the YAML file; examples/compare.yaml is one")
    parser.add_argument("--folder", type=Path, help="where runs and report go; runs/NAME OF THE FILE by default")
    parser.add_argument("--retry", action="store_true", help="make runs that have failed again")
    parser.add_argument("--no-html", action="store_true", help="no report, which needs plotly")


def run(args: argparse.Namespace) -> None:
    """Run what is missing, print the table, write the report."""
    plan = Plan.read(args.file)
    folder = args.folder or Path(plan.folder or Path("runs") / args.file.stem)
    progress, outcomes, interrupted = Progress(), [], False
    try:
        for outcome in compare(plan, folder, progress=progress, retry=args.retry):
            outcomes.append(outcome)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
    if interrupted:
        print(
            f"interrupted: {len(outcomes)} runs are kept in {folder}; the same command goes on there", file=sys.stderr
        )
        sys.exit(130)
    _report(plan, outcomes, folder, html=not args.no_html, source=args.file.read_text("utf-8"))


def _report(plan: Plan, outcomes: list[Outcome], folder: Path, *, html: bool, source: str) -> None:
    summaries = summarise(outcomes, maximise=plan.maximise)
    show(summaries, plan.monitor)
    if not html:
        return
    path = folder / "report.html"
    try:
        text = page(plan, summaries, source)
    except ImportError as error:
        print(f"\nno report: {error} Then the same command writes it from the runs that are kept.")
        return
    write(path, text)
    print(f"\nreport  {path}\nruns    {folder / 'runs'}")
