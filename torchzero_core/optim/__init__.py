"""Optimizers that are no modules, and whole minimisations."""

from typing import Any as _Any

from .. import modules as _m
from . import wrappers
from .minimize import MinimizeResult, minimize
from .split import Split
from .torch_state import load_torch_state

__all__ = ["MinimizeResult", "Split", "load_torch_state", "minimize", "wrappers"]


def __getattr__(name: str) -> _Any:
    if name in _m.CHAINS:
        raise AttributeError(f"tz.optim has no {name!r}; it is a chain: tz.m.{_m.CHAINS[name][0].format(m='tz.m')}.")
    if not name.startswith("_") and hasattr(_m, name):
        raise AttributeError(f"tz.optim has no {name!r}; it is a module of a chain, tz.m.{name}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
