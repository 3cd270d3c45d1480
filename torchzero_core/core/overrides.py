"""Settings of one module for some parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class Overrides:
    """Settings that a module was given for some parameters; they are stronger than those of the optimizer's groups.

    Args:
        groups: parameters and their settings; a later one is stronger.
    """

    def __init__(self, groups: Sequence[tuple[list[Tensor], Mapping[str, Any]]] = ()) -> None:
        self.groups = list(groups)  # they keep the tensors alive, so that the ids below stay valid
        self._places: dict[int, tuple[int, ...]] = {}
        for i, (params, _) in enumerate(self.groups):
            for p in params:
                self._places[id(p)] = (*self._places.get(id(p), ()), i)

    def __bool__(self) -> bool:
        return bool(self.groups)

    def places(self, param: Tensor) -> tuple[int, ...]:
        """The positions of the groups that a parameter is in."""
        return self._places.get(id(param), ())

    def values(self, param: Tensor) -> dict[str, Any]:
        """The settings of a parameter."""
        return {k: v for i in self.places(param) for k, v in self.groups[i][1].items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Overrides, (self.groups,)  # ids mean nothing in a copy
