"""What runs have logged, from the files of CSV and TensorBoard loggers."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchzero_core.core.packages import required

#: Columns and tags that are no metric.
NO_METRIC = ("step", "epoch", "hp_metric")
EVENTS = "events.out.tfevents."
#: Points of a curve in a page.
MOST = 3000


@dataclass
class Series:
    """A metric over the steps.

    Attributes:
        steps: ascending.
        values: some may be infinite or NaN.
    """

    steps: list[int]
    values: list[float]

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [v for v in self.values if math.isfinite(v)]

    def thinned(self, most: int = MOST) -> Series:
        """With fewer points; of neighbouring points the lowest and the highest one stay, so that no peak is lost.

        Args:
            most: points.

        Example:
            >>> Series(list(range(1000)), [0.0] * 500 + [9.0] + [0.0] * 499).thinned(20).values.count(9.0)
            1
        """
        n = len(self.steps)
        if n <= most:
            return self
        kept = {0, n - 1}
        size = math.ceil(2 * n / (most - 2))
        for first in range(0, n, size):
            places = [i for i in range(first, min(first + size, n)) if math.isfinite(self.values[i])]
            if places:
                kept |= {min(places, key=self.values.__getitem__), max(places, key=self.values.__getitem__)}
        chosen = sorted(kept)
        return Series([self.steps[i] for i in chosen], [self.values[i] for i in chosen])


@dataclass
class Run:
    """A training.

    Attributes:
        name: its folder, seen from the one that was asked for.
        series: what it has logged, by name.
    """

    name: str
    series: dict[str, Series]

    @property
    def last_step(self) -> int:
        """The last step of which something is known."""
        return max(s.steps[-1] for s in self.series.values())


def read_runs(folder: str | Path) -> list[Run]:
    """The runs in a folder and the folders in it, in the order of their names.

    Args:
        folder: where a ``CSVLogger`` or a ``TensorBoardLogger`` has written, or any folder above.

    Raises:
        ValueError: there is no such folder, no log in it, or nothing in the logs.
        ImportError: there are logs for TensorBoard, which is not installed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"there is no folder {str(root)!r}")
    tables = {path.parent: path for path in root.rglob("metrics.csv")}
    events: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob(f"{EVENTS}*")):
        events[path.parent].append(path)
    if not tables and not events:
        raise ValueError(
            f"there is no log in {str(root)!r}: no metrics.csv of a CSVLogger and no {EVENTS}* of a TensorBoardLogger"
        )
    found = []
    for place in sorted({*tables, *events}, key=_in_order):
        series = _of_table(tables[place]) if place in tables else {}
        series = _of_events(events[place]) | series if place in events else series
        if series:
            name = str(place.relative_to(root)) if place != root else place.resolve().name
            found.append(Run(name, series))
    shorter = [run.name.removesuffix("/version_0") for run in found]
    if len(set(shorter)) == len(found):  # of each there is only the first version
        found = [Run(name, run.series) for name, run in zip(shorter, found, strict=True)]
    if not found:
        raise ValueError(f"the logs in {str(root)!r} have no metrics yet; what a run logs is written at its end")
    return found


def _in_order(path: Path) -> list[tuple[str, int]]:
    """version_10 after version_9."""
    parts = (part.rpartition("_") for part in path.parts)
    return [(head, int(tail)) if tail.isdigit() else (head + tail, -1) for head, _, tail in parts]


def _of_table(path: Path) -> dict[str, Series]:
    def points() -> Iterator[tuple[str, int, float]]:
        with path.open(newline="") as file:
            for i, row in enumerate(csv.DictReader(file)):
                step = row.get("step")
                for name, value in row.items():
                    if value and name is not None and name not in NO_METRIC:
                        try:
                            yield name, int(float(step)) if step else i, float(value)
                        except (TypeError, ValueError):
                            raise ValueError(
                                f"{str(path)!r} is no log of a CSVLogger: row {i + 1} has {value!r} as {name!r} at "
                                f"step {step!r}"
                            ) from None

    return _series(points())


def _of_events(paths: Iterable[Path]) -> dict[str, Series]:
    loader = required("tensorboard.backend.event_processing.event_file_loader", "report", "a report of these logs")
    tensors = required("tensorboard.util.tensor_util", "report", "a report of these logs")

    def points() -> Iterator[tuple[str, int, float]]:
        for path in paths:
            for event in loader.EventFileLoader(str(path)).Load():
                for value in event.summary.value:
                    if value.tag in NO_METRIC or value.metadata.plugin_data.plugin_name != "scalars":
                        continue
                    yield value.tag, event.step, float(tensors.make_ndarray(value.tensor))

    return _series(points())


def _series(points: Iterable[tuple[str, int, float]]) -> dict[str, Series]:
    """The points by name; of several at one step the last, since a resumed run logs some steps again."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for name, step, value in points:
        found[name][step] = value
    return {name: Series(sorted(values), [values[step] for step in sorted(values)]) for name, values in found.items()}
