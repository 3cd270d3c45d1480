"""Optimizers that are no modules, and whole minimisations."""

from . import wrappers
from .minimize import MinimizeResult, minimize
from .split import Split
from .torch_state import load_torch_state

__all__ = ["MinimizeResult", "Split", "load_torch_state", "minimize", "wrappers"]
