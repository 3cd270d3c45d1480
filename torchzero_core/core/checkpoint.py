"""Saving and loading an optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from ..engine.params import Params
from ..lang import Slot
from .groups import check_new_group
from .kept import POSITION, StateKind, kept_of
from .module import Module
from .state import GLOBAL
from .transform import Transform
from .validate import settled, validate


def signature(optimizer: Any) -> str:
    """The modules of a chain by path, as text."""
    return " > ".join(m.path for m in optimizer.unrolled_modules)


def settings_of(optimizer: Any) -> dict[str, dict[str, Any]]:
    """What the constructors of the modules were given, by path; only what any file can hold."""
    out = {}
    for module in optimizer.unrolled_modules:
        values = {name: _savable(value) for name, value in module.defaults.items()}
        out[module.path] = {name: value for name, value in values.items() if value is not _NOT_SAVED}
    return out


_NOT_SAVED: Any = object()


def _savable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, (tuple, list)) and all(isinstance(v, (bool, int, float, str)) for v in value):
        return tuple(value)
    return _NOT_SAVED


def _differing(optimizer: Any, saved: Mapping[str, Mapping[str, Any]]) -> list[tuple[Module, dict[str, Any]]]:
    """The settings of a file that are others than those of the code, by module.

    Raises:
        ValueError: a value that its module does not take.
    """
    out = []
    for module in optimizer.unrolled_modules:
        here = {name: _savable(value) for name, value in module.defaults.items()}
        new = {k: v for k, v in saved.get(module.path, {}).items() if here.get(k, _NOT_SAVED) not in (v, _NOT_SAVED)}
        if new:
            validate(module, new, "the settings of the file: ")
            out.append((module, settled(type(module), new)))
    return out


def _take_settings(optimizer: Any, differing: list[tuple[Module, dict[str, Any]]]) -> None:
    """Let the modules have the settings of a file, and say which are others than those of the code."""
    if not differing:
        return
    words = [f"{m.path}.{k}={v!r} (code: {m.defaults[k]!r})" for m, new in differing for k, v in new.items()]
    for module, new in differing:
        module.defaults.update(new)
    optimizer.invalidate()
    warnings.warn(
        f"load_state_dict has taken settings from the file that are others in the code: {', '.join(words)}. To change "
        "one of them, set its key in param_groups after loading.",
        UserWarning,
        stacklevel=4,
    )


def load(optimizer: Any, state_dict: Mapping[str, Any]) -> None:
    """Check a state dict against an optimizer and take it over; see :meth:`Modular.load_state_dict`."""
    if isinstance(state_dict, Mapping):
        state_dict = dict(state_dict)
        for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(optimizer, state_dict)
            state_dict = state_dict if replaced is None else replaced
    _check_form(state_dict)
    groups = [dict(g) for g in state_dict["param_groups"]]
    own = optimizer.param_groups
    if len(groups) != len(own):
        raise ValueError(
            f"The loaded state dict has {len(groups)} parameter groups, the optimizer has a different number of "
            f"parameter groups: {len(own)}."
        )
    for i, (loaded, group) in enumerate(zip(groups, own, strict=True)):
        if len(loaded["params"]) != len(group["params"]):
            raise ValueError(
                f"The loaded state dict contains a parameter group that doesn't match the size of the optimizer's: "
                f"group {i} has {len(loaded['params'])} parameters, here {len(group['params'])}."
            )
    saved_chain = groups[0].pop("chain", None) if groups else None
    settings = groups[0].pop("settings", {}) if groups else {}
    _check_chain(optimizer, saved_chain, state_dict["state"])
    for group in groups:
        check_new_group(group, optimizer.unrolled_modules)
    differing = _differing(optimizer, settings)
    params = list(chain.from_iterable(g["params"] for g in own))
    index = dict(zip(chain.from_iterable(g["params"] for g in groups), params, strict=True))
    _check_shapes(optimizer, index, state_dict["state"])

    state, kept = {}, _kept(optimizer)
    for key, values in state_dict["state"].items():
        param = index.get(key)
        if param is None:
            state[key] = values
            continue
        state[param] = {name: _taken(name, _move(value, param, name), kept) for name, value in values.items()}
    before = dict(optimizer.state)
    optimizer.state.clear()
    optimizer.state.update(state)
    optimizer.drop_params()
    try:
        _check_inside(optimizer.chain, optimizer.all_params, set(map(id, optimizer.all_params)))
    except ValueError:
        optimizer.state.clear()
        optimizer.state.update(before)
        optimizer.drop_params()
        raise
    _take_groups(own, groups)
    _take_settings(optimizer, differing)
    optimizer.loaded = True
    first = optimizer.state.get(optimizer.all_params[0], {}) if optimizer.all_params else {}
    optimizer.current_step = int(first.get("Modular.step", 0))
    for module in optimizer.drawers:
        module.generators.clear()
    optimizer.drop_params()
    for post in optimizer._optimizer_load_state_dict_post_hooks.values():
        post(optimizer)


def _check_form(state_dict: Any) -> None:
    """Refuse what is no state dict of a chain.

    Raises:
        TypeError: no dict.
        ValueError: a dict of something else, and where the right one may be.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"load_state_dict takes what optimizer.state_dict() has returned, not a {type(state_dict).__name__}; a "
            "file is read by torch.load(path, weights_only=True) first."
        )
    if not _is_state(state_dict):
        inside = next((key for key, value in state_dict.items() if _is_state(value)), None)
        way = (
            f"It is the dict under {inside!r}: load_state_dict(saved[{inside!r}])."
            if inside is not None
            else f"Its keys: {', '.join(map(repr, list(state_dict)[:4])) or 'none'}."
        )
        raise ValueError(f"A state dict of an optimizer has 'state' and 'param_groups', and this one has not. {way}")
    first: Mapping[str, Any] = next(iter(state_dict["param_groups"]), {})
    ours = "chain" in first or any("." in str(name) for values in state_dict["state"].values() for name in values)
    if "maximize" in first and not ours:
        raise ValueError(
            "The state dict belongs to another chain, one of torch's optimizers. A chain that does the same goes on "
            "with it by tz.optim.load_torch_state(optimizer, state_dict)."
        )


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value


