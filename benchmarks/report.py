"""The report: what it ran on, what was to be reached, and everything that was measured."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import memory, plots, reach
from .measure import Result
from .scaling import ELEMENTS, TENSORS
from .starts import Start
from .stats import Line, spread
from .subjects import REFERENCE
from .units import Table, human, markdown

#: The report of runs on the CPU.
REPORT = Path(__file__).parent / "RESULTS.md"
#: The sections of it that other programs write, by name.
OTHERS = ("Matrix methods", "Bandwidth", "Closures")


def section(name: str, file: Path) -> str:
    """A section of a report, without empty lines around it; nothing where there is none.

    Args:
        name: its title.
        file: the report.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(rf"^## {name}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return "" if found is None else found.group().strip()


def put_section(name: str, text: str, file: Path) -> None:
    """Put a section in the place of the one that is there, or at the end; the others stay.

    Args:
        name: its title.
        text: what stands below the title.
        file: the report.
    """
    before = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    old, new = section(name, file), f"## {name}\n\n{text.strip()}"
    after = before.replace(old, new) if old else f"{before.rstrip()}\n\n{new}"
    file.write_text(after.rstrip() + "\n", encoding="utf-8")


NOTES = """\
Times are of one step: {clock}, medians over shuffled rounds in which every optimizer is timed once; a large set is
timed in parts, each with the peer and the reference. Ratios are formed within a round; the table shows their median,
in brackets their 10th and 90th percentiles. *Peer*: for the Adam chains and the five modules `{reference}`, for NAG,
RMSprop and Lion the foreach form of the same method. *Share of copy bandwidth*: the bytes that the algorithm has to
read and write at least (28 a parameter for Adam, 44 for the five modules, 20 for the others), by time, against the
copy bandwidth; what lives in the caches may pass 100%. *Temporaries*: the most that a step holds at one time and
gives back; *workspace*: what the optimizer keeps besides its state; bytes a parameter. *Calls*: functions that the
Python interpreter calls in a step. *First step*: construction and first step in this process, wall time: the state is
allocated and, for a compiled chain, kernels are made, unless a set before has made the same. The five modules:
ClipValue(10), Adam, NormalizeByEMA(max_ema_growth=1.1), WeightDecay(1e-4), LR(1e-1)."""


@dataclass
class Report:
    """All that is reported of one run.

    Attributes:
        device: where it ran.
        command: what was typed.
        bandwidth: bytes a second that copying reads and writes.
        results: by set.
        starts: first steps in fresh processes.
        lines: scaling over "tensors" and "parameters".
        notes: what else is to be said, a sentence each.
    """

    device: torch.device
    command: str
    bandwidth: float
    results: Mapping[str, Result] = field(default_factory=dict)
    starts: Sequence[Start] = ()
    lines: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self, pictures: Mapping[str, str] | None = None) -> str:
        """All of it in Markdown; ``pictures`` are the files of "ratios" and "scaling"."""
        pictures = pictures or {}
        parts = ["# Benchmarks", "\n".join(f"- {fact}" for fact in [*self.facts(), *self.notes])]
        parts += self._reach()
        if "ratios" in pictures:
            parts.append(f"![Ratios to {REFERENCE}]({pictures['ratios']})")
        if self.results:
            clock = "the time between two events on the device" if self.device.type == "cuda" else "processor time"
            parts += ["## Measurements", NOTES.format(clock=clock, reference=REFERENCE)]
            for where, result in self.results.items():
                parts += self._set(where, result)
        if self.lines:
            parts += self._scaling()
            if "scaling" in pictures:
                parts.append(f"![Time of a step over its size]({pictures['scaling']})")
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> Path:
        """Write the report and its pictures into a folder; on CUDA the names end in ``-cuda``."""
        folder.mkdir(parents=True, exist_ok=True)
        end = "-cuda" if self.device.type == "cuda" else ""
        pictures = {}
        if plots.ratios(self.results, folder / f"ratios{end}.png"):
            pictures["ratios"] = f"ratios{end}.png"
        if self.lines and plots.scaling(self.lines, folder / f"scaling{end}.png"):
            pictures["scaling"] = f"scaling{end}.png"
        output = folder / f"RESULTS{end}.md"
        others = [f"\n{kept}\n" for name in OTHERS if (kept := section(name, output))]
        output.write_text(self.text(pictures) + "".join(others), encoding="utf-8")
        return output

    def facts(self) -> list[str]:
        """What it ran on, and when."""
        return [
            *machine(self.device),
            f"Copy bandwidth (read and written, large tensors, best of several): {self.bandwidth / 1e9:.1f} GB/s",
            f"{datetime.now(timezone.utc):%Y-%m-%d}, `{self.command}`",
        ]

    def _reach(self) -> list[str]:
        """What was to be reached, and whether it was."""
        parts = []
        if len(table := reach.ratios(self.results)) > 1:
            parts += ["Median ratio to the peer, and the largest that is accepted:", markdown(table, 3)]
        if len(table := reach.memory(self.results)) > 1:
            parts += [
                "Bytes a parameter that a step needs besides parameters, gradients and state:",
                markdown(table, 3),
            ]
        if self.starts:
            parts += [
                "Seconds that construction and the first two steps of the five modules take in a fresh process "
                "(most of it is the system handing out the memory of the state, which eager shows too):",
                markdown(reach.first(self.starts)),
            ]
        if len(table := reach.scaling(self.lines)) > 1:
            parts += [
                f"Overhead: a step on tensors of {ELEMENTS} elements as a multiple of `torch Adam foreach`, and the "
                "functions that the interpreter calls in a step on ten tensors, 1e4 to 1e8 parameters. (Adam + LR "
                "computes what the peer does; the five modules compute more.)",
                markdown(table),
            ]
        return ["## Reach", *parts] if parts else []

    def _set(self, where: str, result: Result) -> list[str]:
        """The table of one set."""
        notes = [f"Note: {note}" for note in result.notes]
        if not result.timings:
            return [f"### {where}", *notes]
        cuda = self.device.type == "cuda"
        rows: Table = [
            (
                "optimizer",
                "device time" if cuda else "CPU time",
                "CPU time to launch" if cuda else "wall time",
                "ns / parameter",
                "× Adam fused",
                "× peer",
                "share of copy bandwidth",
                "temporaries B/p",
                "state B/p",
                "workspace B/p",
                "calls",
                "first step",
            )
        ]
        for timing in result.timings:
            n, middle = timing.numel, spread(timing.main).middle
            own_peer = timing.subject.peer != REFERENCE
            rows.append(
                (
                    timing.subject.name,
                    human(middle),
                    human(spread(timing.cpu if cuda else timing.wall).middle),
                    f"{middle / n * 1e9:.3g}",
                    str(timing.ratio() or "–"),
                    str(timing.to_peer or "–") if own_peer else "",
                    f"{timing.subject.traffic * n / middle / self.bandwidth:.0%}",
                    f"{timing.temporary / n:.2f}",
                    f"{timing.state / n:.2f}",
                    f"{timing.workspace / n:.2f}",
                    f"{timing.calls:,}",
                    human(timing.first),
                )
            )
        first, rounds = result.timings[0], sorted({len(t.main) for t in result.timings})
        times = f"{rounds[0]} rounds" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]} rounds"
        head = f"### {where}: {first.tensors} tensors, {first.numel:,} parameters, {times}"
        return [head, markdown(rows), *notes]

    def _scaling(self) -> list[str]:
        """The tables of the study over sizes."""
        return [
            "## Scaling",
            "Time of a step; slope and intercept of the straight line with the least squares of relative errors.",
            f"Over the number of tensors, {ELEMENTS} elements each:",
            scaling_table(self.lines["tensors"], "tensors"),
            f"Over the number of parameters, in {TENSORS} tensors:",
            scaling_table(self.lines["parameters"], "parameters"),
        ]


