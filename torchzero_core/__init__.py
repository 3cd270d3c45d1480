"""Modular optimization for PyTorch: an optimizer is a chain of modules."""

from . import modules as m
from .core import Chain, Modular, Module, Reductions, Slot, StepInfo, Transform, Var

__version__ = "0.1.0"

__all__ = ["Chain", "Modular", "Module", "Reductions", "Slot", "StepInfo", "Transform", "Var", "m"]