def _take_groups(own: Sequence[dict[str, Any]], groups: Sequence[Mapping[str, Any]]) -> None:
    """Let the groups have what was saved of them."""
    for loaded, group in zip(groups, own, strict=True):
        names = group.get("param_names")
        values = {k: v for k, v in loaded.items() if k not in ("params", "param_names")}
        for k in [k for k in group if k not in ("params", "param_names")]:
            del group[k]
        group.update(values)
        if names is not None:
            group["param_names"] = names


def _check_chain(optimizer: Any, saved: str | None, state: Mapping[Any, Any]) -> None:
    here = signature(optimizer)
    if saved is not None:
        ours, theirs = here.split(" > "), saved.split(" > ")
    else:
        paths = [m.path for m in optimizer.unrolled_modules]
        names = list(dict.fromkeys(n for values in state.values() for n in values if not n.startswith("Modular.")))
        foreign = [n for n in names if not any(f"/{n}".rsplit("/", 1)[-1].startswith(f"{p}.") for p in paths)]
        if not foreign:
            return
        if not any("." in n for n in names):
            raise ValueError(
                f"The state dict belongs to another optimizer, which keeps {', '.join(names)}, and to no chain. If it "
                "is one of torch's, tz.optim.load_torch_state(optimizer, state_dict) lets a chain go on from there."
            )
        ours, theirs = paths, list(dict.fromkeys(n.rsplit(".", 1)[0] for n in names))
    if ours == theirs:
        return
    missing = [m for m in theirs if m not in ours]
    extra = [m for m in ours if m not in theirs]
    parts = []
    if missing:
        parts.append(f"it has {', '.join(missing)}, which this chain does not")
    if extra:
        parts.append(f"this chain has {', '.join(extra)}, which it does not")
    if not parts:
        parts.append("the same modules stand in another order")
    raise ValueError(
        f"The state dict belongs to another chain: {'; '.join(parts)}.\n"
        f"  saved: {' > '.join(theirs)}\n  here:  {' > '.join(ours)}"
    )


def _kept(optimizer: Any) -> dict[str, StateKind]:
    """The kinds of what modules keep besides what their rules declare, by name."""
    counts = dict.fromkeys(("step", "epoch", "members"), StateKind.COUNT)
    owners = [("Modular.", counts), *((m.prefix, counts | kept_of(type(m))) for m in optimizer.unrolled_modules)]
    return {f"{p}{scope}{n}": kind for p, kinds in owners for scope in ("", GLOBAL) for n, kind in kinds.items()}


