"""Learning rate and step size."""

from .lr import LR

__all__ = ["LR"]
