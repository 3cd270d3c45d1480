"""The machinery: optimizer, modules, rules and what runs them."""

from ..distributed import RankMeans, Reductions
from ..engine.params import Params
from ..lang import Context, Slot, Value
from .advice import Advice
from .declare import (
    Beta,
    Check,
    Count,
    Finite,
    Fraction,
    Length,
    Natural,
    NonNegative,
    OpenFraction,
    Order,
    Passed,
    Positive,
    Range,
    Seed,
    per_group,
)
from .home import StepInfo
from .kept import StateKind
from .modular import Modular
from .module import Chain, Child, Input, Module, Modules
from .rounding import StochasticRounding
from .transform import Target, Transform
from .var import Var

__all__ = [
    "Advice",
    "Beta",
    "Chain",
    "Check",
    "Child",
    "Context",
    "Count",
    "Finite",
    "Fraction",
    "Input",
    "Length",
    "Modular",
    "Module",
    "Modules",
    "Natural",
    "NonNegative",
    "OpenFraction",
    "Order",
    "Params",
    "Passed",
    "Positive",
    "Range",
    "RankMeans",
    "Reductions",
    "Seed",
    "Slot",
    "StateKind",
    "StepInfo",
    "StochasticRounding",
    "Target",
    "Transform",
    "Value",
    "Var",
    "per_group",
]
