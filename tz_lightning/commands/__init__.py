"""The commands of ``python -m tz_lightning``.

A command is a module here with ``NAME``, a docstring whose first line says what it does, ``add_arguments(parser)`` for
its options and ``run(args)``, which prints. What a user got wrong it raises as a ValueError with a sentence, and
nothing else is shown of it. A line in ``COMMANDS`` registers it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from torchzero_core.core.near import did_you_mean

from . import compare, describe, list_modules, recipe, report


class Command(Protocol):
    """What a module of a command has."""

    NAME: str
    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the options of the command."""

    def run(self, args: argparse.Namespace, /) -> None:
        """Do it; what is wrong with the options is a ValueError."""


#: All of them, in the order of the help.
COMMANDS: tuple[Command, ...] = (
    list_modules,
    describe,
    recipe,
    report,
    compare,
)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def unknown(self, word: str) -> NoReturn:
        """Say of a word that is no option which one is near, or that it is one too many."""
        if not word.startswith("-"):
            self.error(f"{word!r} is one word too many.")
        name = word.partition("=")[0]
        self.error(f"there is no option {name!r}.{did_you_mean(name, self._option_string_actions, 1, 0.5)}")

    def error(self, message: str) -> NoReturn:
        """Print a sentence and exit with status 2."""
        message = message.replace("the following arguments are required:", "it needs")
        sys.stderr.write(f"{self.prog}: error: {message}\n({self.prog} --help lists the options)\n")
        sys.exit(2)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: the words after the program's name; those of the command line by default.

    Returns:
        The status to exit with.
    """
    parser = Parser(prog="python -m tz_lightning", description="What can be asked of chains of modules.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    parsers = {}
    for command in COMMANDS:
        text = (command.__doc__ or "").strip()
        own = commands.add_parser(command.NAME, help=text.splitlines()[0].rstrip("."), description=text)
        command.add_arguments(own)
        parsers[command.NAME] = own
    given = list(sys.argv[1:] if args is None else args)
    names = [command.NAME for command in COMMANDS]
    if given and not given[0].startswith("-") and given[0] not in names:
        near = difflib.get_close_matches(given[0], names, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}."
        parser.error(f"no command is called {given[0]!r}; {hint}")
    found, strange = parser.parse_known_args(given)
    if found.command is None:
        parser.print_help()
        return 0
    if strange:
        parsers[found.command].unknown(strange[0])
    (chosen,) = (command for command in COMMANDS if found.command == command.NAME)
    try:
        chosen.run(found)
        sys.stdout.flush()
    except ValueError as error:
        print(f"{parser.prog} {chosen.NAME}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


__all__ = ["COMMANDS", "Command", "main"]
