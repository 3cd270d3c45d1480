"""The machinery: optimizer, modules, rules and what runs them."""

from .chain import Chain
from .distributed import Reductions
from .modular import Modular
from .module import Module
from .transform import Context, Slot, Target, Transform
from .var import StepInfo, Var

__all__ = ["Chain", "Context", "Modular", "Module", "Reductions", "Slot", "StepInfo", "Target", "Transform", "Var"]
