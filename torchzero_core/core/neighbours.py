"""Who stands beside a module in its chain."""

from __future__ import annotations

from collections.abc import Iterable

from .module import Chain, Module


def neighbours(
    module: Module, parts: Iterable[Module], *, in_turn: bool = True
) -> tuple[Module | None, Module | None] | None:
    """The modules right before and right behind another one in the same chain, anywhere inside some modules.

    Args:
        module: whose neighbours.
        parts: the modules.
        in_turn: whether these run one after the other, so that there is a before and a behind.

    Returns:
        Both, each None where there is none; None where the module is not among them.
    """
    row = list(parts)
    for before, part, behind in zip([None, *row], row, [*row[1:], None], strict=False):
        if part is module:
            return (before, behind) if in_turn else (None, None)
        found = neighbours(module, part.children.values(), in_turn=isinstance(part, Chain))
        if found is not None:
            return found
    return None
