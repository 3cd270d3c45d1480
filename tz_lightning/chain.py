"""The optimizer that a configuration file can spell."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from torchzero_core.core import Modular, Module
from torchzero_core.core.closure import Closure

from .compat import module_of_lightning_closure


class ModularChain(Modular):
    """A :class:`~torchzero_core.core.Modular` whose modules come as a list, as YAML and the command line give them.

    Args:
        params: tensors, (name, tensor) pairs, dicts that define groups, or a model.
        modules: the chain. The optimizer gets a copy of it, so that a function which makes optimizers, as Lightning
            injects it into a model, can be called again.
        compile: run the rules of the chain as generated kernels.
        deterministic: the closure is the same function at every step; see :class:`~torchzero_core.core.Modular`.
        advice: warn of an order of modules that makes one of them useless.
        state_dtype: the dtype of declared state, "bfloat16" for example, or one for each of some modules by path.
        stochastic_rounding: round new bfloat16 parameters at random; a number is the seed.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from tz_lightning import ModularChain
        >>> p = torch.zeros(1, requires_grad=True)
        >>> ModularChain([p], [tz.m.Adam(), tz.m.LR(1e-2)]).param_groups[0]["lr"]
        0.01
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]] | nn.Module,
        modules: list[Module],
        compile: bool = False,
        deterministic: bool = False,
        advice: bool = True,
        state_dtype: str | dict[str, str] | None = None,
        stochastic_rounding: bool | int = False,
    ) -> None:
        chain = copy.deepcopy([modules] if isinstance(modules, Module) else modules)
        super().__init__(
            params,
            *chain,
            compile=compile,
            deterministic=deterministic,
            advice=advice,
            state_dtype=state_dtype,
            stochastic_rounding=stochastic_rounding,
        )


def _refuse_lightning_s_closure(modular: Modular, closure: Closure) -> None:
    """Refuse a closure that Lightning has made where it would be evaluated several times."""
    module = module_of_lightning_closure(closure)
    if module is None:
        return
    needy = next(m for m in modular.unrolled_modules if m.requires_closure)
    if not module.automatic_optimization:
        raise RuntimeError(
            f"{needy.path} evaluates the loss several times a step, with and without gradients, which optimizer.step "
            "in manual optimization leaves no way to. Call tz_lightning.closure_step(self, optimizer, fn) instead, "
            "where fn() returns the loss."
        )
    raise RuntimeError(
        f"{needy.path} evaluates the loss several times a step, which Lightning's automatic optimization would "
        "log and count each time. Give the Trainer the callback tz_lightning.ClosureOptimization(), or derive "
        "the model from tz_lightning.ClosureModule."
    )


Modular.closure_guards.append(_refuse_lightning_s_closure)
