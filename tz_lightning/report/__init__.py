"""A page with the figures of a training, from its logs."""

from .page import write_report
from .read import Run, Series, read_runs

__all__ = ["Run", "Series", "read_runs", "write_report"]
