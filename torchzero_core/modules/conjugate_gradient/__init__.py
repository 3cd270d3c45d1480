"""Nonlinear conjugate gradient methods."""

from .base import ConguateGradientBase, ConjugateGradientBase
from .methods import (
    ConjugateDescent,
    DaiYuan,
    FletcherReeves,
    HagerZhang,
    HestenesStiefel,
    HybridHS_DY,
    LiuStorey,
)
from .polak_ribiere import PolakRibiere

__all__ = [
    "ConguateGradientBase",
    "ConjugateDescent",
    "ConjugateGradientBase",
    "DaiYuan",
    "FletcherReeves",
    "HagerZhang",
    "HestenesStiefel",
    "HybridHS_DY",
    "LiuStorey",
    "PolakRibiere",
]
