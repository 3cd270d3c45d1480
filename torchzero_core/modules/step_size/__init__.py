"""Learning rate and step size."""

from .lr import LR
from .polyak import PolyakStepSize
from .random import RandomStepSize
from .step_size import StepSize
from .warmup import Warmup

__all__ = ["LR", "PolyakStepSize", "RandomStepSize", "StepSize", "Warmup"]
