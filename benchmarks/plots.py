"""The two pictures; without matplotlib there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .measure import Result, find
from .scaling import ELEMENTS, TENSORS
from .stats import Line
from .subjects import REFERENCE
from .units import count, human

COLORS = {"peer": "#7d838c", "eager": "#2f6fbb", "compiled": "#d1662b"}
GRID = "#e6e6e6"


def kind(name: str) -> str:
    """Whose it is: what the colour stands for."""
    if not name.startswith("tz "):
        return "peer"
    return "compiled" if name.endswith("compiled") else "eager"


def _pyplot() -> Any:
    """The plotting functions, drawing into files; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def ratios(results: Mapping[str, Result], output: Path) -> bool:
    """A dot for each median, a line from the 10th to the 90th percentile, a tick for the goal; one panel a set."""
    panels = {name: [t for t in r.timings if t.ratio() is not None] for name, r in results.items()}
    panels = {name: timings for name, timings in panels.items() if timings}
    plt = _pyplot()
    if plt is None or not panels:
        return False
    from matplotlib import ticker

    names = list(dict.fromkeys(timing.subject.name for timings in panels.values() for timing in timings))
    size = (2.8 + 3.5 * len(panels), 1.5 + 0.27 * len(names))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    found = [x for timings in panels.values() for t in timings for x in t.ratio() or ()]
    limits = min(0.4, *found) * 0.8, max(6.0, *found) * 1.25
    for axis, (where, timings) in zip(axes[0], panels.items(), strict=True):
        axis.axvline(1, color="#b5b5b5", linewidth=1, zorder=0)
        for timing in timings:
            y = len(names) - 1 - names.index(timing.subject.name)
            low, middle, high = timing.ratio() or (1.0, 1.0, 1.0)
            color = COLORS[kind(timing.subject.name)]
            axis.plot([low, high], [y, y], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
            axis.plot(middle, y, "o", color=color, markersize=5)
            text = f"{middle:.2f}" if middle < 9.95 else f"{middle:.0f}"
            axis.annotate(text, (1.0, y), (4, 0), ("axes fraction", "data"), textcoords="offset points",
                          color=color, fontsize=8, va="center", annotation_clip=False)  # fmt: skip
            goal, peer = timing.subject.goal(where), find(timing.beside, timing.subject.peer)
            to_reference = None if peer is None else peer.ratio()
            if goal is not None and to_reference is not None:
                axis.plot(goal * to_reference.middle, y, "|", color="black", markersize=12, zorder=3)
        axis.set_xscale("log")
        axis.set_xlim(*limits)
        ticks = [x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if limits[0] <= x <= limits[1]]
        axis.xaxis.set_major_locator(ticker.FixedLocator(ticks))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        first = timings[0]
        axis.set_title(f"{where}: {count(first.tensors)} tensors, {count(first.numel)} parameters", fontsize=10)
        axis.grid(axis="both", color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="both", length=0, labelsize=9)
    axes[0][0].set_yticks(range(len(names)), names[::-1])
    axes[0][0].set_ylim(-0.7, len(names) - 0.3)
    line = plt.Line2D
    handles = [line([], [], color=c, marker="o", markersize=5, linestyle="") for c in COLORS.values()]
    handles.append(line([], [], color="black", marker="|", markersize=11, linestyle=""))
    labels = ["peer", "tz eager", "tz compiled", "goal"]
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.supxlabel(f"time of a step, × {REFERENCE} (median; bar: 10th to 90th percentile)", fontsize=9, y=0.058)
    figure.tight_layout(rect=(0, 0.06, 1, 1), w_pad=2.5)
    figure.savefig(output, dpi=120)
    plt.close(figure)
    return True


def scaling(lines: Mapping[str, Sequence[Line]], output: Path) -> bool:
    """Time of a step over the number of tensors and of parameters, both axes logarithmic; thin: the fitted lines."""
    plt = _pyplot()
    if plt is None or not any(lines.values()):
        return False
    from matplotlib import ticker

    labels = {
        "tensors": f"number of tensors, {ELEMENTS} elements each",
        "parameters": f"number of parameters, in {TENSORS} tensors",
    }
    figure, axes = plt.subplots(1, len(lines), figsize=(5.6 * len(lines), 5.4), squeeze=False)
    for axis, (title, found) in zip(axes[0], lines.items(), strict=True):
        for line in found:
            five, foreach = "five" in line.name, "foreach" in line.name
            color, style = COLORS[kind(line.name)], "--" if five else ":" if foreach else "-"
            axis.loglog(
                line.sizes, line.seconds, style, color=color, marker="s" if five else "o", ms=4, label=line.name
            )
        axis.set_xlabel(labels[title])
        axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: human(value)))
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.grid(color=GRID, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=0)
    axes[0][0].set_ylabel("time of a step")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.1, 1, 1), w_pad=2)
    figure.savefig(output, dpi=120)
    plt.close(figure)
    return True
