"""Which parameters a vector is made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

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
    states = [module.state[p] for p in params]
    if shared.get("members", 0) == len(params) and all(s.get("epoch") == epoch for s in states):
        return True
    shared["epoch"], shared["members"] = epoch + 1, len(params)
    for s in states:
        s["epoch"] = epoch + 1
    return False


def last_params(module: Module, params: Sequence[Tensor]) -> list[Tensor]:
    """Those of some parameters that a module's last call was for.

    Args:
        module: a module that calls :func:`same_params`.
        params: the parameters.
    """
    epoch = module.global_state.get("epoch")
    return [] if epoch is None else [p for p in params if module.state[p].get("epoch") == epoch]
