"""Looking at the update after each module of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

#: Functions that get a module's path and the update after it.
Watchers: TypeAlias = dict[int, Callable[[str, list[Tensor]], None]]


class WatchHandle:
    """Ends a :meth:`~torchzero_core.core.Modular.watch` when ``remove()`` is called."""

    def __init__(self, watchers: Watchers, fn: Callable[[str, list[Tensor]], None]) -> None:
        self._watchers, self._key = watchers, max(watchers, default=-1) + 1
        watchers[self._key] = fn

    def remove(self) -> None:
        """Stop calling the function."""
        self._watchers.pop(self._key, None)
