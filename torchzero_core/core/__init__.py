"""The machinery: optimizer, modules, rules and what runs them."""

from ..distributed import Reductions
from ..engine.params import Params
from ..lang import Context, Slot
from .declare import Beta, Check, Count, Fraction, NonNegative, OpenFraction, Passed, Positive, Range, per_group
from .home import StepInfo
from .modular import Modular
from .module import Chain, Child, Input, Module, Modules
from .transform import Target, Transform
from .var import Var

__all__ = [
    "Beta",
    "Chain",
    "Check",
    "Child",
    "Context",
    "Count",
    "Fraction",
    "Input",
    "Modular",
    "Module",
    "Modules",
    "NonNegative",
    "OpenFraction",
    "Params",
    "Passed",
    "Positive",
    "Range",
    "Reductions",
    "Slot",
    "StepInfo",
    "Target",
    "Transform",
    "Var",
    "per_group",
]
