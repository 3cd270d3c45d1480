"""The machinery: optimizer, modules, rules and what runs them."""

from ..distributed import Reductions
from ..lang import Context, Slot
from .declare import Beta, Count, Fraction, NonNegative, OpenFraction, Passed, Positive, Range, per_group
from .modular import Modular
from .module import Chain, Child, Module, Modules
from .transform import Target, Transform
from .var import StepInfo, Var

__all__ = [
    "Beta",
    "Chain",
    "Child",
    "Context",
    "Count",
    "Fraction",
    "Modular",
    "Module",
    "Modules",
    "NonNegative",
    "OpenFraction",
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
