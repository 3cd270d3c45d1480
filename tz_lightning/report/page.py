"""The page: one file with everything in it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from torchzero_core.core.packages import required

from .figures import CLOSURE, COLOURS, HEIGHT, LAYER, MODULE, OVERALL, RATE, Figure, sections
from .read import Run, read_runs


def write_report(folder: str | Path, file: str | Path | None = None) -> Path:
    """Draw what the runs in a folder have logged.

    The page works without a network, and nothing but the file is needed.

    Args:
        folder: where a ``CSVLogger`` or a ``TensorBoardLogger`` has written, or any folder above: then several runs
            lie over each other.
        file: where to write the page; ``report.html`` in the folder by default.

    Returns:
        Where it lies.

    Raises:
        ValueError: there is nothing to draw.
        ImportError: plotly is not installed.

    Example:
        >>> from tz_lightning.report import write_report
        >>> write_report("no such folder")
        Traceback (most recent call last):
        ValueError: there is no folder 'no such folder'
    """
    runs = read_runs(folder)
    script: str = required("plotly.offline", "report", "a report").get_plotlyjs()
    target = Path(folder) / "report.html" if file is None else Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(Path(folder).resolve().name, runs, script), encoding="utf-8")
    return target


def page(title: str, runs: Sequence[Run], script: str) -> str:
    """The text of a page.

    Args:
        title: of it.
        runs: what was logged.
        script: plotly's.
    """
    parts: list[str] = []
    figures: list[Figure] = []
    found = sections(runs)
    for name, group in found.items():
        cards = [_card(len(figures) + i, figure) for i, figure in enumerate(group)]
        figures += group
        parts.append(f'<section id="{_anchor(name)}"><h2>{html.escape(name)}</h2>\n<div class="grid">')
        parts += [*cards, "</div></section>"]
    filled = {
        "TITLE": html.escape(title),
        "NAV": " ".join(f'<a href="#{_anchor(name)}">{html.escape(name)}</a>' for name in found),
        "TABLE": _table(runs),
        "SECTIONS": "\n".join(parts),
        "FIGURES": _json([{"data": f.data, "layout": f.layout} for f in figures]),
        "PLOTLY": script,
    }
    text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # in one go, so that nothing that was filled in is looked at
    return re.sub(r"<!--([A-Z]+)-->", lambda match: filled[match[1]], text)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _json(value: object) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _card(number: int, figure: Figure) -> str:
    drawn = figure.layout.get("yaxis", {}).get("type")
    scale = (
        ""
        if drawn is None
        else f'<button data-scale="{number}" aria-pressed="{str(drawn == "log").lower()}">log</button>'
    )
    height = figure.layout.get("height", HEIGHT)
    return (
        f'<figure class="{"card wide" if figure.wide else "card"}"><figcaption>{html.escape(figure.title)}{scale}'
        f'</figcaption><div class="plot" id="figure-{number}" style="height:{height}px"></div></figure>'
    )


def _table(runs: Sequence[Run]) -> str:
    """Where each run ended: the last value and the best one of each metric of the user's."""
    known = [MODULE, LAYER, OVERALL, CLOSURE, RATE]
    names = sorted({n for run in runs for n in run.series if not any(p.fullmatch(n) for p in known)})
    names += [n for n in ("evaluations_total", "failed_searches", "skipped_steps") if any(n in r.series for r in runs)]
    head = "".join(f"<th>{html.escape(word.replace('_', ' '))}</th>" for word in ("run", "steps", *names))
    rows = []
    for i, run in enumerate(runs):
        mark = f'<span class="mark" style="background:{COLOURS[i]}"></span>' if 1 < len(runs) <= len(COLOURS) else ""
        cells = [f"<th>{mark}{html.escape(run.name)}</th>", f"<td>{run.last_step + 1:,}</td>"]
        for name in names:
            series = run.series.get(name)
            cells.append(f"<td>{'–' if series is None else f'{series.values[-1]:.5g}'}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
