"""Print the chain of a recipe as YAML, to be changed; without a name, list the recipes."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable
from typing import Any

import torchzero_core as tz
from torchzero_core.core.near import did_you_mean

from ..catalogue import chain_as_yaml, recipes_said
from ..cli import load_yaml

NAME = "recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", nargs="?", help="its name, such as adamw")
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="what it takes, such as lr=3e-4")


def run(args: argparse.Namespace) -> None:
    """Print the chain."""
    if args.recipe is None:
        print(recipes_said())
        return
    recipe = tz.recipes.get(args.recipe)
    takes = list(inspect.signature(recipe).parameters)
    print(chain_as_yaml(recipe(**_settings(args.settings, recipe.__name__, takes))))


def _settings(words: Iterable[str], name: str, takes: list[str]) -> dict[str, Any]:
    """The settings that words such as ``lr=3e-4`` give a recipe."""
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} sets nothing; settings are written {takes[0]}=VALUE.")
        if key not in takes:
            hint = did_you_mean(key, takes) or f" It takes {', '.join(takes)}."
            raise ValueError(f"{name} has no setting {key!r}.{hint}")
        given[key] = load_yaml(value)
    return given
