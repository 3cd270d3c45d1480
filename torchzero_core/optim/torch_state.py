"""A run of one of torch's optimizers goes on with a chain."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .. import modules as m
from ..core import Modular, Module


class Twin(NamedTuple):
    """A module that does what an optimizer of torch does.

    Attributes:
        module: its class.
        state: the names of its state, by those in torch.
        settings: the names of its settings, by those in torch.
    """

    module: type[Module]
    state: Mapping[str, str]
    settings: Mapping[str, str]


AVERAGES = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


def twins(group: Mapping[str, Any]) -> tuple[str, list[Twin]]:
    """Whose state it is, and the modules that take it over.

    Args:
        group: a parameter group of the state; torch says nowhere which optimizer it belongs to, but each has its keys.

    Raises:
        ValueError: none of those that have a module here.
    """
    if "nesterov" in group:
        if not group["momentum"]:
            return "SGD", []
        cls, slot = (m.NAG, "velocity") if group["nesterov"] else (m.HeavyBall, "exp_avg")
        return "SGD", [Twin(cls, {"momentum_buffer": slot}, {n: n for n in ("momentum", "dampening")})]
    if "amsgrad" in group and "betas" in group:
        names = {**AVERAGES, "max_exp_avg_sq": "max_exp_avg_sq"}
        return "Adam", [Twin(m.Adam, names, {"eps": "eps", "amsgrad": "amsgrad"})]
    if "momentum_decay" in group:
        names = {**AVERAGES, "mu_product": "mu_product"}
        return "NAdam", [Twin(m.NAdam, names, {"eps": "eps", "momentum_decay": "momentum_decay"})]
    if "betas" in group and "decoupled_weight_decay" in group:
        return "RAdam", [Twin(m.RAdam, AVERAGES, {"eps": "eps"})]
    if "betas" in group and "weight_decay" in group:
        return "Adamax", [Twin(m.Adamax, {"exp_avg": "exp_avg", "exp_inf": "exp_inf"}, {"eps": "eps"})]
    if "centered" in group:
        names = {"square_avg": "exp_avg_sq", "grad_avg": "exp_avg"}
        found = [Twin(m.RMSprop, names, {"alpha": "smoothing", "eps": "eps", "centered": "centered"})]
        if group["momentum"]:
            found.append(Twin(m.HeavyBall, {"momentum_buffer": "exp_avg"}, {"momentum": "momentum"}))
        return "RMSprop", found
    if "lr_decay" in group:
        return "Adagrad", [Twin(m.Adagrad, {"sum": "sq_sum"}, {"lr_decay": "lr_decay", "eps": "eps"})]
    if "rho" in group:
        names = {"square_avg": "square_avg", "acc_delta": "acc_delta"}
        return "Adadelta", [Twin(m.Adadelta, names, {"rho": "rho", "eps": "eps"})]
    raise ValueError(
        f"A parameter group with the keys {', '.join(k for k in group if k != 'params')} is that of no optimizer whose "
        "state can be taken over: Adam, AdamW, SGD, NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta."
    )


def load_torch_state(optimizer: Modular, state_dict: Mapping[str, Any]) -> None:
    """Let a chain go on where an optimizer of torch has stopped.

    The chain has the module of the same name (``HeavyBall`` or ``NAG`` for SGD with momentum), a ``WeightDecay``
    where the state has one, in front of it, or behind it where it is decoupled, and may have any others besides; they
    start afresh. Learning rate, betas and all other settings come from the state too; a warning says which of them,
    the learning rate aside, are others in the chain. Parameters are left alone.

    Args:
        optimizer: the chain, with as many groups and parameters.
        state_dict: what ``torch.optim.Adam(...).state_dict()`` has returned: of Adam, AdamW, SGD, NAdam, RAdam, Adamax,
            RMSprop, Adagrad or Adadelta.

    Raises:
        ValueError: the state of another optimizer, or a chain that would go on in another way. Nothing has changed.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> old = torch.optim.AdamW([p], lr=0.1, weight_decay=0.01)
        >>> for _ in range(3):
        ...     p.grad = 2 * p.detach()
        ...     old.step()
        >>> new = tz.Modular([p], tz.m.Adam(), tz.m.WeightDecay(0.01), tz.m.LR(0.1))
        >>> tz.optim.load_torch_state(new, old.state_dict())
        >>> new.state[p]["Adam.step"]
        3
    """
    own = optimizer.state_dict()["param_groups"]
    theirs = state_dict["param_groups"]
    modules = optimizer.unrolled_modules
    groups, state, changed = [], {}, []
    for i, group in enumerate(theirs):
        name, found = twins(group)
        new = dict(own[i]) if i < len(own) else {}  # that there are as many groups is looked at later
        places = [_place(optimizer, name, twin.module) for twin in found]
        values = _settings(group, name, found, [modules[place] for place in places])
        decay = _weight_decay(group, name, modules, places[0] if places else -1)
        if decay is not None:
            values[decay, "weight_decay"] = group["weight_decay"]
        for (module, setting), value in values.items():
            if _value(new, module, setting) != value:
                changed.append(f"{module.path}.{setting}={value!r}")
                _put(new, module, setting, value, modules)
        new |= {key: group[key] for key in ("lr", "initial_lr") if key in group}
        groups.append(new | {"params": group["params"]})
        for key in group["params"]:
            state[key] = _state(state_dict["state"].get(key, {}), found, [modules[place] for place in places])
    if state:
        counts = [value for values in state.values() for key, value in values.items() if key.endswith(".step")]
        state[next(iter(state))]["Modular.step"] = max(counts, default=0)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if changed:
        warnings.warn(
            f"load_torch_state has taken settings from the state that are others in the chain: {', '.join(changed)}. "
            "To change one of them, set its key in param_groups after loading.",
            UserWarning,
            stacklevel=2,
        )


def _place(optimizer: Modular, name: str, cls: type[Module]) -> int:
    """Where the one module of a class is."""
    places = [i for i, module in enumerate(optimizer.unrolled_modules) if type(module) is cls]
    if len(places) != 1:
        here = " > ".join(module.path for module in optimizer.unrolled_modules)
        raise ValueError(
            f"The state of torch's {name} goes to the module tz.m.{cls.__name__}, of which the chain has "
            f"{len(places) or 'none'}: {here}."
        )
    return places[0]


def _settings(
    group: Mapping[str, Any], name: str, found: Sequence[Twin], modules: Sequence[Module]
) -> dict[tuple[Module, str], Any]:
    """The settings of a group, by module and name."""
    values = {
        (module, ours): group[theirs]
        for twin, module in zip(found, modules, strict=True)
        for theirs, ours in twin.settings.items()
    }
    if "betas" in group:
        values |= {(modules[0], key): beta for key, beta in zip(("beta1", "beta2"), group["betas"], strict=True)}
    return values


def _weight_decay(group: Mapping[str, Any], name: str, modules: Sequence[Module], place: int) -> Module | None:
    """The module that does the weight decay of a group; None where there is none.

    Args:
        group: of the state.
        name: whose it is.
        modules: of the chain.
        place: of the module that takes the state; -1 where there is none.

    Raises:
        ValueError: it stands on the wrong side, or is missing; or what is maximized would be minimized.
    """
    if group.get("maximize") and not any(isinstance(one, (m.Negate, m.Mul)) for one in modules[: max(place, 1)]):
        raise ValueError(f"The state of torch's {name} maximizes: put tz.m.Negate() in front of the chain.")
    decoupled = group.get("decoupled_weight_decay", False)
    before, after = modules[: max(place, 0)], modules[place + 1 :]
    sides: list[tuple[Sequence[Module], Any]] = (
        [(after, m.WeightDecay), (modules, m.DirectWeightDecay)] if decoupled else [(before, m.WeightDecay)]
    )
    if place < 0:  # plain SGD, where both sides are the same
        sides = [(modules, m.WeightDecay)]
    found = [one for side, cls in sides for one in side if type(one) is cls]
    if len(found) == 1 or (not found and not group["weight_decay"]):
        return found[0] if found else None
    where = "behind" if decoupled else "in front of"
    raise ValueError(
        f"The state of torch's {name} has weight_decay={group['weight_decay']!r}, which takes one tz.m.WeightDecay "
        f"{where} {modules[place].path if place >= 0 else 'LR'}; the chain has {len(found) or 'none'} there."
    )


def _value(group: Mapping[str, Any], module: Module, setting: str) -> Any:
    """What a setting is in a group of the chain."""
    betas = group.get("betas", ()) if setting in ("beta1", "beta2") else ()
    at = ("beta1", "beta2").index(setting) if betas else 0
    plain = betas[at] if at < len(betas) else group.get(setting, module.defaults[setting])
    return group.get(f"{module.path}.{setting}", plain)


def _put(group: dict[str, Any], module: Module, setting: str, value: Any, modules: Sequence[Module]) -> None:
    """Set it there, for this module alone."""
    if setting in ("beta1", "beta2") and "betas" in group and sum("beta1" in one.defaults for one in modules) == 1:
        betas = list(group["betas"])
        betas[("beta1", "beta2").index(setting)] = value
        group["betas"] = tuple(betas)
    elif setting in group and sum(setting in one.defaults for one in modules) == 1:
        group[setting] = value
    else:
        group[f"{module.path}.{setting}"] = value


def _state(values: Mapping[str, Any], found: Sequence[Twin], modules: Sequence[Module]) -> dict[str, Any]:
    """The state of one parameter under its names here.

    SGD counts no steps. Where there is a momentum there has been one, and more do not matter to it.
    """
    out: dict[str, Any] = {}
    for twin, module in zip(found, modules, strict=True):
        here = {ours: values[name] for name, ours in twin.state.items() if values.get(name) is not None}
        if here:
            out |= {module.prefix + ours: value for ours, value in here.items()}
            out[f"{module.prefix}step"] = int(values.get("step", torch.ones(())))
    return out


__all__ = ["load_torch_state"]
