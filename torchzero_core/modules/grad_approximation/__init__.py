"""Gradient approximations: gradients from values of the loss alone."""

from .base import GradApproximator
from .fdm import FDM
from .forward_gradient import ForwardGradient
from .gaussian_smoothing import GaussianSmoothing
from .mezo import MeZO
from .randomized import RandomizedFDM
from .rdsa import RDSA
from .spsa import SPSA

__all__ = ["FDM", "RDSA", "SPSA", "ForwardGradient", "GaussianSmoothing", "GradApproximator", "MeZO", "RandomizedFDM"]