def machine(device: torch.device) -> list[str]:
    """Processor, memory and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    cores = len(names) or torch.get_num_threads()
    size = memory.total(torch.device("cpu")) / 2**30
    lines = [f"Processor: {name}, {cores} cores, {size:.0f} GiB of memory; threads used: {torch.get_num_threads()}"]
    if device.type == "cuda":
        size = memory.total(device) / 2**30
        lines.insert(
            0, f"Device: {torch.cuda.get_device_name(device)}, {size:.0f} GiB of memory, CUDA {torch.version.cuda}"
        )
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchzero-core", "pytorch-optimizer", "heavyball", "numpy"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    return [*lines, f"Versions: {', '.join(versions)}"]


def scaling_table(lines: Sequence[Line], axis: str) -> str:
    """Times over sizes, with slope and intercept."""
    if not lines:
        return "Too few sizes."
    sizes = (f"{n:.0e}".replace("e+0", "e") if axis == "parameters" else f"{n:,}" for n in lines[0].sizes)
    rows: Table = [("optimizer", *sizes, "slope", "intercept")]
    unit = axis.removesuffix("s")
    rows.extend(
        (line.name, *map(human, line.seconds), f"{human(line.slope)} / {unit}", human(line.intercept)) for line in lines
    )
    return markdown(rows)
