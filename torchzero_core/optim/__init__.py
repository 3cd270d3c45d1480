"""Optimizers that are not modules."""

from . import wrappers
from .split import Split

__all__ = ["Split", "wrappers"]
