"""The machinery: optimizer, modules, rules and what runs them."""

from ..distributed import Reductions
from ..engine.params import Params
from ..lang import Context, Slot
from .home import StepInfo
from .modular import Modular
from .module import Chain, Module
from .transform import Target, Transform
from .var import Var

__all__ = [
    "Chain",
    "Context",
    "Modular",
    "Module",
    "Params",
    "Reductions",
    "Slot",
    "StepInfo",
    "Target",
    "Transform",
    "Var",
]
