"""The language of rules: symbols that a formula is written with."""

from .graph import Dims, Graph, Kind, Operand, Place, Storage, Trace, Value, as_dims
from .number import Number
from .rule import Call, Context, Rule, Slot, near

__all__ = [
    "Call", "Context", "Dims", "Graph", "Kind", "Number", "Operand", "Place", "Rule", "Slot", "Storage", "Trace",
    "Value", "as_dims", "near",
]  # fmt: skip
