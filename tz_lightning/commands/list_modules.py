"""List the modules by family, one line each."""

from __future__ import annotations

import argparse

from ..catalogue import families, family_called, line_of

NAME = "list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("family", nargs="?", help="one family alone, such as momentum")


def run(args: argparse.Namespace) -> None:
    """Print the list."""
    chosen = families()
    if args.family is not None:
        name = family_called(args.family)
        chosen = {name: chosen[name]}
    width = max(len(module) for modules in chosen.values() for module in modules)
    for i, (family, modules) in enumerate(chosen.items()):
        print(f"{chr(10) * bool(i)}{family}")
        for module in modules:
            print(f"  {module:<{width}}  {line_of(module)}")
