"""A step as a whole: it is made, or it is not."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

try:  # what signal.signal does besides takes several times as long
    import _signal as signals
except ImportError:
    import signal as signals  # type: ignore[no-redef]

_INTERRUPT = int(signal.SIGINT)


class Transaction:
    """What a step has to undo if it fails, and a Ctrl-C that waits until the step has been written.

    A step is first tried and then written. While it is tried, what it changes is noted down (:meth:`keep`,
    :meth:`undo`), where it is known that something later in the step may fail: another evaluation of the closure, a
    module of the user, a setting that nobody has looked at yet. Any exception, a Ctrl-C among them, puts it all back
    (:meth:`roll_back`). From :meth:`seal` on the step is written, nothing in it is expected to fail, nothing is noted
    down, and a Ctrl-C is held back until :meth:`end`. A step of an ordinary chain is sealed as soon as its gradients
    are there, so it copies nothing.

    Only the main thread can be interrupted, so only there a signal is held back. The handler that is put back is the
    one that was found.

    Attributes:
        active: whether changes are noted down.
        thorough: whether also the last ones are, since a module of the user comes after them.
    """

    __slots__ = ("_before", "_held", "_pending", "_seen", "_state", "_stores", "_undos", "active", "thorough")

    def __init__(self) -> None:
        self.active = self.thorough = False
        self._held = self._pending = False
        self._before: Any = None
        self._state: MutableMapping[Any, dict[str, Any]] | None = None
        self._stores: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []
        self._undos: list[Callable[[], Any]] = []
        self._seen: set[int] = set()

    # -- trying ------------------------------------------------------------------------------------------------------
    def begin(self, state: MutableMapping[Any, dict[str, Any]], *, thorough: bool) -> None:
        """Note down changes from here on.

        Args:
            state: the dicts of state of all parameters.
            thorough: see :attr:`thorough`.
        """
        self._state, self.thorough = state, thorough
        self._stores = [(key, store, dict(store)) for key, store in state.items()]
        self.active = True

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Tensors are about to be written: copy them.

        Args:
            tensors: what is written.
        """
        if self.active:
            new = [t for t in tensors if id(t) not in self._seen]
            if new:
                copies = [t.detach().clone() for t in new]
                self._undos.append(partial(_put_back, new, copies))
                self._seen.update(map(id, new))

    def keep_value(self, value: Any) -> None:
        """Something in the state is handed to whoever may write to it.

        Args:
            value: what it is.
        """
        if isinstance(value, Tensor):
            self.keep([value])
        elif isinstance(value, (list, dict)) and self.active and id(value) not in self._seen:
            self._seen.add(id(value))
            self._undos.append(partial(_refill, value, copy.deepcopy(value)))

    def lend(self, tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
        """Tensors are about to be written, and somebody has copies of them anyway.

        Args:
            tensors: what is written.
            copies: what they are now; nobody else may write to them before :meth:`taken_back`, or the end of the step.
        """
        if self.active:
            self._undos.append(partial(_put_back, tensors, copies))

    def taken_back(self, copies: Sequence[Tensor]) -> None:
        """Tensors that were lent are again what they were, and their copies are used for something else."""
        self._undos = [u for u in self._undos if not (isinstance(u, partial) and u.args[1] is copies)]

    def undo(self, action: Callable[[], Any]) -> None:
        """Something is about to be changed.

        Args:
            action: puts it back; it may be called twice.
        """
        if self.active:
            self._undos.append(action)

    # -- writing -----------------------------------------------------------------------------------------------------
    def seal(self) -> None:
        """Write from here on: nothing is noted down any more, and a Ctrl-C waits."""
        self.active = False
        if not self._held and threading.get_ident() == threading.main_thread().ident:
            before = signals.getsignal(_INTERRUPT)
            if before is not None:  # else it is none of Python's
                self._before = before
                signals.signal(_INTERRUPT, self._wait)
                self._held = True

    def _wait(self, *_: object) -> None:
        self._pending = True

    # -- the end -----------------------------------------------------------------------------------------------------
    def roll_back(self) -> None:
        """Put everything back that was noted down, and hold a Ctrl-C back meanwhile."""
        while True:
            try:
                self.seal()
                break
            except KeyboardInterrupt:  # another one
                continue
        with torch.no_grad():
            while self._undos:
                self._undos[-1]()
                self._undos.pop()
        if self._state is not None:
            known = {id(store) for _, store, _ in self._stores}
            for key in [k for k, store in self._state.items() if id(store) not in known]:
                del self._state[key]
            for key, store, values in self._stores:
                store.clear()
                store.update(values)
                self._state[key] = store

    def end(self) -> None:
        """Forget what was noted down, and let a Ctrl-C that was held back come through."""
        self.active = self.thorough = False
        if self._state is not None:
            self._state, self._stores = None, []
            self._undos.clear()
            self._seen.clear()
        if self._held:
            before, self._before = self._before, None
            self._held = False
            signals.signal(_INTERRUPT, before)
            if self._pending:
                self._pending = False
                signal.raise_signal(signal.SIGINT)


def _put_back(tensors: Iterable[Tensor], copies: Iterable[Tensor]) -> None:
    for t, c in zip(tensors, copies, strict=True):
        t.detach().copy_(c)


def _refill(value: Any, old: Any) -> None:
    value.clear()
    value.extend(old) if isinstance(value, list) else value.update(old)
