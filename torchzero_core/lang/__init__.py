"""The language of rules: symbols that a formula is written with."""

from .graph import Host, Number, Operand, Trace, Value
from .rule import Context, Rule, Slot

__all__ = ["Context", "Host", "Number", "Operand", "Rule", "Slot", "Trace", "Value"]
