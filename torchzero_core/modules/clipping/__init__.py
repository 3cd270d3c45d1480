"""Clipping and normalisation."""

from .centralize import Centralize
from .clip_norm import ClipNorm
from .clip_value import ClipValue
from .ema_norm import ClipNormByEMA, ClipValueByEMA, NormalizeByEMA
from .growth import ClipNormGrowth, ClipValueGrowth
from .normalize import Normalize

__all__ = [
    "Centralize",
    "ClipNorm",
    "ClipNormByEMA",
    "ClipNormGrowth",
    "ClipValue",
    "ClipValueByEMA",
    "ClipValueGrowth",
    "Normalize",
    "NormalizeByEMA",
]
