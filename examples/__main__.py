"""Run the examples of the gallery and write their pictures, their figures and the page: ``python -m examples``.

``python -m examples gan characters`` runs only these; the page keeps what it has of the others. Each runs in a process
of its own on one core, and the whole takes about six minutes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys

import torch

from examples.page import GALLERY, NAMES, keep, page
from examples.showing import Shown


def run(name: str) -> Shown:
    """Run one in this process, draw its picture and keep its figures.

    Args:
        name: of its module.
    """
    torch.set_num_threads(1)
    begin = sum(os.times()[:4])  # of this process and of those that it starts
    shown: Shown = importlib.import_module(f"examples.{name}").main()
    keep(name, shown, sum(os.times()[:4]) - begin)
    shown.picture(GALLERY / f"{name}.png")
    print(f"{name}: {shown.text()}", flush=True)
    return shown


def main() -> int:
    """Run those that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no example is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if args.here:
        for name in args.names:
            run(name)
        return 0
    failed = []
    for i, name in enumerate(args.names or NAMES):
        print(f"[{i + 1}/{len(args.names or NAMES)}] {name} …", file=sys.stderr, flush=True)
        failed += [name] * bool(
            subprocess.run([sys.executable, "-m", "examples", "--here", name], check=False).returncode
        )
    page()
    print("failed: " + ", ".join(failed) if failed else f"the page is {GALLERY.parent / 'guide' / 'gallery.md'}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
