"""Draw what runs have logged: one page that works offline.

Reads the metrics.csv of a CSVLogger and the event files of a TensorBoardLogger in a folder and the folders in it; of
several runs the curves lie over each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..report import write_report

NAME = "report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("logdir", help="the folder with the logs, such as lightning_logs")
    parser.add_argument("--output", "-o", help="where to write the page; report.html in the folder by default")


def run(args: argparse.Namespace) -> None:
    """Write the page and say where it lies."""
    try:
        target = write_report(args.logdir, args.output)
    except (ImportError, OSError) as error:
        raise ValueError(str(error)) from error
    print(f"{target} ({Path(target).stat().st_size / 1e6:.1f} MB)")
