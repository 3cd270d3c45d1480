"""The figures of a report, as plotly takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .read import Run, Series

#: Colours that are told apart on light and on dark, the first ones by nearly everybody.
COLOURS = ("#2f86d6", "#e8930c", "#17a077", "#dc4f45", "#b377d9", "#b98650", "#3fb6d6", "#8b94a1")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
#: Where there are more curves than colours, from the first to the last.
RAMP = ("#4c6ef5", "#15aabf", "#40c057", "#fab005", "#fa5252")
#: Of a figure without a legend, in pixels.
HEIGHT = 320
#: More layers than these are drawn as a map.
FEW = 10
NORMS = {"grad_norm": "gradient", "update_norm": "update", "param_norm": "parameters"}
OWNER = r"(?P<owner>[\w.-]+/)?"
MODULE = re.compile(OWNER + r"module/(?P<place>\d+)\.(?P<module>.+)/(?P<what>in|out|cosine)")
LAYER = re.compile(OWNER + r"layer/(?P<layer>.+)/(?P<what>update_norm|param_norm|update_ratio|grad_norm)")
OVERALL = re.compile(OWNER + r"(?P<what>update_norm|param_norm|update_ratio|grad_norm)")
CLOSURE = re.compile(
    OWNER + r"(?P<what>evaluations|evaluations_total|step_size|failed_searches|loss_before|loss_after|step_time"
    r"|skipped_steps)"
)
RATE = re.compile(r"lr-.*")
STAGES = re.compile(r"^(train|training|val|valid|validation|test)[_/]|[_/](step|epoch)$")


@dataclass
class Curve:
    """One line.

    Attributes:
        run: the number of its run.
        label: what it shows.
        series: its points.
        kind: the number of its label, which chooses colour or dashes.
    """

    run: int
    label: str
    series: Series
    kind: int = 0


@dataclass
class Figure:
    """A figure of the page.

    Attributes:
        title: above it.
        data: plotly's traces.
        layout: plotly's layout, without the colours of the page.
        wide: whether it takes a whole line.
    """

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    wide: bool = False


def sections(runs: Sequence[Run]) -> dict[str, list[Figure]]:
    """The figures by section; a section about which nothing was logged is not there.

    Args:
        runs: what was logged.
    """
    builders: dict[str, Callable[[_Material], list[Figure]]] = {
        "Loss": _losses,
        "Metrics": _metrics,
        "Learning rate": _rates,
        "Updates": _updates,
        "Modules of the chain": _modules,
        "Layers": _layers,
        "Closures": _closures,
    }
    material = _Material(runs)
    found = {title: build(material) for title, build in builders.items()}
    return {title: figures for title, figures in found.items() if figures}


class _Material:
    """What there is to draw."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.names = sorted({name for run in runs for name in run.series})

    def matching(self, pattern: re.Pattern[str]) -> dict[str, re.Match[str]]:
        return {name: match for name in self.names if (match := pattern.fullmatch(name))}

    def curves(self, labels: dict[str, str]) -> list[Curve]:
        """The curves of some names, with what to call them."""
        kinds = {label: i for i, label in enumerate(dict.fromkeys(labels.values()))}
        return [
            Curve(i, label, run.series[name].thinned(), kinds[label])
            for i, run in enumerate(self.runs)
            for name, label in labels.items()
            if name in run.series
        ]

    def lines(
        self,
        title: str,
        labels: dict[str, str],
        *,
        by_kind: bool = False,
        scale: str = "",
        shape: str = "linear",
        wide: bool = False,
        range_: list[float] | None = None,
    ) -> list[Figure]:
        """A figure of these names, or none.

        Args:
            title: above it.
            labels: what to call each name.
            by_kind: colours tell the names apart and dashes the runs, even if there are several runs.
            scale: "log" where all values allow it.
            shape: how points are joined.
            wide: whether it takes a whole line.
            range_: of the values.
        """
        curves = self.curves(labels)
        if not curves:
            return []
        by_kind = by_kind or len(self.runs) == 1
        kinds = 1 + max(curve.kind for curve in curves)
        data = []
        for curve in curves:
            hue, dash = (curve.kind, curve.run) if by_kind else (curve.run, curve.kind)
            names = [self.runs[curve.run].name] if len(self.runs) > 1 else []
            names += [curve.label] if kinds > 1 or not names else []
            few = len(curve.series.steps) < 40
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if few else "lines",
                    "name": " · ".join(names),
                    "x": curve.series.steps,
                    "y": [v if math.isfinite(v) else None for v in curve.series.values],
                    "line": {
                        "color": colour(hue, kinds if by_kind else len(self.runs)),
                        "dash": DASHES[dash % len(DASHES)],
                        "width": 1.8,
                        "shape": shape,
                    },
                    "marker": {"size": 5},
                }
            )
        values = [v for curve in curves for v in curve.series.finite]
        log = scale == "log" and bool(values) and min(values) > 0 and max(values) > 5 * min(values)
        axis: dict[str, Any] = {"type": "log" if log else "linear"}
        if range_ is not None:
            axis["range"] = range_
        if shape != "linear":  # counts
            axis["rangemode"] = "tozero"
        layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": axis, "showlegend": len(data) > 1}
        if len(data) > 1:
            layout["height"] = HEIGHT + 19 * _lines(data, 1250 if wide else 560)
        return [Figure(title, data, layout, wide)]


