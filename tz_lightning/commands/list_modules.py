"""List the modules by family, one line each."""

from __future__ import annotations

import argparse

from ..catalogue import listing

NAME = "list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("family", nargs="?", help="one family alone, such as momentum")


def run(args: argparse.Namespace) -> None:
    """Print the list."""
    print(listing(args.family))
