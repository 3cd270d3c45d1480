"""Smoothing of the update along its own elements."""

from .laplacian import LaplacianSmoothing

__all__ = ["LaplacianSmoothing"]
