"""Low-level operations on updates and on the results of modules."""

from .accumulate import AccumulateMaximum, AccumulateMean, AccumulateMinimum, AccumulateProduct, AccumulateSum
from .base import BinaryOperation, MultiOperation, ReduceOperation
from .binary import (
    Add,
    Clip,
    CopyMagnitude,
    CopySign,
    Div,
    Lerp,
    Maximum,
    Minimum,
    MirroredClip,
    Mul,
    Pow,
    RCopySign,
    RDiv,
    RPow,
    RSub,
    Sub,
    Threshold,
    Where,
)
from .filters import hidden_matrices
from .functions import CustomUnaryOperation, UnaryLambda, UnaryParameterwiseLambda
from .gradient_accumulation import GradientAccumulation
from .graft import Graft, GraftModules, GraftToUpdate, GramSchimdt, GramSchmidt, RGraft
from .multi import ClipModules, DivModules, LerpModules, PowModules, SubModules
from .random import Randn, RandomSample, Uniform
from .reduce import MaximumModules, Mean, MedianModules, MinimumModules, Prod, Sum, WeightedMean, WeightedSum
from .rescale import Rescale
from .split import Split
from .switch import Alternate, Switch
from .unary import Abs, Exp, NanToNum, Negate, Reciprocal, Sign, Sqrt
from .utility import Clone, Fill, Grad, GradToNone, Identity, NoOp, Ones, Params, Update, UpdateToNone, Zeros
from .binary import Add, Div, Mul, Pow, Sub
from .dropout import Dropout, NoiseSign, WeightDropout
from .gradient import (
    GradSign,
    GraftGradToUpdate,
    GraftToGrad,
    GraftToParams,
    LastGradDifference,
    Relative,
    UpdateSign,
from .loss import DivByLoss, FillLoss, MulByLoss, NegateOnLossIncrease
from .multi import DivModules, GraftModules, Sum
from .previous import LastAbsoluteRatio, LastDifference, LastProduct, LastRatio, Previous
from .printing import PrintShape, PrintUpdate
from .steps import Multistep, Sequential
from .unary import Sign, Sqrt
from .utility import Clone, Grad, Identity, NoOp

__all__ = [
    "Abs",
    "AccumulateMaximum",
    "AccumulateMean",
    "AccumulateMinimum",
    "AccumulateProduct",
    "AccumulateSum",
    "Add",
    "Alternate",
    "BinaryOperation",
    "Clip",
    "ClipModules",
    "Clone",
    "CopyMagnitude",
    "CopySign",
    "CustomUnaryOperation",
    "Div",
    "DivByLoss",
    "DivModules",
    "Exp",
    "Fill",
    "Grad",
    "GradToNone",
    "GradientAccumulation",
    "Graft",
    "GraftModules",
    "GraftToUpdate",
    "GramSchimdt",
    "GramSchmidt",
    "Identity",
    "Lerp",
    "LerpModules",
    "Maximum",
    "MaximumModules",
    "Mean",
    "MedianModules",
    "Minimum",
    "MinimumModules",
    "MirroredClip",
    "Dropout",
    "FillLoss",
    "GradSign",
    "GraftGradToUpdate",
    "GraftToGrad",
    "GraftToParams",
    "LastAbsoluteRatio",
    "LastDifference",
    "LastGradDifference",
    "LastProduct",
    "LastRatio",
    "Mul",
    "MulByLoss",
    "MultiOperation",
    "NanToNum",
    "Negate",
    "NoOp",
    "Ones",
    "Params",
    "Pow",
    "PowModules",
    "Prod",
    "RCopySign",
    "RDiv",
    "RGraft",
    "RPow",
    "RSub",
    "Randn",
    "RandomSample",
    "Reciprocal",
    "ReduceOperation",
    "Rescale",
    "Multistep",
    "NegateOnLossIncrease",
    "NoiseSign",
    "Previous",
    "PrintShape",
    "PrintUpdate",
    "Relative",
    "Sequential",
    "Sign",
    "Split",
    "Sqrt",
    "Sub",
    "SubModules",
    "Sum",
    "Switch",
    "Threshold",
    "UnaryLambda",
    "UnaryParameterwiseLambda",
    "Uniform",
    "Update",
    "UpdateToNone",
    "WeightedMean",
    "WeightedSum",
    "Where",
    "Zeros",
    "UpdateSign",
    "WeightDropout",
    "hidden_matrices",
]
