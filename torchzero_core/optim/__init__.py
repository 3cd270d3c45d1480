"""Optimizers that are no modules, and whole minimisations."""

from .minimize import MinimizeResult, minimize

__all__ = ["MinimizeResult", "minimize"]
