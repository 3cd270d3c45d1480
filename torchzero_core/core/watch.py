"""Looking into a chain while it makes a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

from torch import Tensor

#: A function that gets a module's path and the update after it.
Look: TypeAlias = Callable[[str, list[Tensor]], None]


class Watcher(Protocol):
    """What looks at the modules of a chain, and at those of the chains inside it.

    Both methods get the context of the step to read and not to keep: ``var.grad`` and ``var.update``, each None while
    it is not known, and ``var.nested``, which is true inside a module of the chain. Nothing is evaluated for them.
    """

    @property
    def apart(self) -> bool:
        """Whether each module has to be seen.

        If not, neighbouring rules run fused as ever, and are seen together under the path of the last one.
        """

    def before(self, path: str, var: Any) -> None:
        """Called before a module runs.

        Args:
            path: of the module.
            var: the context of the step.
        """

    def after(self, path: str, var: Any) -> None:
        """Called after a module has run.

        Args:
            path: of the module.
            var: the context of the step.
        """


class AfterEach:
    """Calls a function after each module of the chain itself.

    Args:
        fn: the function.
    """

    apart = True

    def __init__(self, fn: Look) -> None:
        self._fn = fn

    def before(self, path: str, var: Any) -> None:
        """Nothing to see yet."""

    def after(self, path: str, var: Any) -> None:
        """Call the function."""
        if not var.nested:
            self._fn(path, list(var.peek_update()))


class Watchers:
    """Those who look at the steps of an optimizer.

    Attributes:
        apart: whether one of them has to see each module.
    """

    def __init__(self) -> None:
        self._all: dict[WatchHandle, Watcher] = {}
        self.apart = False

    def add(self, watcher: Watcher) -> WatchHandle:
        """Let one more look.

        Args:
            watcher: who.
        """
        handle = WatchHandle(self)
        self._all[handle] = watcher
        self.apart |= watcher.apart
        return handle

    def remove(self, handle: WatchHandle) -> None:
        """Let one look no longer.

        Args:
            handle: what :meth:`add` has returned.
        """
        self._all.pop(handle, None)
        self.apart = any(w.apart for w in self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Watcher]:
        return iter(tuple(self._all.values()))


class WatchHandle:
    """Ends a :meth:`~torchzero_core.core.Modular.watch` when ``remove()`` is called."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers

    def remove(self) -> None:
        """Stop looking."""
        self._watchers.remove(self)
