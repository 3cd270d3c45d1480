"""Low-level operations on updates and on the results of modules."""

from .accumulate import AccumulateMaximum
from .base import BinaryOperation, MultiOperation, ReduceOperation
from .binary import Add, Div, Mul, Pow, Sub
from .filters import hidden_matrices
from .gradient_accumulation import GradientAccumulation
from .multi import DivModules, GraftModules, Sum
from .split import Split
from .unary import Sign, Sqrt
from .utility import Clone, Grad, Identity, NoOp

__all__ = [
    "AccumulateMaximum",
    "Add",
    "BinaryOperation",
    "Clone",
    "Div",
    "DivModules",
    "Grad",
    "GradientAccumulation",
    "GraftModules",
    "Identity",
    "Mul",
    "MultiOperation",
    "NoOp",
    "Pow",
    "ReduceOperation",
    "Sign",
    "Split",
    "Sqrt",
    "Sub",
    "Sum",
    "hidden_matrices",
]
