"""Linear algebra: tensors in, tensors out."""

from .cg import CGResult, cg
from .hvp import hvp_autograd, hvp_central, hvp_forward
from .orthogonalize import newton_schulz, newton_schulz_dtype, polar
from .vector import flatten, total_dot, unflatten, unflatten_as

__all__ = [
    "CGResult",
    "cg",
    "flatten",
    "hvp_autograd",
    "hvp_central",
    "hvp_forward",
    "newton_schulz",
    "newton_schulz_dtype",
    "polar",
    "total_dot",
    "unflatten",
    "unflatten_as",
]
