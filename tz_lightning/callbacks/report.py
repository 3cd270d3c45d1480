"""What has come of a training, said and drawn at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from ..report import write_report


class Report(Callback):
    """At the end of the training writes a page with all that was logged, and prints where everything lies.

    The page is what ``python -m tz_lightning report`` writes: ``report.html`` in the folder of the logs. It needs a
    ``CSVLogger`` or a ``TensorBoardLogger``.

    Args:
        metrics: names of metrics whose last value is printed; by default what checkpoints are chosen by.

    Example:
        >>> from tz_lightning import Report
        >>> Report(metrics=["val_accuracy"]).metrics
        ['val_accuracy']
    """

    def __init__(self, metrics: Sequence[str] | None = None) -> None:
        self.metrics = None if metrics is None else list(metrics)

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and print."""
        for logger in trainer.loggers:
            logger.save()
        checkpoints = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        names = [c.monitor for c in checkpoints if c.monitor] if self.metrics is None else self.metrics
        values = {name: trainer.callback_metrics.get(name) for name in dict.fromkeys(names)}
        lines = {n: "was not logged" if value is None else f"{float(value):.4f}" for n, value in values.items()}
        folder = trainer.log_dir if trainer.loggers else None
        try:
            lines["report"] = str(write_report(folder) if folder else "no logger writes to a folder")
        except (ImportError, ValueError) as error:
            lines["report"] = f"not written: {error}"
        lines |= {"checkpoint": path for path in (c.best_model_path for c in checkpoints) if path}  # noqa: B035
        places = {"log": "metrics.csv", "configuration": "config.yaml"}
        found = {what: Path(folder or "") / name for what, name in places.items()}
        lines |= {what: str(path) for what, path in found.items() if folder and path.exists()}
        width = max(map(len, lines))
        print("\n" + "\n".join(f"{what:<{width}}  {text}" for what, text in lines.items()))
