"""The language of rules: symbols that a formula is written with."""

from .graph import Dims, Graph, Kind, Operand, Place, Storage, Trace, Value, as_dims
from .number import Number
from .ops import is_function
from .rule import Call, Context, Distribution, Rule, Slot, near
from .sorting import median, middle

__all__ = [
    "Call", "Context", "Dims", "Distribution", "Graph", "Kind", "Number", "Operand", "Place", "Rule", "Slot", "Storage",
    "Trace", "Value", "as_dims", "is_function", "median", "middle",
    "near",
]  # fmt: skip
