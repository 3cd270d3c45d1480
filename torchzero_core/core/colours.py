"""What an optimizer shows of itself: in colours where a terminal has them and rich is installed, plain elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

#: What is written how; the later one counts.
STYLES = (
    (r"\b[A-Za-z_]\w*(?==)", "dim"),
    (r"(?<==)[^,;()\[\]{}\s]+", "cyan"),
    (r"^ *(?:[\w.]+: )?([A-Z]\w*)(?=\()", "bold"),
    (r"^ *group \d+:", "green"),
    (r"\[[^\[\]\n]*\d ?(?:B|KiB|MiB|GiB)[^\[\]\n]*\]$", "magenta"),
    (r"^state: .*", "magenta"),
)


class Shown(str):
    """A text that is printed in colours where a terminal has them; as a value it is the plain text."""

    __slots__ = ()

    def __str__(self) -> str:
        return for_terminal(str.__str__(self))

    def __format__(self, spec: str) -> str:
        return format(str.__str__(self), spec)

    def __rich__(self) -> Any:
        return coloured(str.__str__(self))


def coloured(text: str) -> Any:
    """The text as rich has it; without rich the text itself.

    Args:
        text: a tree or a summary.
    """
    if importlib.util.find_spec("rich") is None:
        return text
    out = importlib.import_module("rich.text").Text(text, no_wrap=True, overflow="ignore")
    for pattern, style in STYLES:
        out.highlight_regex(f"(?m){pattern}", style)
    return out


def for_terminal(text: str) -> str:
    """The text with the codes of its colours, where the output is a terminal and rich is installed.

    ``NO_COLOR`` and a terminal without colours are respected.

    Args:
        text: a tree or a summary.
    """
    if not _terminal() or importlib.util.find_spec("rich") is None:
        return text
    console = importlib.import_module("rich.console").Console(force_terminal=True)
    with console.capture() as capture:
        console.print(coloured(text), end="", soft_wrap=True)
    return str(capture.get())


def _terminal() -> bool:
    """Whether what is printed is read on a terminal that has colours."""
    try:
        return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # none, or a closed one
        return False


__all__ = ["Shown", "coloured", "for_terminal"]
