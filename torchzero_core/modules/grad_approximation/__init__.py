"""Gradient approximations: gradients from values of the loss alone."""

from .base import GradApproximator
from .gaussian_smoothing import GaussianSmoothing
from .mezo import MeZO
from .randomized import RandomizedFDM
from .rdsa import RDSA
from .spsa import SPSA

__all__ = ["RDSA", "SPSA", "GaussianSmoothing", "GradApproximator", "MeZO", "RandomizedFDM"]
