"""The machinery: optimizer, modules, rules and what runs them."""

from ..distributed import Reductions
from ..lang import Context, Slot
from .modular import Modular
from .module import Chain, Module
from .transform import Target, Transform
from .var import StepInfo, Var

__all__ = ["Chain", "Context", "Modular", "Module", "Reductions", "Slot", "StepInfo", "Target", "Transform", "Var"]
