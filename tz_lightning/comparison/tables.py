"""The table of a comparison: by rich where that is installed and the output is a terminal, plain elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from .outcome import Summary
from .progress import number


def heads(monitor: str | None) -> list[str]:
    """The heads of the columns.

    Args:
        monitor: what decides; None for the training loss.
    """
    return ["optimizer", "lr", monitor or "training loss", "±", "steps", "evaluations", "seconds", ""]


def rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """A row of words for each optimizer.

    Args:
        summaries: the optimizers, the best first.
    """
    return [
        [
            s.rival,
            "own" if s.lr is None else f"{s.lr:.3g}",
            number(s.value),
            number(s.spread) if len(s.runs) > 1 and s.value is not None else "",
            f"{s.mean('steps'):.0f}",
            f"{s.mean('evaluations'):.0f}",
            f"{s.mean('seconds'):.1f}",
            s.note,
        ]
        for s in summaries
    ]


def plain(summaries: Sequence[Summary], monitor: str | None) -> str:
    """The table as text.

    Args:
        summaries: the optimizers, the best first.
        monitor: what decides.
    """
    table = [heads(monitor), *rows(summaries)]
    width = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        padded = [cell.rjust(w) for cell, w in zip(row, width, strict=True)]
        lines.append("  ".join([row[0].ljust(width[0]), *padded[1:-1], row[-1]]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def show(summaries: Sequence[Summary], monitor: str | None) -> None:
    """Print it.

    Args:
        summaries: the optimizers, the best first.
        monitor: what decides.
    """
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        print(plain(summaries, monitor))
        return
    console, table, text = (importlib.import_module(f"rich.{name}") for name in ("console", "table", "text"))
    grid = table.Table()
    for i, head in enumerate(heads(monitor)):
        grid.add_column(head, justify="left" if i in (0, 7) else "right", no_wrap=i == 2)
    for i, row in enumerate(rows(summaries)):
        grid.add_row(*map(text.Text, row), style="bold" if i == 0 else None)
    console.Console().print(grid)
