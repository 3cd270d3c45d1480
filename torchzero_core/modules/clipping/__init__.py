"""Clipping and normalisation."""

from .centralize import Centralize
from .clip_norm import ClipNorm
from .clip_value import ClipValue
from .ema_norm import ClipNormByEMA, NormalizeByEMA
from .normalize import Normalize

__all__ = ["Centralize", "ClipNorm", "ClipNormByEMA", "ClipValue", "Normalize", "NormalizeByEMA"]