def misfit(optimizer: Any) -> str | None:
    """What is wrong with the state as it is, where something is not of the kind that its module keeps there.

    Args:
        optimizer: whose state anybody may have written to.

    Returns:
        A sentence about the first such state; None where there is none.
    """
    kept = _kept(optimizer)
    for values in optimizer.state.values():
        for name, value in values.items():
            kind = kept.get(str(name).rsplit("/", 1)[-1])
            try:
                if kind is not None:
                    kind.taken(name, value)
            except ValueError as error:
                return str(error).removesuffix(": the state dict is damaged.")
    return None


def _check_shapes(optimizer: Any, index: Mapping[Any, Tensor], state: Mapping[Any, Any]) -> None:
    """Declared state is as declared; compiled code would read a shorter one out of bounds."""
    rules = [module for module in optimizer.unrolled_modules if isinstance(module, Transform)]
    slots = {rule.prefix + name: slot for rule in rules for name, slot in rule.slots.items()}
    kept = _kept(optimizer)
    shared = {f"{rule.prefix}{GLOBAL}{name}" for rule in rules for name in rule.slots}
    for key, values in state.items():
        param = index.get(key)
        if param is None or is_lazy(param):  # then the first step looks
            continue
        for name, value in values.items():
            here = name.rsplit("/", 1)[-1]  # that of a stand-in is looked at again when its shape is known
            if here in kept and here not in slots:
                kept[here].taken(name, value)
            elif f"{GLOBAL}{POSITION}" in here:
                StateKind.POSITION.taken(name, value)
            elif here in shared:
                if not isinstance(value, Tensor) or value.numel() != 1:
                    raise ValueError(f"The state {name!r} is no tensor with one element: the state dict is damaged.")
            elif here in slots:
                _check_state(
                    name, slots[here], value, None if here != name or is_lazy(param) else param
                )  # the first step looks


def _check_state(name: str, slot: Slot, value: Any, param: Tensor | None) -> None:
    """Refuse a state that is not as declared.

    Args:
        name: of the state.
        slot: its declaration.
        value: what was loaded.
        param: its parameter; None where that is not known yet.

    Raises:
        ValueError: naming the state.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"The state {name!r} is no tensor but {value!r}: the state dict is damaged.")
    if param is None:
        return
    if value.is_complex() and not param.is_complex():
        raise ValueError(f"The state {name!r} is complex and its parameter is not: the state dict is damaged.")
    places = len(value) if slot.history is not None and value.ndim else 0
    if tuple(value.shape) != slot.shape_for(param, places):
        raise ValueError(
            f"The state {name!r} has shape {tuple(value.shape)}, its parameter here {tuple(param.shape)}: the state "
            "dict belongs to another model."
        )


def _check_inside(module: Module, params: Params, real: set[int]) -> None:
    """Refuse declared state of stand-ins that is not as declared.

    Args:
        module: the module; what is inside it is looked at too.
        params: what it works on.
        real: the parameters of the optimizer, which have been looked at.

    Raises:
        ValueError: naming the state.
    """
    if isinstance(module, Transform):
        for param in params:
            if id(param) not in real:
                store, prefix = module.locate(param)
                for name, slot in module.slots.items():
                    if prefix + name in store:
                        _check_state(prefix + name, slot, store[prefix + name], param)
    if any(map(is_lazy, params)):
        return
    try:
        inner = module.inner_params(params)
    except Exception as error:
        raise ValueError(f"The state of {module.path} cannot be used ({error}): the state dict is damaged.") from error
    for child in module.children.values():
        _check_inside(child, inner, real)


def _taken(name: str, value: Any, kept: Mapping[str, StateKind]) -> Any:
    """A state as its module reads it."""
    kind = kept.get(name.rsplit("/", 1)[-1])
    return value if kind is None or not isinstance(value, (Tensor, float)) else kind.taken(name, value)


def _move(value: Any, param: Tensor, name: str) -> Any:
    """A copy on the parameter's device, in the value's own dtype; generator positions stay on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().clone() if "generator:" in name else value.detach().to(device=param.device, copy=True)
    if isinstance(value, dict):
        return {k: _move(v, param, name) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_move(v, param, name) for v in value)
    return value
