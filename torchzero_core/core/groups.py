"""Parameter groups: what may stand in one, and whether it has changed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .module import Module
from .near import near
from .settings import check_group, unknown_keys


class GroupValues:
    """The values of all groups at some time.

    Args:
        groups: the groups.
        modules: of the chain.
        before: the values at an earlier time; what has changed since is checked.

    Raises:
        ValueError: a value that a module does not take.
    """

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], modules: Sequence[Module], before: GroupValues | None
    ) -> None:
        known = before.groups if before is not None and len(before.groups) == len(groups) else [{} for _ in groups]
        for group, old in zip(groups, known, strict=True):
            check_keys(group.keys() - old.keys(), modules)
            check_group(group, modules, old)
        self.groups: list[dict[str, Any]] = [
            {k: v if k == "params" else _kept(v) for k, v in group.items()} for group in groups
        ]
        self._tensors = any(isinstance(v, Tensor) for group in groups for k, v in group.items() if k != "params")

    def differ(self, before: GroupValues) -> bool:
        """Whether more than learning rates have changed."""
        if self._tensors or len(self.groups) != len(before.groups):
            return True

        def rest(group: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in group.items() if k not in ("lr", "params")}

        try:
            return [rest(g) for g in self.groups] != [rest(g) for g in before.groups]
        except (RuntimeError, ValueError):
            return True

    def same(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the groups have these values. Those of tensors may have been changed in place, so they never have."""
        if self._tensors:
            return False
        try:
            return self.groups == groups
        except (RuntimeError, ValueError):  # a tensor or an array has no truth value
            return False


def _kept(value: Any) -> Any:
    """A value as it is now: a list or an array may be written to, and would be equal to itself."""
    return copy.copy(value) if isinstance(value, (list, dict, np.ndarray)) else value


def check_keys(keys: Iterable[Any], modules: Sequence[Module]) -> None:
    """Refuse keys that no module knows.

    Args:
        keys: of a parameter group.
        modules: of the chain.

    Raises:
        ValueError: naming the key.
    """
    unknown = unknown_keys(keys, modules)
    if not unknown:
        return
    names = sorted({name for m in modules for name in m.defaults} | {"lr"})
    key = str(unknown[0])
    paths = [f"{m.path}.{name}" for m in modules for name in m.defaults] if "." in key else []
    found = near(key, paths, 1, 0.8) or near(key.rsplit(".", 1)[-1], names, 1)
    raise ValueError(
        f"A parameter group has the key {unknown[0]!r}, which no module of this chain knows. "
        + (f"Did you mean {found[0]!r}? " if found else "")
        + f"Known settings: {', '.join(names)}; address one module with its path, as in "
        f"'{modules[0].path}.{next(iter(modules[0].defaults), 'setting')}'."
    )


def check_new_group(group: Mapping[str, Any], modules: Sequence[Module]) -> None:
    """Refuse what is no group, keys that no module knows and values out of range.

    Raises:
        ValueError: naming the key.
    """
    if "params" not in group:
        found = near("params", map(str, group), 1)
        way = (
            f"Did you mean it by {found[0]!r}?" if found else "A group is a dict such as {'params': [...], 'lr': 0.01}."
        )
        raise ValueError(f"A parameter group has no key 'params'. {way}")
    check_keys(group, modules)
    check_group(group, modules)


