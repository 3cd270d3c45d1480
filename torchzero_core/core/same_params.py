"""Which parameters a vector is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..engine.params import Params
from .module import Module


def same_params(module: Module, params: Sequence[Tensor]) -> bool:
    """Whether a module's last call was for the same parameters; notes these for the next call.

    A method that keeps all parameters as one vector has to start anew when a gradient is missing that was there
    before, or the other way round. The answer is read from the module's state, so a resumed run agrees.

    Args:
        module: the module.
        params: the parameters of this step.
    """
    shared = module.global_state
    epoch = shared.get("epoch", 0)
    places = _places(module, params)
    if shared.get("members", 0) == len(params) and [store.get(key) for store, key in places] == [epoch] * len(places):
        return True
    shared["epoch"], shared["members"] = epoch + 1, len(params)
    for store, key in places:
        store[key] = epoch + 1
    return False


def _places(module: Module, params: Sequence[Tensor]) -> list[tuple[dict[str, Any], str]]:
    """For each parameter, the dict that says when it was last part of the vector, and the name there."""
    known: list[tuple[dict[str, Any], str]] | None = None
    if isinstance(params, Params):
        known = params.derived.get((module, "epoch"))
    if known is None:
        known = [(store, f"{prefix}epoch") for store, prefix in map(module.locate, params)]
        if isinstance(params, Params):
            params.derived[module, "epoch"] = known
    return known


def last_params(module: Module, params: Sequence[Tensor]) -> list[Tensor]:
    """Those of some parameters that a module's last call was for.

    Args:
        module: a module that calls :func:`same_params`.
        params: the parameters.
    """
    epoch = module.global_state.get("epoch")
    return [] if epoch is None else [p for p in params if module.state[p].get("epoch") == epoch]
