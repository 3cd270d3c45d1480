"""Describe a module: what it does, its settings, the paper."""

from __future__ import annotations

import argparse

from ..catalogue import describe

NAME = "describe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("module", help="its name, such as Adam")


def run(args: argparse.Namespace) -> None:
    """Print the description."""
    print(describe(args.module))