def checked_params(params: Any, known: Iterable[Tensor]) -> list[Any]:
    """The parameters of a new group as a list.

    Args:
        params: a tensor, or an iterable of tensors or of (name, tensor) pairs.
        known: those that the optimizer has already.

    Raises:
        TypeError: a set, or something that has no tensors in it.
        ValueError: a parameter that is there already, or that cannot be optimized.
    """
    if isinstance(params, Tensor):
        params = [params]
    elif isinstance(params, (set, frozenset)):
        raise TypeError("The parameters of a group must be in a list, not a set: their order is part of the state.")
    if isinstance(params, nn.Module) and not isinstance(params, nn.ParameterList):
        raise TypeError(
            f"The parameters of a group must be a tensor or a list of tensors, not a {type(params).__name__}; "
            "give its parameters, {'params': model.parameters()}."
        )
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes)):
        raise TypeError(f"The parameters of a group must be a tensor or a list of tensors, not {params!r}.")
    params = list(params)
    bad = next((item for item in params if isinstance(item, tuple) and len(item) < 2), None)
    if bad is not None:
        raise TypeError(f"A parameter with its name is a pair, ('weight', tensor), not {bad!r}.")
    seen = set(map(id, known))
    for i, item in enumerate(params):
        p = item[1] if isinstance(item, tuple) else item
        if isinstance(p, nn.Module) or inspect.isgenerator(p):
            what = "a generator" if inspect.isgenerator(p) else f"a {type(p).__name__}"
            raise TypeError(
                f"Parameter {i} of the group is no tensor but {what}. A model is given as it is, "
                "tz.Modular(model, ...); of several the parameters are put into one list, "
                "[*a.parameters(), *b.parameters()], or each into a group, [{'params': a.parameters()}, "
                "{'params': b.parameters()}]."
            )
        if id(p) in seen:
            raise ValueError(f"Parameter {i} of the group (shape {tuple(p.shape)}) appears in the optimizer twice.")
        seen.add(id(p))
        if isinstance(p, Tensor) and p.is_complex():
            raise ValueError(
                f"Parameter {i} of the group is complex ({p.dtype}). Optimize torch.view_as_real(p) as a real "
                "parameter and build the complex one from it with torch.view_as_complex."
            )
        if isinstance(p, Tensor) and not p.is_floating_point():
            raise ValueError(f"Parameter {i} of the group has dtype {p.dtype}; only floating point can be optimized.")
    return params


def named_alike(params: list[Any], groups: Sequence[Mapping[str, Any]], model: nn.Module | None) -> list[Any]:
    """The parameters of a new group with their names, where those of the groups before have names.

    torch wants names in all groups or in none, and an optimizer that was given a model has them without being asked.

    Args:
        params: tensors or (name, tensor) pairs.
        groups: those that the optimizer has already.
        model: knows the names, where one was given.

    Raises:
        ValueError: names here and none before, or the other way round.
    """
    named = any(isinstance(item, tuple) for item in params)
    if not groups or not params or named == ("param_names" in groups[0]):
        return params
    if named:
        raise ValueError(
            "The parameters of the new group have names, and those of the groups before have none: give it "
            "layer.parameters() in the place of layer.named_parameters()."
        )
    names = {id(p): name for name, p in model.named_parameters()} if model is not None else {}
    if not all(id(p) in names for p in params):
        raise ValueError(
            "The parameters of the groups before have names, and those of the new group have none: give it "
            "{'params': layer.named_parameters()}, or add the layer to the model first, which then knows the names."
        )
    return [(names[id(p)], p) for p in params]


def default_values(modules: Sequence[Module]) -> tuple[dict[str, Any], bool]:
    """What torch's schedulers look for in a group.

    Args:
        modules: of the chain.

    Returns:
        The lr, and momentum, betas or weight_decay where the chain has one value for them; and whether the lr is no
        module's.
    """

    def common(name: str) -> list[Any]:
        values = [m.defaults[name] for m in modules if m.defaults.get(name) is not None]
        return values[:1] if values and all(v is values[0] or v == values[0] for v in values) else []

    lr = common("lr")
    defaults: dict[str, Any] = {"lr": lr[0] if lr else 1.0}
    for name in ("momentum", "weight_decay"):
        if found := common(name):
            defaults[name] = found[0]
    beta1, beta2 = common("beta1"), common("beta2")
    pairs = [tuple(m.defaults["betas"]) for m in modules if "betas" in m.defaults]  # of wrapped torch optimizers
    if beta1:
        pairs.append((beta1[0], *beta2))
    if pairs and all(pair == pairs[0] for pair in pairs):
        defaults["betas"] = pairs[0]
    return defaults, not lr
