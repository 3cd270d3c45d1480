"""Momentum and averages."""

from .cautious import Cautious
from .debias import Debias, Debias2
from .ema import EMA, HeavyBall
from .ema_squared import EMASquared, SqrtEMASquared
from .nag import NAG

__all__ = ["EMA", "NAG", "Cautious", "Debias", "Debias2", "EMASquared", "HeavyBall", "SqrtEMASquared"]
