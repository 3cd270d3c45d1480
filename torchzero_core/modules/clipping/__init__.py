"""Clipping and normalisation."""

from .clip_value import ClipValue
from .ema_norm import ClipNormByEMA, NormalizeByEMA

__all__ = ["ClipNormByEMA", "ClipValue", "NormalizeByEMA"]
