"""Describe a module: what it does, its settings, the paper."""

from __future__ import annotations

import argparse

import torchzero_core as tz
from torchzero_core.core.near import same

from ..catalogue import describe
from ..mistakes import names_of

NAME = "describe"
#: Options of a training program that tell about classes that are no modules.
_ELSEWHERE = ("optimizer", "lr_scheduler", "trainer.callbacks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("module", help="its name, such as Adam")


def run(args: argparse.Namespace) -> None:
    """Print the description."""
    known = [*names_of("modules"), *tz.recipes.RECIPES, *tz.m.CHAINS]
    for option in _ELSEWHERE:
        if args.module in names_of(option) and same(args.module, known) is None:
            raise ValueError(
                f"{args.module} is no module; a program with ModularCLI tells: --{option}.help={args.module}"
            )
    print(describe(args.module))
