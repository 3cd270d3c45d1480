"""Projections: running modules in another space."""

from .base import Projection
from .blocks import BlockPartition
from .fourier import DCTProjection, FFTProjection
from .galore import GaLore
from .norms import TensorNormsProjection
from .tensorize import TensorizeProjection
from .vector import VectorProjection

__all__ = [
    "BlockPartition",
    "DCTProjection",
    "FFTProjection",
    "GaLore",
    "Projection",
    "TensorNormsProjection",
    "TensorizeProjection",
    "VectorProjection",
]
