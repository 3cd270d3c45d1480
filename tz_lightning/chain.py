"""The optimizer that a configuration file can spell."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from torchzero_core.core import Modular, Module
from torchzero_core.core.closure import Closure
from torchzero_core.core.grouping import Groups
from torchzero_core.core.grouping import groups as group_parameters
from torchzero_core.core.mistakes import no_module, shown
from torchzero_core.modules import Split

from .closure import ClosureModule
from .compat import OTHER_PACKAGE, module_of_lightning_closure, of_other_package

_MODEL: ContextVar[nn.Module | None] = ContextVar("model", default=None)


@contextmanager
def parameters_of(model: nn.Module) -> Iterator[None]:
    """Chains that are made in the block of nothing but tensors know their names from a model.

    Args:
        model: the model.
    """
    token = _MODEL.set(model)
    try:
        yield
    finally:
        _MODEL.reset(token)


class ModularChain(Modular):
    """A :class:`~torchzero_core.core.Modular` whose modules come as a list, as YAML and the command line give them.

    Args:
        params: tensors, (name, tensor) pairs, dicts that define groups, or a model.
        modules: the chain. The optimizer gets a copy of it, so that a function which makes optimizers, as Lightning
            injects it into a model, can be called again.
        groups: settings for some parameters, by kind ("norms", "biases", "embeddings", "head", "hidden_matrices"), by
            name or by a pattern of names; see :func:`torchzero_core.groups`. The optimizer has to know names then: give
            it the model, or ``model.named_parameters()``.
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

        Without decay for biases:

        >>> groups = {"biases": {"weight_decay": 0}}
        >>> chain = ModularChain(torch.nn.Linear(2, 2), tz.recipes.adamw(lr=1e-3), groups)
        >>> [(group["name"], group["weight_decay"]) for group in chain.param_groups]
        [('default', 0.01), ('biases', 0)]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]] | nn.Module,
        modules: list[Module],
        groups: dict[str, dict[str, Any]] | None = None,
        compile: bool = False,
        deterministic: bool | None = None,
        advice: bool = True,
        state_dtype: str | dict[str, str] | None = None,
        stochastic_rounding: bool | int = False,
    ) -> None:
        _check_modules(modules, groups)
        chain = copy.deepcopy([modules] if isinstance(modules, Module) else modules)
        model = params if isinstance(params, nn.Module) else _MODEL.get()
        if groups:
            params = grouped(params, groups, "ModularChain(groups=...)")
        super().__init__(
            params,
            *chain,
            compile=compile,
            deterministic=deterministic,
            advice=advice,
            state_dtype=state_dtype,
            stochastic_rounding=stochastic_rounding,
        )
        self.model = model
        for module in self.unrolled_modules if model is not None else ():
            if isinstance(module, Split):
                module.choice()  # refuses what fits no parameter here, and not at the first step


def _check_modules(modules: Any, groups: Any) -> None:
    """Refuse modules that are given as :class:`Modular` takes them, and what makes modules."""
    if isinstance(groups, Module):
        raise TypeError(
            "ModularChain takes its modules as a list, ModularChain(params, [tz.m.Adam(), tz.m.LR(1e-3)]); Modular "
            "takes them one by one."
        )
    if not isinstance(modules, (Module, Sequence)) or isinstance(modules, str):
        raise TypeError(f"ModularChain takes a list of modules, not {shown(modules)}.{no_module(modules)}")


def grouped(params: Any, groups: Mapping[str, Mapping[str, Any]], who: str) -> Groups:
    """The groups of what an optimizer is made of.

    Args:
        params: a model, (name, tensor) pairs, or tensors where the model is known.
        groups: settings by kind, name or pattern.
        who: has to know names, for the message.

    Raises:
        ValueError: nobody knows the names of the parameters; a key fits none.
    """
    if isinstance(params, nn.Module):
        return group_parameters(params, groups)
    given = list(params)
    if given and all(isinstance(pair, tuple) for pair in given):
        return group_parameters(given, groups)
    model = _MODEL.get()
    if model is None or not all(isinstance(p, Tensor) for p in given):
        raise ValueError(
            f"{who} must know the names of the parameters and the layers that they belong to: make "
            "it of the model, optimizer(model), or of its names, optimizer(model.named_parameters())."
        )
    return group_parameters(model, groups, given)


def _refuse_lightning_s_closure(modular: Modular, closure: Closure) -> None:
    """Refuse a closure that Lightning has made where it would be evaluated several times."""
    module = module_of_lightning_closure(closure)
    if module is None:
        return
    package = f" {OTHER_PACKAGE}" if of_other_package(module) else ""
    needy = next(m for m in modular.unrolled_modules if m.requires_closure)
    if not module.automatic_optimization:
        raise RuntimeError(
            f"{needy.path} evaluates the loss several times a step, with and without gradients, which optimizer.step "
            "in manual optimization leaves no way to. Call tz_lightning.closure_step(self, optimizer, fn) instead, "
            f"where fn() returns the loss.{package}"
        )
    if isinstance(module, ClosureModule):
        raise RuntimeError(
            f"{needy.path} evaluates the loss several times a step, and {type(module).__name__}.configure_callbacks "
            "leaves out the callback that does it: return [*super().configure_callbacks(), ...]."
        )
    raise RuntimeError(
        f"{needy.path} evaluates the loss several times a step, which Lightning's automatic optimization would "
        "log and count each time. Give the Trainer the callback tz_lightning.ClosureOptimization(), or derive "
        f"the model from tz_lightning.ClosureModule.{package}"
    )


Modular.closure_guards[:] = [_refuse_lightning_s_closure]  # in the place of a warning
