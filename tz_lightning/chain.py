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
        deterministic: bool | None = None,
        advice: bool = True,
    ) -> None:
        chain = copy.deepcopy([modules] if isinstance(modules, Module) else modules)
        super().__init__(params, *chain, compile=compile, deterministic=deterministic, advice=advice)


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
