"""Which optimizer modules belong to, and what they are called there.

A path is made of class and child names, with a number only where a name repeats, so that another module in the chain
does not rename the state of the rest. A chain that is a child adds nothing to the path of its modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .module import Chain, Module


def unrolled(module: Module) -> Iterator[Module]:
    """A module and all inside it, depth first."""
    yield module
    for child in module.children.values():
        yield from unrolled(child)


def check_free(modules: Iterable[Module], home: Any = None) -> None:
    """Refuse modules that belong to another optimizer, or that stand in a chain twice.

    Args:
        modules: what is to become part of an optimizer.
        home: the optimizer, if they may be part of it already.

    Raises:
        ValueError: naming the module.
    """
    seen: set[int] = set()
    for module in modules:
        for part in unrolled(module):
            if part.home is not None and part.home is not home:
                raise ValueError(
                    f"{part!r} already belongs to another Modular; make a new instance for each optimizer, or give it "
                    "copies, tz.Modular(params, *copy.deepcopy(chain))."
                )
            if id(part) in seen:
                raise ValueError(f"{part!r} stands in the chain twice; make a new instance for each place.")
            seen.add(id(part))


def adopt(home: Any, module: Module) -> None:
    """Make a module and all inside it part of an optimizer.

    Args:
        home: the optimizer.
        module: the module. Those inside it get their paths from its own.
    """
    release(module)
    module.home = home
    for name, child in module.children.items():
        child.path = child_path(module, name, child)
        adopt(home, child)


def release(module: Module) -> None:
    """Make a module and all inside it free for another optimizer."""
    for part in unrolled(module):
        part.home = None


def child_path(parent: Module, name: str, child: Module) -> str:
    """What a child is called: by its class in a chain, by its name and class in other modules."""
    kind = type(child).__name__
    if not isinstance(parent, Chain):
        return ".".join(filter(None, [parent.path, name, "" if isinstance(child, Chain) else kind]))
    base = f"{parent.path}." if parent.path else ""
    taken = {other.path for other in parent.children.values() if other.home is not None and other is not child}
    number = 1
    while (path := f"{base}{kind}" if number == 1 else f"{base}{kind}_{number}") in taken:
        number += 1
    return path
