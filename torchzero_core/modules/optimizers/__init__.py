"""Adaptive and matrix methods."""

from .adam import Adam

__all__ = ["Adam"]
