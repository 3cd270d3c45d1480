"""Linear algebra: tensors in, tensors out."""

from .blocks import add_gram_, gram, merge_dims, multiply_along, split_blocks, unfold
from .cg import CGResult, cg
from .eigen import eigenbasis, eigh, refresh_eigenbasis
from .hvp import hvp_autograd, hvp_central, hvp_forward
from .orthogonalize import newton_schulz, newton_schulz_dtype, polar
from .roots import inverse_root
from .vector import at_least_float32, flatten, total_dot, unflatten, unflatten_as

__all__ = [
    "CGResult",
    "add_gram_",
    "at_least_float32",
    "cg",
    "eigenbasis",
    "eigh",
    "flatten",
    "gram",
    "hvp_autograd",
    "hvp_central",
    "hvp_forward",
    "inverse_root",
    "merge_dims",
    "multiply_along",
    "newton_schulz",
    "newton_schulz_dtype",
    "polar",
    "refresh_eigenbasis",
    "split_blocks",
    "total_dot",
    "unflatten",
    "unflatten_as",
    "unfold",
]
