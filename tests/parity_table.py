"""Run the tests that compare with other implementations and write their figures: ``python -m tests.parity_table``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.parity import Figures, Recorder

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "parity.md"
HEAD = """# Parity

What the tests compare with something that others wrote, or with a closed form, and how far the two are apart: the
largest difference along whole trajectories, in float64, relative to what is expected where that is larger than 1. The
table is made from the figures of the tests themselves, by `python -m tests.parity_table`; `tests/test_parity_table.py`
says when it lacks a row.

Where a difference is above rounding, the two are not the same on purpose: torch's `clip_grad_norm_` adds 1e-6 to the
norm, and in the spellings of Adam with `EMASquared` ε stands inside the bias correction.

Not in the table: `SparseAdam`, since no module takes sparse gradients; torch's `LBFGS`, which a chain wraps bit for bit
while `LBFGS()` is a method of its own (see [](torch_optim.md)); and torch's `Muon` in bfloat16, in which it multiplies:
the row has both in float64.

"""


def rows_of(page: str) -> set[tuple[str, str]]:
    """The rows of the page: what is compared, and with what."""
    lines = re.findall(r"^\| (.+?) \| (.+?) \| [^|]* \| [^|]* \|$", page, re.MULTILINE)
    return {(a, b) for a, b in lines if a not in ("what", "---")}


def shown(value: float | None) -> str:
    """A difference in one digit."""
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def table(figures: Figures) -> str:
    """The figures in Markdown."""
    lines = ["| what | compared with | eager | compiled |", "| --- | --- | --- | --- |"]
    for what, reference in sorted({key[:2] for key in figures}, key=lambda row: (row[0].lower(), row[1])):
        both = [shown(figures.get((what, reference, way))) for way in ("eager", "compiled")]
        lines.append(f"| {what} | {reference} | {both[0]} | {both[1]} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page; the exit status of the tests."""
    recorder = Recorder()
    status = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "parity and not slow", "tests"], plugins=[recorder])
    if status == 0:
        PAGE.write_text(HEAD + table(recorder.figures))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
