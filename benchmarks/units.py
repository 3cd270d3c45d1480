"""How numbers and tables are written."""

from __future__ import annotations

from collections.abc import Sequence

Table = list[tuple[str, ...]]
UNITS = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps")]


def human(seconds: float) -> str:
    """A time with three digits and a unit.

    Example:
        >>> human(0.01234), human(5e-7), human(0.0)
        ('12.3 ms', '500 ns', '0 s')
    """
    for size, unit in UNITS:
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}" if abs(seconds) < 1000 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.3g} s"


def markdown(rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table whose first row is the head; the first ``texts`` columns are text, the others are numbers."""
    head, *body = rows
    rule = ["---" if i < texts else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def count(number: int) -> str:
    """A number of things, short.

    Example:
        >>> count(8_818), count(9_210_290), count(161)
        ('8.8 k', '9.2 M', '161')
    """
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number >= 100 * size else f"{number / size:.1f} {unit}"
    return str(number)
