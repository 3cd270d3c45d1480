"""Momentum and averages."""

from .averaging import Averaging, MedianAveraging, Medianveraging
from .cautious import Cautious
from .coordinate import CoordinateMomentum
from .debias import Debias, Debias2
from .ema import EMA, HeavyBall
from .ema_squared import EMASquared, SqrtEMASquared
from .nag import NAG

__all__ = [
    "EMA",
    "NAG",
    "Averaging",
    "Cautious",
    "CoordinateMomentum",
    "Debias",
    "Debias2",
    "EMASquared",
    "HeavyBall",
    "MedianAveraging",
    "Medianveraging",
    "SqrtEMASquared",
]
