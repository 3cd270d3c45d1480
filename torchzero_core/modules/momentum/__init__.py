"""Momentum and averages."""

from .averaging import Averaging, MedianAveraging, Medianveraging, WeightedAveraging
from .cautious import (
    Cautious,
    IntermoduleCautious,
    ScaleByGradCosineSimilarity,
    ScaleModulesByCosineSimilarity,
    UpdateGradientSignConsistency,
)
from .coordinate import CoordinateMomentum
from .debias import Debias, Debias2
from .ema import EMA, HeavyBall
from .ema_squared import CenteredEMASquared, CenteredSqrtEMASquared, EMASquared, SqrtEMASquared
from .matrix import AdaptiveMatrixMomentum, MatrixMomentum
from .nag import NAG

__all__ = [
    "EMA",
    "NAG",
    "AdaptiveMatrixMomentum",
    "Averaging",
    "Cautious",
    "CenteredEMASquared",
    "CenteredSqrtEMASquared",
    "CoordinateMomentum",
    "Debias",
    "Debias2",
    "EMASquared",
    "HeavyBall",
    "IntermoduleCautious",
    "MatrixMomentum",
    "MedianAveraging",
    "Medianveraging",
    "ScaleByGradCosineSimilarity",
    "ScaleModulesByCosineSimilarity",
    "SqrtEMASquared",
    "UpdateGradientSignConsistency",
    "WeightedAveraging",
]
