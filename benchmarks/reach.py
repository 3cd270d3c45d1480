"""What the chains are meant to reach, and what they did reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .measure import Result, Timing, find
from .scaling import overhead
from .starts import Start
from .stats import Line
from .subjects import PLANS, ours
from .units import Table

COLD, WARM = 10.0, 3.0  # seconds of a compiled chain's first step
FORMS = {False: "eager", True: "compiled"}
ROUNDING = 0.01  # bytes for each parameter; numbers for each tensor are no temporaries to speak of


def verdict(value: float, limit: float) -> str:
    """The value beside its limit.

    Example:
        >>> verdict(0.9, 1.05), verdict(1.3, 1.05)
        ('0.90 ≤ 1.05 ✓', '**1.30 > 1.05 ✗**')
        >>> verdict(1.001, 1.0)  # more digits where two would look like the limit
        '**1.0010 > 1 ✗**'
    """
    text = f"{value:.2f}" if abs(value - limit) >= 0.005 or value == limit else f"{value:.4f}"
    return f"{text} ≤ {limit:g} ✓" if value <= limit else f"**{text} > {limit:g} ✗**"


def ratios(results: Mapping[str, Result]) -> Table:
    """Median ratios to the peer, for each chain and set."""
    rows: Table = [("chain", "form", "against", *results)]
    for names, plan in PLANS.items():
        for compiled, form in FORMS.items():
            row = []
            for where, result in results.items():
                timing = find(result.timings, ours(names, compiled))
                ratio = None if timing is None else timing.to_peer
                goal = None if timing is None else timing.subject.goal(where)
                row.append("–" if ratio is None or goal is None else verdict(ratio.middle, goal))
            rows.append((names, form, plan.peer, *row))
    return [row for row in rows if set(row[3:]) != {"–"}]


def memory(results: Mapping[str, Result]) -> Table:
    """Bytes for each parameter: temporaries of eager steps, workspace of compiled chains."""
    rows: Table = [("chain", "form", "bytes a parameter", *results)]
    for names, plan in PLANS.items():
        for compiled, form in FORMS.items():
            limit = plan.workspace if compiled else plan.temporary
            row = []
            for result in results.values():
                timing = find(result.timings, ours(names, compiled))
                row.append("–" if timing is None else verdict(_bytes(timing, compiled), limit))
            what = "temporary + workspace" if compiled else "temporary"
            rows.append((names, form, what, *row))
    return [row for row in rows if set(row[3:]) != {"–"}]


def _bytes(timing: Timing, compiled: bool) -> float:
    size = (timing.temporary + (timing.workspace if compiled else 0)) / timing.numel
    return round(size, 1) if size > ROUNDING else 0.0


def first(starts: Sequence[Start]) -> Table:
    """Seconds of first steps."""

    def cell(seconds: float | None, limit: float | None = None) -> str:
        if seconds is None:
            return "failed"
        return f"{seconds:.2f}" if limit is None else verdict(seconds, limit)

    rows: Table = [("set", "eager", "compiled, empty cache", "compiled, filled cache")]
    rows += [(s.where, cell(s.eager), cell(s.cold, COLD), cell(s.warm, WARM)) for s in starts]
    return rows


def scaling(lines: Mapping[str, Sequence[Line]]) -> Table:
    """Overhead for each number of tensors, and calls of the interpreter for each number of parameters."""
    tensors = lines.get("tensors") or [Line("")]
    rows: Table = [("chain", *(f"{n:,} tensors" for n in tensors[0].sizes), "calls, fewest to most parameters")]
    calls = {line.name: line.calls for line in lines.get("parameters", [])}
    for name, values in overhead(tensors).items():
        found = calls.get(name, [])
        if not found:
            text = "–"
        elif max(found) <= found[0]:
            text = f"{found[0]} to {found[-1]} ✓" if found[-1] != found[0] else f"{found[0]} ✓"
        else:
            text = f"**{found[0]:,} to {found[-1]:,} ✗**"
        rows.append((name, *(verdict(value, 1.0) for value in values), text))
    return rows
