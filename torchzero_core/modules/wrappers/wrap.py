"""Any torch optimizer as a module."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ...core import Module, StateKind, Var
from ...core.validate import check_kind


class Wrap(Module):
    """Runs a torch optimizer on the update in place of the gradient.

    The new update is what the optimizer would have moved the parameters by. Its state is part of this optimizer's
    state dict. Its defaults are settings of the module: groups can override them, and ``lr`` is the ``"lr"`` of the
    groups, so schedulers drive it. An optimizer that needs a closure (``torch.optim.LBFGS``) gets it; its first
    evaluation is the update as it comes.

    Args:
        opt_fn: an optimizer's class, or a function that makes one from parameters.
        *args: further positional arguments of it.
        **kwargs: further keyword arguments of it.

    Raises:
        TypeError: ``opt_fn`` makes something that is no optimizer.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ClipValue(1), tz.m.Wrap(torch.optim.SGD, lr=0.1, momentum=0.9))
        >>> for _ in range(2):
        ...     p.grad = torch.tensor([5.0])
        ...     optimizer.step()
        >>> round(p.item(), 4)
        -0.29
    """

    #: For groups; the wrapped optimizer checks only what its constructor is given.
    ranges = {"lr": (0, math.inf, "[)"), "eps": (0, math.inf, "[)"), "momentum": (0, 1, "[]")}

    kept = {"step": StateKind.OTHER}  # the wrapped optimizer's own, which torch keeps as a tensor
    takes_values = True

    def __init__(self, opt_fn: Callable[..., Optimizer], *args: Any, **kwargs: Any) -> None:
        self.opt_fn, self.args, self.kwargs = opt_fn, args, kwargs
        probe = _tried(opt_fn, args, kwargs)
        self.kind, self._module = type(probe).__name__, type(probe).__module__
        closure = inspect.signature(type(probe).step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        super().__init__(probe.defaults)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        for name, default in self.defaults.items():
            if isinstance(default, (int, float)):
                check_kind(name, settings[name], type(default) if isinstance(default, bool) else float, "Wrap: ")

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether the optimizer needs a closure."""
        return self._needs_closure

    def step(self, var: Var) -> Var:
        update, params = var.get_update(), var.params
        if not params:
            return var
        assert var.modular is not None
        derived = var.modular.all_params.derived
        inner: _Inner | None = derived.get(self)
        if inner is None or not inner.serves(var):
            inner = derived[self] = _Inner(self, var)
        start = [p.detach().clone() for p in params]
        var.modular.transaction.lend(params, start)
        try:
            inner.step(var, update)
        except BaseException:
            torch._foreach_copy_(params, start)
            del derived[self]
            raise
        if self._ends(var):
            var.skip_update = True
            return var
        var.update = list(torch._foreach_sub(start, params))
        torch._foreach_copy_(params, start)
        return var

    def _ends(self, var: Var) -> bool:
        """Whether nothing comes after it, so that the parameters may stay where the optimizer moved them."""
        modular = var.modular
        if modular is None or var.nested or modular.lr_scales_update or modular.watchers.apart:
            return False
        return modular.modules[-1] is self

    @property
    def foreign(self) -> bool:
        """Whether the optimizer is somebody else's."""
        return not self._module.startswith("torch.optim")

    def extra_repr(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return ", ".join([self.kind, *shown])


#: Shapes of the parameter that an optimizer is tried on. Some take only matrices, or only convolutions.
SHAPES = [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (), (16, 16)]


def _tried(opt_fn: Callable[..., Optimizer], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Optimizer:
    """The optimizer on some parameter, so that wrong arguments show at once, and for its defaults.

    Raises:
        TypeError: it is no optimizer.
    """
    refusal: Exception | None = None
    for shape in SHAPES:
        try:
            probe = opt_fn([torch.zeros(shape, requires_grad=True)], *args, **kwargs)
        except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
            refusal = refusal or error
            continue
        if not isinstance(probe, Optimizer):
            raise TypeError(f"Wrap needs a torch optimizer; {opt_fn!r} made {probe!r}.")
        return probe
    assert refusal is not None
    raise refusal


class _Inner:
    """The wrapped optimizer at work on stand-ins that share the parameters' memory but not their ``grad``."""

    def __init__(self, module: Wrap, var: Var) -> None:
        assert var.modular is not None
        self.module, self.settings_version = module, var.modular.settings_version
        self.params = list(var.params if var.nested else var.modular.all_params)
        self.twins = {id(p): p.detach().requires_grad_() for p in self.params}
        self.members = self._members()
        groups = [
            {"params": [self.twins[id(p)] for p in members], **module.settings[members[0]]} for members in self.members
        ]
        self.optimizer = module.opt_fn(groups, *module.args, **module.kwargs)
        self.given = [dict(module.settings[members[0]]) for members in self.members]
        for i, group in enumerate(self.optimizer.param_groups):
            group.update(module.global_state.get(f"group{i}", {}))
        for p in self.params:
            if len(module.state[p]):
                self.optimizer.state[self.twins[id(p)]] = {
                    k: v for k, v in module.state[p].items() if not k.startswith("group")
                }

    def _members(self) -> list[list[Tensor]]:
        """The parameters by their settings."""
        groups: dict[int, list[Tensor]] = {}
        for p in self.params:
            groups.setdefault(id(self.module.settings[p]), []).append(p)
        return list(groups.values())

    def serves(self, var: Var) -> bool:
        """Whether this is up to date."""
        if any(id(p) not in self.twins for p in var.params) or not all(map(self._has_state, self.params)):
            return False
        assert var.modular is not None
        if self.settings_version != var.modular.settings_version:
            if [[id(p) for p in g] for g in self._members()] != [[id(p) for p in g] for g in self.members]:
                return False
            for group, given, members in zip(self.optimizer.param_groups, self.given, self.members, strict=True):
                for name, value in self.module.settings[members[0]].items():
                    if isinstance(value, Tensor) or value != given[name]:
                        group[name] = given[name] = value
            self.settings_version = var.modular.settings_version
        return True

    def _has_state(self, param: Tensor) -> bool:
        """Whether the wrapped optimizer works on the state that is kept: anybody may edit that."""
        state = self.module.state[param]
        return all(state.get(k) is v for k, v in self.optimizer.state.get(self.twins[id(param)], {}).items())

    def step(self, var: Var, update: Iterable[Tensor]) -> None:
        """Let the optimizer move the parameters, and keep its state."""
        for twin in self.twins.values():
            twin.grad = None
        for p, u in zip(var.params, update, strict=True):
            self.twins[id(p)].grad = u
        if self.module.requires_closure:
            self.optimizer.step(self._closure(var))
        else:
            self.optimizer.step()
        module = self.module
        for p in self.params:
            state, inside = module.state[p], self.optimizer.state.get(self.twins[id(p)], {})
            for name in [k for k in state if k not in inside and not k.startswith("group")]:
                del state[name]
            state.update(inside)
        for i, (group, given) in enumerate(zip(self.optimizer.param_groups, self.given, strict=True)):
            own = {k: v for k, v in group.items() if k != "params" and not (k in given and given[k] is v)}
            if own:
                module.global_state[f"group{i}"] = own

    def _closure(self, var: Var) -> Callable[[], Any]:
        evaluated = False

        def closure() -> Any:
            nonlocal evaluated
            if not evaluated:
                evaluated = True
                return var.get_loss()
            assert var.closure is not None
            loss = var.closure(True)
            for p in var.params:
                self.twins[id(p)].grad = p.grad
            return loss

        return closure
