"""Showing an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from .forecast import forecast
from .module import Chain, Module


def tree(optimizer: Any, notes: Mapping[str, str] | None = None) -> str:
    """The chain with its settings, a line a module."""
    lines = []

    def visit(module: Module, depth: int, label: str) -> None:
        pad = "  " * depth
        if isinstance(module, Chain):
            if label:
                lines.append(f"{pad}{label.rstrip()}")
                depth += 1
            for child in module.children.values():
                visit(child, depth, "")
            return
        note = (notes or {}).get(module.path, "")
        lines.append(f"{pad}{label}{type(module).__name__}({module.extra_repr()}){note}")
        for name, child in module.children.items():
            visit(child, depth + 1, f"{name}: ")

    visit(optimizer.chain, 1, "")
    groups = []
    for i, group in enumerate(optimizer.param_groups):
        n = sum(p.numel() for p in group["params"] if not is_lazy(p))  # those of lazy layers have no shape yet
        values = ", ".join(f"{k}={v}" for k, v in group.items() if k not in ("params", "param_names"))
        groups.append(f"  group {i}: {len(group['params'])} tensors, {n:,} parameters, {values}")
    flags = ", ".join(f"{name}=True" for name in ("compile", "deterministic") if getattr(optimizer, name))
    return "\n".join([f"{type(optimizer).__name__}({flags}", *lines, *groups, ")"])


def summary(optimizer: Any) -> str:
    """The tree with the bytes of state by module; see :meth:`Modular.summary`."""
    stores: list[Mapping[str, Any]] = optimizer.state_dicts()
    ahead = None if any(stores) else forecast(optimizer)
    if not any(stores) and ahead is None:
        return f"{tree(optimizer)}\nstate: unknown until the first step"
    paths = [m.path for m in optimizer.unrolled_modules]
    size = sizes(stores if ahead is None else ahead.state, paths)
    notes = {path: f"  [{_human(size.get(path, 0))}]" for path in paths}
    if ahead is None:
        return f"{tree(optimizer, notes)}\nstate: {_human(sum(size.values()))}"
    notes |= dict.fromkeys(ahead.unknown, "  [unknown until the first step]")
    least = "at least " if ahead.at_least else ""
    return f"{tree(optimizer, notes)}\nstate: {least}{_human(sum(size.values()))} from the first steps on"


def sizes(stores: Iterable[Mapping[str, Any]], paths: Iterable[str]) -> dict[str, int]:
    """The bytes of state by module.

    Args:
        stores: names and values.
        paths: those of the modules.
    """
    size: dict[str, int] = {}
    longest_first = sorted(paths, key=len, reverse=True)
    for store in stores:
        for name, value in store.items():
            bare = name.rsplit("/", 1)[-1]
            owner = next((p for p in longest_first if bare.startswith(f"{p}.")), None)
            if owner is not None:
                size[owner] = size.get(owner, 0) + _bytes(value)
    return size


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, value))
    return 8 if isinstance(value, (int, float)) else 0


def _human(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
