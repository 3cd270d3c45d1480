"""Weight decay."""

from .direct import DirectWeightDecay
from .weight_decay import WeightDecay

__all__ = ["DirectWeightDecay", "WeightDecay"]
