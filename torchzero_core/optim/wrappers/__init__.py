"""Optimizers of other packages: scipy, NLOpt, Nevergrad and BiteOpt."""

from .biteopt import BiteOptOptimizer
from .nevergrad import NevergradOptimizer
from .nlopt import NLOptOptimizer
from .scipy import ScipyDE, ScipyDualAnnealing, ScipyMinimize, ScipyRootOptimization

__all__ = [
    "BiteOptOptimizer",
    "NLOptOptimizer",
    "NevergradOptimizer",
    "ScipyDE",
    "ScipyDualAnnealing",
    "ScipyMinimize",
    "ScipyRootOptimization",
]
