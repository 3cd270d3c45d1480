"""The report of a comparison: one HTML file that needs nothing else, and no network."""

from __future__ import annotations

import html
import itertools
import math
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch

import torchzero_core as tz
from torchzero_core.core.packages import required

from .outcome import Outcome, Summary
from .plan import Plan
from .progress import number
from .tables import heads, rows

#: By optimizer in their order; they differ for the colour-blind too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3fbf", "#8c6d31")
#: Losses so many times larger than where runs begin are not drawn.
FAR = 10.0
#: So many points are left of a curve that is full of noise.
SMOOTH = 40
AXES = {"steps": 0, "evaluations": 1, "seconds": 2}

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6570; --line: #d9dee4; --back: #fff; --card: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --back: #14171b; --card: #1c2127 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto;
  max-width: 1280px; padding: 1.5rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p { color: var(--soft); margin: .2rem 0 } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--soft); font-weight: 500 }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
td:last-child { white-space: normal; color: var(--soft); min-width: 10rem }
tr.first td { font-weight: 600 }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1rem }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .5rem; min-width: 0;
  overflow: hidden }
.chart h3 { font-size: .95rem; font-weight: 500; margin: .2rem .5rem 0 }
tbody tr { cursor: pointer } tr.off { opacity: .35 }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; overflow-x: auto;
  font-size: 13px }
"""

#: The colours of text and grid follow the page's, and the table is the legend of all charts.
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = () => document.querySelectorAll(".plotly-graph-div");
function paint() {
  const ink = dark.matches ? "#c6ccd4" : "#3b434c", line = dark.matches ? "#343b44" : "#dfe3e8";
  for (const chart of charts()) {
    Plotly.relayout(chart, {"font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line});
    Plotly.Plots.resize(chart);
  }
}
addEventListener("load", paint);
dark.addEventListener("change", paint);
for (const row of document.querySelectorAll("tbody tr")) {
  row.addEventListener("click", () => {
    const shown = !row.classList.toggle("off");
    for (const chart of charts()) {
      const at = chart.data.flatMap((trace, i) => trace.name === row.dataset.name ? [i] : []);
      if (at.length) Plotly.restyle(chart, {visible: shown}, at);
    }
  });
}
"""


