"""Smoothing of the update along its own elements, and of the loss."""

from .gaussian_homotopy import GaussianHomotopy
from .laplacian import LaplacianSmoothing

__all__ = ["GaussianHomotopy", "LaplacianSmoothing"]
