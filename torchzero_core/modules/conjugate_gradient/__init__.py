"""Nonlinear conjugate gradient methods."""

from .base import ConguateGradientBase, ConjugateGradientBase
from .polak_ribiere import PolakRibiere

__all__ = ["ConguateGradientBase", "ConjugateGradientBase", "PolakRibiere"]