def page(plan: Plan, summaries: Sequence[Summary], source: str) -> str:
    """The report.

    Args:
        plan: what was compared.
        summaries: the optimizers, the best first.
        source: the YAML file.

    Raises:
        ImportError: plotly is not installed.
    """
    graphs = required("plotly.graph_objects", "report", "The report of a comparison")
    plotly = required("plotly.offline", "report", "The report of a comparison")
    charts = [_curves(graphs, plan, summaries, axis, losses=True) for axis in AXES]
    if plan.monitor is not None:
        charts += [_curves(graphs, plan, summaries, axis, losses=False) for axis in AXES]
    if any(len({run.lr for run in s.all_runs}) > 1 for s in summaries):
        charts.append(_rates(graphs, plan, summaries))
    shown = "".join(f'<div class="chart"><h3>{html.escape(title)}</h3>{_div(chart)}</div>' for title, chart in charts)
    budget = ", ".join(f"{value:g} {name}" for name, value in plan.budget.items())
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}"
    versions = (
        f"torchzero_core {tz.__version__}, torch {torch.__version__}, Lightning {lightning.__version__}, "
        f"Python {platform.python_version()}, {torch.get_num_threads()} thread(s)"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of {len(summaries)} optimizers</title><style>{STYLE}</style>
<script>{plotly.get_plotlyjs()}</script></head>
<body><h1>{html.escape(_problem(plan))}: {len(summaries)} optimizers</h1>
<p>{seeds} each, at most {budget} a run; each optimizer at its best learning rate.</p>
<div class="wide">{_table(plan, summaries)}</div>
<h2>Curves</h2><p>Means over the seeds, at the best learning rate. A click on a row of the table hides an optimizer.</p>
<div class="charts">{shown}</div>
<h2>The file</h2><pre>{html.escape(source.strip())}</pre><p>{versions}</p>
<script>{SCRIPT}</script></body></html>
"""


def _problem(plan: Plan) -> str:
    problem = plan.source.get("problem")
    if isinstance(problem, dict):
        problem = problem.get("name") or problem.get("model")
        problem = problem.get("class_path", "") if isinstance(problem, dict) else problem
    return str(problem).rsplit(".", 1)[-1]


def _colours(summaries: Sequence[Summary]) -> dict[str, str]:
    return {s.rival: COLOURS[i % len(COLOURS)] for i, s in enumerate(summaries)}


def _table(plan: Plan, summaries: Sequence[Summary]) -> str:
    colours = _colours(summaries)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads(plan.monitor))
    body = ""
    for i, (summary, row) in enumerate(zip(summaries, rows(summaries), strict=True)):
        dot = f'<span class="dot" style="background:{colours[summary.rival]}"></span>'
        cells = "".join(f"<td>{dot * (j == 0)}{html.escape(cell)}</td>" for j, cell in enumerate(row))
        name = html.escape(summary.rival)
        body += f'<tr class="{"first" * (i == 0)}" data-name="{name}">{cells}</tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _curves(graphs: Any, plan: Plan, summaries: Sequence[Summary], axis: str, *, losses: bool) -> tuple[str, Any]:
    """A chart of the training losses, or of the monitored values, against one axis."""
    figure, at = graphs.Figure(), AXES[axis]
    # what explodes would press all else into a line
    starts = [run.curve[0][3] for s in summaries for run in s.runs if run.curve and run.curve[0][3] is not None]
    top = FAR * max(map(abs, starts), default=1.0) if losses else math.inf
    what = "training loss" if losses else str(plan.monitor)
    for summary in summaries:
        x, y = _smooth(*_mean_curve(summary.runs, at, lambda run: run.curve if losses else run.checks))
        if not x:
            continue
        style = {"color": _colours(summaries)[summary.rival], "width": 2}
        y = [None if v is None or v > top else v for v in y]
        figure.add_scatter(x=x, y=y, name=summary.rival, mode="lines" if len(x) > 1 else "markers", line=style)
    positive = all(v is None or v > 0 for trace in figure.data for v in trace.y)
    logarithmic = positive and (losses or not plan.maximise)
    return f"{what} by {axis}", _styled(figure, axis, what, logarithmic=logarithmic)


def _mean_curve(
    runs: Sequence[Outcome], at: int, rows_of: Callable[[Outcome], list[list[float]]]
) -> tuple[list[float], list[float | None]]:
    """The mean over the runs, row by row as far as all of them go; None where one of them is not finite."""
    lists = [rows_of(run) for run in runs if rows_of(run)]
    x, y = [], []
    for level in zip(*lists, strict=False):
        x.append(statistics.fmean(row[at] for row in level))
        y.append(None if any(row[3] is None for row in level) else statistics.fmean(row[3] for row in level))
    return x, y


def _smooth(x: list[float], y: list[float | None]) -> tuple[list[float], list[float | None]]:
    """A long curve that goes up as often as the losses of single batches do, as means over some points each.

    Args:
        x: the places.
        y: the values.
    """
    known = [v for v in y if v is not None]
    ups = sum(b > a for a, b in itertools.pairwise(known))
    if len(known) < len(y) or len(y) < 2 * SMOOTH or ups < len(y) / 4:
        return x, y
    width = math.ceil(len(y) / SMOOTH)
    parts = [slice(i, i + width) for i in range(0, len(y), width)]
    return [x[part][-1] for part in parts], [statistics.fmean(known[part]) for part in parts]


def _rates(graphs: Any, plan: Plan, summaries: Sequence[Summary]) -> tuple[str, Any]:
    """A chart of the value that decides against the learning rate."""
    figure, what = graphs.Figure(), plan.monitor or "training loss"
    for summary in summaries:
        points: dict[float, list[float]] = {}
        for run in summary.all_runs:
            if run.lr is not None and run.value is not None:
                points.setdefault(run.lr, []).append(run.value)
        if not points:
            continue
        x = sorted(points)
        y = [statistics.fmean(points[lr]) for lr in x]
        spread = [statistics.stdev(points[lr]) if len(points[lr]) > 1 else 0.0 for lr in x]
        style = {"color": _colours(summaries)[summary.rival], "width": 2}
        text = [f"{number(value)} ± {number(s)}" for value, s in zip(y, spread, strict=True)]
        figure.add_scatter(x=x, y=y, name=summary.rival, mode="lines+markers", line=style, hovertext=text)
    positive = all(v > 0 for trace in figure.data for v in trace.y)
    figure = _styled(figure, "learning rate", what, logarithmic=positive and not plan.maximise)
    tried = sorted({lr for trace in figure.data for lr in trace.x})
    figure.update_xaxes(
        type="log", **({"tickvals": tried, "ticktext": [f"{lr:.3g}" for lr in tried]} if len(tried) < 9 else {})
    )
    return f"{what} by learning rate", figure


def _styled(figure: Any, x: str, y: str, *, logarithmic: bool) -> Any:
    figure.update_layout(
        height=320,
        margin={"l": 70, "r": 15, "t": 15, "b": 45},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hovermode="closest",
        template="none",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_xaxes(title=x, zeroline=False)
    figure.update_yaxes(title=y, zeroline=False, type="log" if logarithmic else "linear", exponentformat="power")
    values = [v for trace in figure.data for v in trace.y if v is not None and v > 0]
    if logarithmic and values and max(values) > 30 * min(values):  # else the digits between the powers are in the way
        figure.update_yaxes(dtick=max(1, round(math.log10(max(values) / min(values)) / 6)))
    return figure


def _div(figure: Any) -> str:
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))
