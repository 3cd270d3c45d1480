"""Line searches: how far to go along an update."""

from .backtracking import AdaptiveBacktracking, Backtracking
from .base import LineFunction, LineSearch, MaxLineSearchItersReached
from .grid import GridLineSearch
from .scipy_scalar import ScipyMinimizeScalar
from .strong_wolfe import StrongWolfe
from .trust_region import TrustRegion

__all__ = [
    "AdaptiveBacktracking",
    "Backtracking",
    "GridLineSearch",
    "LineFunction",
    "LineSearch",
    "MaxLineSearchItersReached",
    "ScipyMinimizeScalar",
    "StrongWolfe",
    "TrustRegion",
]
