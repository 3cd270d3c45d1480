"""Projections: running modules in another space."""

from .base import Projection
from .vector import VectorProjection

__all__ = ["Projection", "VectorProjection"]
