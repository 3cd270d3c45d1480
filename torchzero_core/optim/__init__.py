"""Optimizers that are no modules, and whole minimisations."""

from . import wrappers
from .minimize import MinimizeResult, minimize
from .split import Split

__all__ = ["MinimizeResult", "Split", "minimize", "wrappers"]
