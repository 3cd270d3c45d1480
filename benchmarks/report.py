"""The tables and pictures."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .measure import Timing, find, quartiles, ratio
from .scaling import ELEMENTS, TENSORS, Line
from .subjects import REFERENCE

Table = list[tuple[str, ...]]
UNITS = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps")]


def human(seconds: float) -> str:
    """A time with three digits and a unit."""
    for size, unit in UNITS:
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def markdown(rows: Table) -> str:
    """A table whose first row is the head; the first column is text, the others are numbers."""
    head, *body = rows
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def machine(device: torch.device) -> list[str]:
    """What it ran on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    cores = len(names) or torch.get_num_threads()
    lines = [f"Processor: {name}, {cores} cores; threads used: {torch.get_num_threads()}"]
    if device.type == "cuda":
        lines.insert(0, f"Device: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchzero-core", "pytorch-optimizer", "heavyball", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    return [*lines, f"Versions: {', '.join(versions)}"]


def spread(values: tuple[float, float, float]) -> str:
    """A median with its quartiles."""
    low, middle, high = values
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def set_table(timings: Sequence[Timing], where: str, bandwidth: float, cuda: bool) -> str:
    """The table of one set."""
    clock = "device time" if cuda else "CPU time"
    head: tuple[str, ...] = (
        "optimizer",
        clock,
        "CPU time to launch" if cuda else "wall time",
        "ns / parameter",
        "× Adam fused",
    )
    head += ("× peer", "goal", "share of copy bandwidth", "temporaries B/p", "state B/p", "workspace B/p", "first step")
    rows: Table = [head]
    reference = find(timings)
    for timing in timings:
        subject, n = timing.subject, timing.numel
        peer = find(timings, subject.peer)
        middle = quartiles(timing.main)[1]
        goal = subject.goal(where)
        to_peer = ratio(timing, peer) if peer is not None and peer is not timing else None
        met = ""
        if goal is not None:
            met = f"≤ {goal:g} {'–' if to_peer is None else '✓' if to_peer[1] <= goal else '✗'}"
        rows.append(
            (
                subject.name,
                human(middle),
                human(quartiles(timing.cpu if cuda else timing.wall)[1]),
                f"{middle / n * 1e9:.3g}",
                spread(ratio(timing, reference)) if reference is not None else "–",
                spread(to_peer) if to_peer is not None and subject.peer != REFERENCE else "",
                met,
                f"{subject.traffic * n / middle / bandwidth:.0%}",
                f"{timing.temporary / n:.2f}",
                f"{timing.state / n:.2f}",
                f"{timing.workspace / n:.2f}",
                human(timing.first),
            )
        )
    return markdown(rows)


def scaling_table(lines: Sequence[Line], axis: str) -> str:
    """Times over sizes, with slope and intercept."""
    sizes = lines[0].sizes
    rows: Table = [
        ("optimizer", *(f"{n:.0e}" if axis == "parameters" else str(n) for n in sizes), "slope", "intercept")
    ]
    unit = axis.removesuffix("s")
    rows.extend(
        (line.name, *map(human, line.seconds), f"{human(line.slope)} / {unit}", human(line.intercept)) for line in lines
    )
    return markdown(rows)


def write(
    output: Path,
    device: torch.device,
    results: dict[str, tuple[list[Timing], list[str]]],
    lines: dict[str, list[Line]],
    starts: Table,
    bandwidth: float,
    command: str,
) -> None:
    """Write the report and its pictures."""
    cuda = device.type == "cuda"
    clock = "the time between two events on the device" if cuda else "processor time"
    facts = [
        *machine(device),
        f"Copy bandwidth (read and written, large tensors, best of several): {bandwidth / 1e9:.1f} GB/s",
        f"{datetime.now(timezone.utc):%Y-%m-%d}, `{command}`",
    ]
    parts = [
        "# Benchmarks",
        "\n".join(f"- {fact}" for fact in facts),
        f"""\
Times are of one step: {clock}, medians over shuffled rounds in which every optimizer is timed once. Ratios are formed
within a round; in brackets their quartiles. *Peer*: for the Adam chains and the five modules `{REFERENCE}`, for NAG,
RMSprop and Lion the foreach form of the same method. *Share of copy bandwidth*: the bytes that the algorithm has to
read and write at least (28 a parameter for Adam, 44 for the five modules, 20 for the others), by time, against the copy
bandwidth; tiny lives in the caches. *Temporaries*: the most that a step holds at one time and gives back; *workspace*:
what the optimizer keeps besides its state; bytes a parameter. *First step*: construction and first step, wall time: the
state is allocated and, for a compiled chain, kernels are made, unless a set before has made the same. The five modules:
ClipValue(10), Adam, NormalizeByEMA(max_ema_growth=1.1), WeightDecay(1e-4), LR(1e-1).""",
    ]
    stem = output.with_suffix("")
    for name, (timings, left_out) in results.items():
        if not timings:
            continue
        numel, count = timings[0].numel, timings[0].tensors
        parts.append(f"## {name}: {count} tensors, {numel:,} parameters, {len(timings[0].main)} rounds")
        parts.append(set_table(timings, name, bandwidth, cuda))
        parts.extend(f"Left out: {line}" for line in left_out)
    if plot_ratios(results, ratios := stem.with_name(stem.name + "-ratios.png")):
        parts.append(f"![Ratios to fused Adam]({ratios.name})")
    if starts:
        parts.append("## First step of a compiled chain in a fresh process\n\nThe README's five modules.")
        parts.append(markdown(starts))
    if lines:
        parts.append("## Scaling")
        parts.append(f"Over the number of tensors, {ELEMENTS} elements each:")
        parts.append(scaling_table(lines["tensors"], "tensors"))
        parts.append(f"Over the number of parameters, in {TENSORS} tensors:")
        parts.append(scaling_table(lines["parameters"], "parameters"))
        parts.append("Slope and intercept by least squares of relative errors.")
        if plot_scaling(lines, picture := stem.with_name(stem.name + "-scaling.png")):
            parts.append(f"![Scaling]({picture.name})")
    output.write_text("\n\n".join(parts) + "\n")


COLORS = {"peer": "#8a8f98", "eager": "#2f6fbb", "compiled": "#d1662b"}


def kind(name: str) -> str:
    """Whose it is: what the colour stands for."""
    if not name.startswith("tz "):
        return "peer"
    return "compiled" if name.endswith("compiled") else "eager"


def plot_ratios(results: dict[str, tuple[list[Timing], list[str]]], output: Path) -> bool:
    """A dot for each median, a line from quartile to quartile, a tick for the goal; one panel a set."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    panels = {name: timings for name, (timings, _) in results.items() if timings and find(timings) is not None}
    if not panels:
        return False
    names = list(dict.fromkeys(timing.subject.name for timings in panels.values() for timing in timings))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3 + 3.6 * len(panels), 1.4 + 0.28 * len(names)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, (where, timings) in zip(axes[0], panels.items(), strict=True):
        reference = find(timings)
        assert reference is not None
        for timing in timings:
            y = len(names) - 1 - names.index(timing.subject.name)
            low, middle, high = ratio(timing, reference)
            color = COLORS[kind(timing.subject.name)]
            axis.plot([low, high], [y, y], color=color, linewidth=4, alpha=0.35, solid_capstyle="butt")
            axis.plot(middle, y, "o", color=color, markersize=5)
            goal, peer = timing.subject.goal(where), find(timings, timing.subject.peer)
            if goal is not None and peer is not None:
                axis.plot(goal * ratio(peer, reference)[1], y, "|", color="black", markersize=11)
        axis.axvline(1, color="#cccccc", zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_title(f"{where}: {timings[0].tensors} tensors, {timings[0].numel:,} parameters", fontsize=10)
        axis.set_xlabel("× torch Adam fused")
        axis.grid(axis="x", color="#eeeeee")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0][0].set_yticks(range(len(names)), names[::-1], fontsize=9)
    handles = [plt.Line2D([], [], color=color, marker="o", linestyle="") for color in COLORS.values()]
    handles.append(plt.Line2D([], [], color="black", marker="|", markersize=11, linestyle=""))
    figure.legend(
        handles, ["peer", "tz eager", "tz compiled", "goal"], loc="lower center", ncols=4, frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(output, dpi=110)
    plt.close(figure)
    return True


def plot_scaling(lines: dict[str, list[Line]], output: Path) -> bool:
    """Time of a step over the number of tensors and of parameters, both axes logarithmic."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {
        "tensors": f"tensors of {ELEMENTS} elements",
        "parameters": f"parameters in {TENSORS} tensors",
    }
    figure, axes = plt.subplots(1, len(lines), figsize=(5.4 * len(lines), 4.6), squeeze=False)
    for axis, (title, found) in zip(axes[0], lines.items(), strict=True):
        for line in found:
            style = "--" if "five" in line.name else ":" if "foreach" in line.name else "-"
            axis.loglog(
                line.sizes, line.seconds, style, marker="o", ms=4, color=COLORS[kind(line.name)], label=line.name
            )
        axis.set_xlabel(titles[title])
        axis.set_ylabel("seconds a step")
        axis.grid(color="#eeeeee")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=110)
    plt.close(figure)
    return True
