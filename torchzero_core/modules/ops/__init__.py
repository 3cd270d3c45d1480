"""Low-level operations on updates and on the results of modules."""

from .accumulate import AccumulateMaximum
from .base import BinaryOperation, MultiOperation, ReduceOperation
from .binary import Add, Div, Mul, Pow, Sub
from .dropout import Dropout, NoiseSign, WeightDropout
from .filters import hidden_matrices
from .gradient import (
    GradSign,
    GraftGradToUpdate,
    GraftToGrad,
    GraftToParams,
    LastGradDifference,
    Relative,
    UpdateSign,
)
from .gradient_accumulation import GradientAccumulation
from .loss import DivByLoss, FillLoss, MulByLoss, NegateOnLossIncrease
from .multi import DivModules, GraftModules, Sum
from .previous import LastAbsoluteRatio, LastDifference, LastProduct, LastRatio, Previous
from .printing import PrintShape, PrintUpdate
from .split import Split
from .steps import Multistep, Sequential
from .unary import Sign, Sqrt
from .utility import Clone, Grad, Identity, NoOp

__all__ = [
    "AccumulateMaximum",
    "Add",
    "BinaryOperation",
    "Clone",
    "Div",
    "DivByLoss",
    "DivModules",
    "Dropout",
    "FillLoss",
    "Grad",
    "GradSign",
    "GradientAccumulation",
    "GraftGradToUpdate",
    "GraftModules",
    "GraftToGrad",
    "GraftToParams",
    "Identity",
    "LastAbsoluteRatio",
    "LastDifference",
    "LastGradDifference",
    "LastProduct",
    "LastRatio",
    "Mul",
    "MulByLoss",
    "MultiOperation",
    "Multistep",
    "NegateOnLossIncrease",
    "NoOp",
    "NoiseSign",
    "Pow",
    "Previous",
    "PrintShape",
    "PrintUpdate",
    "ReduceOperation",
    "Relative",
    "Sequential",
    "Sign",
    "Split",
    "Sqrt",
    "Sub",
    "Sum",
    "UpdateSign",
    "WeightDropout",
    "hidden_matrices",
]
