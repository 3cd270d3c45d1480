"""What people write who come from ``torch.optim``, and what to say of it."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .near import did_you_mean, near

P = ParamSpec("P")
R = TypeVar("R")

#: What an optimizer of torch takes and a module does not, with what does it here.
ELSEWHERE = {
    "lr": "The learning rate is a module of its own, at the end of the chain: tz.m.{name}(...), tz.m.LR({value}).",
    "betas": "They are two settings here: beta1 and beta2.",
    "weight_decay": "It is a module of its own: tz.m.WeightDecay({value}), before tz.m.{name} for an L2 penalty, after "
    "it for decoupled decay.",
    "momentum": "It is a module of its own: tz.m.HeavyBall({value}).",
    "alpha": "Of RMSprop it is called smoothing here.",
    "maximize": "Put tz.m.Mul(-1) first.",
    "params": "Parameters go to the optimizer: tz.Modular(params, tz.m.{name}(), tz.m.LR(1e-3)).",
    "foreach": "It is not needed: rules run by foreach calls.",
    "fused": "It is not needed: tz.Modular(..., compile=True) fuses rules.",
}
#: First parameters that nobody sets this small, and the largest value that looks like a learning rate.
DECAYS = {"beta1": 0.05, "smoothing": 0.05, "lr_decay": 0.05, "nplus": 0.5, "momentum": 0.02}


def unknown_option(name: str, options: Mapping[str, Any], known: Iterable[str]) -> str:
    """What to say of keywords that a module's constructor does not take; what it takes where all are known.

    Args:
        name: the class.
        options: the keywords.
        known: the parameters of the constructor.
    """
    known = list(known)
    unknown = [option for option in options if option not in known]
    if not unknown:
        return f"It takes {', '.join(known) or 'nothing'}."
    option = unknown[0]
    if option in ELSEWHERE:
        return ELSEWHERE[option].format(name=name, value=repr(options[option]))
    found = near(option, known, 1)
    return f"Did you mean {found[0]!r}?" if found else f"It takes {', '.join(known) or 'nothing'}."


def check_first(name: str, first: str | None, value: Any) -> None:
    """Refuse parameters as the first argument of a module, and warn of a learning rate.

    Args:
        name: the class.
        first: the first parameter of its constructor.
        value: what was given for it by position.

    Raises:
        TypeError: parameters.
    """
    if are_params(value):
        raise TypeError(f"{name} was given parameters. {ELSEWHERE['params'].format(name=name)}")
    top = DECAYS.get(first or "")
    if top is not None and isinstance(value, float) and 0 < value <= top:
        warnings.warn(
            f"{name}({value}) sets {first}, which is hardly meant: a learning rate is a module of its own, "
            f"tz.m.{name}(), tz.m.LR({value}). Write {name}({first}={value}) if you do mean it.",
            UserWarning,
            stacklevel=4,
        )


def are_params(value: Any) -> bool:
    """Whether it is what an optimizer of torch gets first: a model, or an iterable of parameters or groups."""
    if isinstance(value, nn.Module) or inspect.isgenerator(value):
        return True
    if isinstance(value, nn.Parameter):
        return value.numel() != 1  # else it may be a learning rate that is learnt
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(v, nn.Parameter) or (isinstance(v, dict) and "params" in v) for v in value)


def no_module(thing: Any, catalogue: str = "tz.m") -> str:
    """The way out for something in a chain that is no module; "" where nothing is known.

    Args:
        thing: what stands there.
        catalogue: where modules are.
    """
    if isinstance(thing, type) and hasattr(thing, "set_child"):
        return f" Did you mean {thing.__name__}()?"
    if isinstance(thing, type) and issubclass(thing, Optimizer):
        return f" Wrap makes a module of it: {catalogue}.Wrap({thing.__name__}, lr=...)."
    if isinstance(thing, Optimizer) and hasattr(thing, "modules"):
        return " A chain in a chain is a list of its modules, [tz.m.Adam(), tz.m.LR(1e-3)]."
    if isinstance(thing, Optimizer):
        kind = type(thing).__name__
        return f" Wrap makes a module of its class: {catalogue}.Wrap(torch.optim.{kind}, lr=...)."
    if isinstance(thing, bool) or thing is None:
        return ""
    if isinstance(thing, (int, float)):
        return f" A number is no module; a learning rate is {catalogue}.LR({thing})."
    if isinstance(thing, str):
        return f" Modules are objects, as in {catalogue}.Adam()."
    if isinstance(thing, Tensor) or are_params(thing):
        return " Parameters come first: tz.Modular(params, tz.m.Adam(), tz.m.LR(1e-3))."
    if isinstance(thing, (list, tuple)):
        bad = next((t for t in thing if not hasattr(t, "set_child") or isinstance(t, type)), None)
        return f" In the list stands {shown(bad)}.{no_module(bad)}" if thing else " The list is empty."
    if getattr(thing, "__module__", "") == "torchzero_core.recipes":
        return f" A recipe is a function that makes the modules: call it, tz.recipes.{thing.__name__}()."
    if callable(thing):
        return " A function becomes a module by deriving from tz.Transform, whose rule(u, ctx) it is."
    return ""


def shown(thing: Any) -> str:
    """Something in a sentence: as it is written, or what it is where that would be long."""
    text = repr(thing)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(thing).__name__}"


def check_params(params: Any) -> None:
    """Refuse what cannot be the parameters of an optimizer.

    Raises:
        TypeError: modules, a tensor, nothing.
    """
    way = "tz.Modular(model.parameters(), tz.m.Adam(), tz.m.LR(1e-3))"
    found = params[0] if isinstance(params, (list, tuple)) and params else params
    if hasattr(found, "set_child"):
        raise TypeError(f"Parameters come first, then the modules: {way}.")
    if isinstance(params, Tensor):
        raise TypeError("params must be an iterable of tensors or groups, not one tensor; put it in a list.")
    if isinstance(params, Mapping):
        way = "put a group in a list" if "params" in params else "give params.items() where it has parameters by name"
        raise TypeError(f"params must be an iterable of tensors or groups, not one dict; {way}.")
    if isinstance(params, (set, frozenset)):
        raise TypeError("params must be in a list, not a set: their order is part of the state.")
    iterable = hasattr(params, "__iter__") and not isinstance(params, (str, bytes, Optimizer))
    if not iterable and not isinstance(params, nn.Module):
        raise TypeError(f"params must be a model or an iterable of tensors or groups, not {shown(params)}: {way}.")


def switch(name: str, value: Any, words: str = "True or False") -> bool:
    """An option of the optimizer that is on or off.

    Args:
        name: the option.
        value: what was given for it; numpy's truth values, 0 and 1 are taken.
        words: what it may be.

    Raises:
        ValueError: it is neither.

    Example:
        >>> switch("compile", 1)
        True
    """
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, (int, np.integer)) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"Modular({name}={shown(value)}) must be {words}.")


def check_seed(name: str, value: Any) -> int:
    """An option of the optimizer that may also be where random numbers start.

    Args:
        name: the option.
        value: what was given for it.

    Raises:
        ValueError: it is no whole number that torch takes.
    """
    if isinstance(value, (int, np.integer)) and -(2**63) <= value < 2**64:
        return int(value)
    raise ValueError(f"Modular({name}={shown(value)}) must be True, False or a whole number, the seed.")


def check_closure(closure: Any) -> None:
    """Refuse what is no closure.

    Raises:
        TypeError: a loss, for example.
    """
    if not callable(closure):
        what = "the loss" if isinstance(closure, (Tensor, float)) else shown(closure)
        raise TypeError(
            f"step takes a closure, a function that evaluates the loss, not {what}. Call loss.backward() and then "
            "optimizer.step(); chains that evaluate the loss themselves need optimizer.step(closure) with "
            "closure(backward=True)."
        )


def explained(init: Callable[P, R]) -> Callable[P, R]:
    """Let a constructor say what stands for options that it does not have.

    Args:
        init: the constructor of the optimizer.
    """
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            option, name = unknown[0], type(args[0]).__name__
            own = [k for k in known if k not in ("params", "modules")]
            way = did_you_mean(option, own, 1) or f" {name} itself takes {', '.join(own)}."
            if option in OPTIONS:
                way = f" {OPTIONS[option].format(value=repr(kwargs[option]))}"
            raise TypeError(f"{name} takes no {option!r}; settings belong to the modules of the chain.{way}")
        return init(*args, **kwargs)

    return wrapper


#: The same for options that are given to the optimizer.
OPTIONS = {
    "lr": "The learning rate is the module tz.m.LR({value}), the last of the chain.",
    "betas": "They are settings of tz.m.Adam(beta1, beta2).",
    "weight_decay": "It is the module tz.m.WeightDecay({value}).",
    "momentum": "It is the module tz.m.HeavyBall({value}).",
    "eps": "It is a setting of tz.m.Adam(eps={value}).",
    "amsgrad": "It is a setting of tz.m.Adam(amsgrad={value}).",
    "maximize": "Put tz.m.Mul(-1) first.",
    "foreach": "It is not needed: rules run by foreach calls.",
    "fused": "It is compile=True here.",
    "modules": "They are given by position: tz.Modular(params, tz.m.Adam(), tz.m.LR(1e-3)).",
}
