"""Digits with Adam, SOAP, Muon and cautious Lion, from one YAML file.

`python -m tz_lightning compare examples/compare.yaml` runs each of them with the same seeds, batches and number of
steps, at several learning rates, and writes a table and a report; see [the comparison](compare.md). The network has two
convolutions, and the figure is the loss on the validation images, mean of two seeds, each at its best learning rate. On
a task this small and well behaved AdamW, once tuned, is hard to beat: SOAP comes as near as seeds differ.
"""

from __future__ import annotations

from pathlib import Path

from examples.showing import Curve, Shown, show
from tz_lightning.comparison import Plan, compare, summarise

HERE = Path(__file__).parent


def main(folder: Path = HERE.parent / "runs" / "compare") -> Shown:
    """Run the comparison, or what is missing of it.

    Args:
        folder: where its runs are kept.
    """
    plan = Plan.read(HERE / "compare.yaml")
    summaries = summarise(compare(plan, folder))
    curves: dict[str, Curve] = {}
    for summary in summaries:
        columns = zip(*(run.checks for run in summary.runs), strict=True)
        points = [(rows[0][0], sum(row[3] for row in rows) / len(rows)) for rows in columns]
        curves[summary.rival] = ([x for x, _ in points], [y for _, y in points])
    figures = {summary.rival: summary.value for summary in summaries if summary.value is not None}
    return Shown(
        figure="validation loss after 184 steps",
        ours={name: value for name, value in figures.items() if not name.startswith("torch")},
        baselines={name: value for name, value in figures.items() if name.startswith("torch")},
        curves=curves,
        y="validation loss",
        digits=".4f",
    )


if __name__ == "__main__":
    show(main)
