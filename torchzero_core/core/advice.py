"""Advice about the order of modules: where it makes one of them useless, a warning says so once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


class Advice(UserWarning):
    """A chain that runs, but hardly does what was meant. ``Modular(..., advice=False)`` keeps silent."""


def order(modules: Sequence[Any]) -> str:
    """Advice about the order of a chain; "" where there is none to give.

    Args:
        modules: the chain, in order.
    """
    flat = [m for m in _flat(modules) if getattr(m, "target", "update") == "update"]
    for i, module in enumerate(flat):
        before, behind = flat[:i], flat[i + 1 :]
        if module.size_effect == "search":
            after = next((m for m in behind if _changes_step(m)), None)
            if after is not None:
                return (
                    f"{_name(module)} has found how far to go, and {_name(after)} stands behind it and changes the "
                    f"step that it found. Put {_name(after)} before {_name(module)}."
                )
        elif module.size_effect == "factor":
            later = next((m for m in behind if m.size_effect not in ("keeps", "same")), None)
            if later is not None and later.size_effect in ("unit", "own"):
                return (
                    f"{_name(module)} has no effect: what {_name(later)} behind it gives does not depend on the size "
                    f"of what it gets. Put {_name(module)} at the end of the chain, as in "
                    f"tz.m.{_name(later)}(...), tz.m.{_name(module)}({_first(module)})."
                )
        elif module.size_effect == "limit":
            scaled = next((m for m in before if m.size_effect == "unit"), None)
            if scaled is not None and all(m.size_effect != "limit" for m in before):
                return (
                    f"{_name(module)} stands behind {_name(scaled)}, which divides gradients by their size, so that no "
                    f"large ones are left to clip. Put {_name(module)} before {_name(scaled)}."
                )
    return ""


def missing_lr(modules: Sequence[Any]) -> str:
    """Advice where nothing sets the size of the steps; "" elsewhere.

    Args:
        modules: the chain, in order.
    """
    flat = _flat(modules)
    at = next((i for i in reversed(range(len(flat))) if flat[i].size_effect == "unit"), None)
    if (
        at is None
        or flat[at].defaults.get("alpha", 1) != 1
        or any(m.size_effect not in _NO_SIZE for m in flat[at + 1 :])
    ):
        return ""
    name = _name(flat[at])
    return (
        f"The chain has no learning rate, and the updates of {name} are about 1 in every element. Put tz.m.LR(1e-3) at "
        'the end of the chain, or set the "lr" of the parameter groups.'
    )


#: What leaves the size of the updates about as it is.
_NO_SIZE = ("keeps", "same", "limit", "adds")


def advise(text: str) -> None:
    """Give an advice, if there is one."""
    if text:
        warnings.warn(f"{text} (Modular(..., advice=False) says nothing.)", Advice, stacklevel=4)


def _changes_step(module: Any) -> bool:
    """Whether a step that a search has found is another one behind a module."""
    rule = module.is_rule and module.size_effect != "same" and module.defaults.get("lr") != 1
    return bool(rule or module.size_effect == "direction")


def _name(module: Any) -> str:
    return type(module).__name__


def _first(module: Any) -> str:
    return repr(next(iter(module.defaults.values()), ""))


def _flat(modules: Sequence[Any]) -> list[Any]:
    """The modules with those of lists in it."""
    out: list[Any] = []
    for module in modules:
        out += _flat(list(module.children.values())) if module.is_chain else [module]
    return out
