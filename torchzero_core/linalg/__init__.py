"""Linear algebra: tensors in, tensors out."""

from .blocks import add_gram_, gram, merge_dims, multiply_along, split_blocks, symmetric, unfold
from .cg import CGResult, cg
from .dct import dct, idct
from .dense import hessian, jacobian, solve_symmetric, solved_by_cholesky
from .eigen import eigenbasis, eigh, refresh_eigenbasis
from .hvp import HVPMethod, hvp, hvp_autograd, hvp_central, hvp_forward
from .nystrom import nystrom
from .operators import DenseOperator, GramOperator, InverseOperator, SymmetricOperator
from .orthogonalize import newton_schulz, newton_schulz_dtype, polar
from .qr import orthonormal_columns
from .roots import inverse_root
from .vector import all_finite, at_least_float32, elsewhere, flatten, short_vector, total_dot, unflatten, unflatten_as

__all__ = [
    "CGResult",
    "DenseOperator",
    "GramOperator",
    "HVPMethod",
    "InverseOperator",
    "SymmetricOperator",
    "add_gram_",
    "all_finite",
    "at_least_float32",
    "cg",
    "dct",
    "eigenbasis",
    "eigh",
    "elsewhere",
    "flatten",
    "gram",
    "hessian",
    "hvp",
    "hvp_autograd",
    "hvp_central",
    "hvp_forward",
    "idct",
    "inverse_root",
    "jacobian",
    "merge_dims",
    "multiply_along",
    "newton_schulz",
    "newton_schulz_dtype",
    "nystrom",
    "orthonormal_columns",
    "polar",
    "refresh_eigenbasis",
    "short_vector",
    "solve_symmetric",
    "solved_by_cholesky",
    "split_blocks",
    "symmetric",
    "total_dot",
    "unflatten",
    "unflatten_as",
    "unfold",
]
