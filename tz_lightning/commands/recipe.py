"""Print the chain of a recipe as YAML, to be changed; without a name, list the recipes."""

from __future__ import annotations

import argparse

import torchzero_core as tz

from ..catalogue import chain_as_yaml, recipe_lines

NAME = "recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", nargs="?", help="its name, such as adamw")


def run(args: argparse.Namespace) -> None:
    """Print the chain."""
    print(chain_as_yaml(tz.recipes.get(args.recipe)()) if args.recipe is not None else "\n".join(recipe_lines()))
