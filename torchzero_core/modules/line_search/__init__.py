"""Line searches: how far to go along an update."""

from .backtracking import AdaptiveBacktracking, Backtracking
from .base import LineFunction, LineSearch, MaxLineSearchItersReached
from .grid import GridLineSearch
from .strong_wolfe import StrongWolfe

__all__ = [
    "AdaptiveBacktracking",
    "Backtracking",
    "GridLineSearch",
    "LineFunction",
    "LineSearch",
    "MaxLineSearchItersReached",
    "StrongWolfe",
]
