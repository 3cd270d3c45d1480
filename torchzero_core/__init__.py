"""Modular optimization for PyTorch: an optimizer is a chain of modules."""

from typing import Any as _Any

from . import modules as m
from . import optim, recipes
from .core import (
    Advice,
    Chain,
    Context,
    Modular,
    Module,
    RankMeans,
    Reductions,
    Slot,
    StepInfo,
    Transform,
    Value,
    Var,
    stopping,
)
from .core.grouping import groups
from .core.kinds import kinds
from .optim import MinimizeResult, minimize

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Chain",
    "Context",
    "MinimizeResult",
    "Modular",
    "Module",
    "RankMeans",
    "Reductions",
    "Slot",
    "StepInfo",
    "Transform",
    "Value",
    "Var",
    "groups",
    "kinds",
    "m",
    "minimize",
    "optim",
    "recipes",
    "stopping",
]


def __getattr__(name: str) -> _Any:
    if not name.startswith("_") and name != "m" and hasattr(m, name):
        raise AttributeError(f"torchzero_core has no {name!r}; modules are in tz.m: tz.m.{name}.")
    raise AttributeError(f"module 'torchzero_core' has no attribute {name!r}")