def _lines(data: Iterable[dict[str, Any]], width: int) -> int:
    """How many lines a legend takes: its columns are as wide as the longest name."""
    names = [trace["name"] for trace in data]
    columns = max(1, width // (45 + 7 * max(map(len, names))))
    return math.ceil(len(names) / columns)


def colour(place: int, number: int) -> str:
    """The colour of one of several curves.

    Args:
        place: which one.
        number: how many there are.

    Example:
        >>> colour(1, 3), colour(0, 20), colour(19, 20)
        ('#e8930c', '#4c6ef5', '#fa5252')
    """
    if number <= len(COLOURS):
        return COLOURS[place]
    at = place / (number - 1) * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    ends = [[int(RAMP[low + k][j : j + 2], 16) for j in (1, 3, 5)] for k in (0, 1)]
    return "#" + "".join(f"{round(a + (b - a) * (at - low)):02x}" for a, b in zip(*ends, strict=True))


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _others(material: _Material) -> list[str]:
    """What none of the callbacks has logged."""
    known = [MODULE, LAYER, OVERALL, CLOSURE, RATE]
    return [name for name in material.names if not any(pattern.fullmatch(name) for pattern in known)]


def _grouped(material: _Material, names: Iterable[str], scale: str) -> list[Figure]:
    """Training and validation of one thing in one figure."""
    groups: dict[str, list[str]] = {}
    for name in names:
        base = STAGES.sub("", STAGES.sub("", name)) or name
        groups.setdefault(base, []).append(name)
    alone = len(groups) == 1
    return [
        figure
        for base, members in groups.items()
        for figure in material.lines(base, {name: name for name in members}, scale=scale, wide=alone)
    ]


def _losses(material: _Material) -> list[Figure]:
    return _grouped(material, filter(_is_loss, _others(material)), "log")


def _metrics(material: _Material) -> list[Figure]:
    return _grouped(material, (name for name in _others(material) if not _is_loss(name)), "")


def _rates(material: _Material) -> list[Figure]:
    names = list(material.matching(RATE))
    kinds = {"momentum": "-momentum", "weight decay": "-weight_decay"}
    rates = [n for n in names if not any(end in n for end in kinds.values())]
    figures = material.lines("learning rate", {n: n.removeprefix("lr-") for n in rates}, scale="log", wide=True)
    for title, end in kinds.items():
        labels = {n: n.removeprefix("lr-").replace(end, "") for n in names if end in n}
        figures += material.lines(title, labels)
    return figures


def _updates(material: _Material) -> list[Figure]:
    found = material.matching(OVERALL)
    norms = {n: (m["owner"] or "") + NORMS[m["what"]] for n, m in found.items() if m["what"] in NORMS}
    ratios = {n: (m["owner"] or "").rstrip("/") or "update / parameters" for n, m in found.items() if n not in norms}
    return [
        *material.lines("norms of gradient, update and parameters", norms, scale="log"),
        *material.lines("norm of the update by that of the parameters", ratios, scale="log"),
    ]


def _modules(material: _Material) -> list[Figure]:
    found = material.matching(MODULE)

    def label(match: re.Match[str], word: str = "") -> str:
        return f"{match['owner'] or ''}{match['place']} {word}{match['module']}"

    out = {n: label(m) for n, m in found.items() if m["what"] == "out"}
    entrance: dict[str, str] = {}
    for run in material.runs:
        firsts = {m["owner"]: n for n, m in reversed(found.items()) if m["what"] == "in" and n in run.series}
        entrance |= {n: label(found[n], "into ") for n in firsts.values()}
    cosines = {n: label(m) for n, m in found.items() if m["what"] == "cosine"}
    return [
        *material.lines("norm of what each module passes on", entrance | out, by_kind=True, scale="log", wide=True),
        *material.lines("cosine with the gradient", cosines, by_kind=True, wide=True, range_=[-1.05, 1.05]),
    ]


def _layers(material: _Material) -> list[Figure]:
    found = material.matching(LAYER)
    titles = {
        "update_ratio": "norm of the update by that of the parameters",
        "update_norm": "norm of the update",
        "grad_norm": "norm of the gradient",
        "param_norm": "norm of the parameters",
    }
    figures: list[Figure] = []
    for what, title in titles.items():
        labels = {n: (m["owner"] or "") + m["layer"] for n, m in found.items() if m["what"] == what}
        if len(labels) <= FEW:
            figures += material.lines(title, labels, by_kind=True, scale="log")
        else:
            figures += [_map(title, run, labels, len(material.runs) > 1) for run in material.runs]
    return figures


def _map(title: str, run: Run, labels: dict[str, str], named: bool) -> Figure:
    """Layers from top to bottom, steps from left to right, the power of ten as colour."""
    names = sorted((n for n in labels if n in run.series), key=lambda n: _natural(labels[n]))
    steps = sorted({step for n in names for step in run.series[n].thinned(500).steps})
    rows = []
    for n in names:
        at = dict(zip(run.series[n].steps, run.series[n].values, strict=True))
        values = [at.get(step) for step in steps]
        rows.append([math.log10(v) if v is not None and 0 < v < math.inf else None for v in values])
    trace = {
        "type": "heatmap",
        "x": steps,
        "y": [labels[n] for n in names],
        "z": rows,
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "log₁₀"}, "thickness": 12},
        "hovertemplate": "%{y}<br>step %{x}<br>10^%{z:.2f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "height": 140 + 18 * len(names),
    }
    return Figure(f"{title} · {run.name}" if named else title, [trace], layout, wide=True)


def _natural(name: str) -> list[tuple[int, str]]:
    """layer.10 after layer.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _closures(material: _Material) -> list[Figure]:
    found = material.matching(CLOSURE)

    def some(*what: str, words: bool = True) -> dict[str, str]:
        return {
            n: (m["owner"] or "") + (m["what"].replace("_", " ") if words else "") or m["what"].replace("_", " ")
            for n, m in found.items()
            if m["what"] in what
        }

    return [
        *material.lines("evaluations of the loss in a step", some("evaluations", words=False), shape="hvh"),
        *material.lines("step size that the search accepted", some("step_size", words=False), scale="log"),
        *material.lines("loss before and after the step", some("loss_before", "loss_after"), scale="log"),
        *material.lines("evaluations so far", some("evaluations_total", words=False)),
        *material.lines(
            "failed searches and skipped steps so far", some("failed_searches", "skipped_steps"), shape="hv"
        ),
        *material.lines("seconds in a step", some("step_time", words=False)),
    ]
