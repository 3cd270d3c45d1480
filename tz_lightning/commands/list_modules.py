"""List the modules by family, or the recipes, one line each."""

from __future__ import annotations

import argparse

from torchzero_core.core.near import same

from ..catalogue import listing, recipes_said

NAME = "list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("family", nargs="?", help="one family alone, such as momentum, or recipes")


def run(args: argparse.Namespace) -> None:
    """Print the list."""
    if args.family is not None and same(args.family, ["recipes", "recipe"]):
        print(recipes_said())
        return
    print(listing(args.family))
    if args.family is None:
        print("\nRecipes, whole chains of well-known optimizers: python -m tz_lightning list recipes")
