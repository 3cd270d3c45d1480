"""A step as a whole: it is made, or it is not."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distributed import clones

try:  # what the functions of signal do besides takes several times as long
    from _signal import getsignal  # type: ignore[import-not-found]
except ImportError:
    from signal import getsignal

_INTERRUPT = int(signal.SIGINT)
_get_ident = threading.get_ident


class _Interrupts:
    """Ctrl-C, held back while a step is written.

    To exchange the handler of the signal at each step would cost several percent of a small one. So a handler that asks
    whether a step is being written takes the place of the one that it finds, and hands on to that. Where somebody
    exchanges it, it is put back into place at the next step.

    Attributes:
        held: whether a signal has to wait.
        pending: whether one waits.
        main: the thread that runs handlers.
        handler: the one that took its place last.
    """

    def __init__(self) -> None:
        self.held = self.pending = False
        self.handler: _Handler | None = None
        self.find_thread()

    def find_thread(self) -> None:
        """Note the thread that runs handlers: after a fork it is another one."""
        self.main = threading.main_thread().ident
        self.held = self.pending = False

    def install(self) -> bool:
        """Take the place of the handler that there is, if it is Python's.

        Returns:
            Whether it is.
        """
        before = getsignal(_INTERRUPT)
        if callable(before) and before not in (signal.SIG_DFL, signal.SIG_IGN):
            # somebody may put back one that he has found, which knows what it stands for
            self.handler = before if isinstance(before, _Handler) else _Handler(self, before)
            if before is not self.handler:
                signal.signal(signal.SIGINT, self.handler)
            return True
        return False

    def remove(self) -> None:
        """Put back the handler that was there, if nobody else has taken its place."""
        if self.handler is None or threading.get_ident() != self.main:
            return
        if getsignal(_INTERRUPT) is self.handler:
            signal.signal(signal.SIGINT, self.handler.before)


class _Handler:
    """Waits, or does what the handler before would do.

    Args:
        interrupts: says whether to wait.
        before: the handler whose place it takes.
    """

    def __init__(self, interrupts: _Interrupts, before: Any) -> None:
        self.interrupts, self.before = interrupts, before

    def __call__(self, number: int, frame: Any) -> None:
        if self.interrupts.held:
            self.interrupts.pending = True
        else:
            self.before(number, frame)


_interrupts = _Interrupts()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_interrupts.find_thread)


class Transaction:
    """What a step has to undo if it fails, and a Ctrl-C that waits until the step has been written.

    A step is first tried and then written. While it is tried, what it changes is noted down (:meth:`keep`,
    :meth:`undo`), where it is known that something later in the step may fail: another evaluation of the closure, a
    module of the user, a setting that nobody has looked at yet. Any exception, a Ctrl-C among them, puts it all back
    (:meth:`roll_back`). From :meth:`seal` on the step is written, nothing in it is expected to fail, nothing is noted
    down, and a Ctrl-C is held back until :meth:`end`. A step of an ordinary chain is sealed as soon as its gradients
    are there, so it copies nothing.

    Only the main thread can be interrupted, so only there a signal is held back.

    Attributes:
        active: whether changes are noted down.
        open: whether there is something to end.
        thorough: whether also the last ones are, since a module of the user comes after them.
    """

    __slots__ = ("_held", "_installed", "_seen", "_state", "_stores", "_undos", "active", "open", "thorough")

    def __init__(self) -> None:
        self.active = self.thorough = self.open = False
        self._held = self._installed = False
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
        self._stores = [(key, store, dict(store)) for key, store in state.items()]
        self.thorough = thorough
        self._state = state  # from here on there is something to put back
        self.active = self.open = True

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Tensors are about to be written: copy them.

        Args:
            tensors: what is written.
        """
        if self.active:
            new = [t for t in tensors if id(t) not in self._seen]
            if new:
                copies = clones(new)
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
        self._undos = [u for u in self._undos if not (isinstance(u, partial) and u.args[-1] is copies)]

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
        waiting = _interrupts
        if not waiting.held and _get_ident() == waiting.main:
            if getsignal(_INTERRUPT) is not waiting.handler:
                self._installed = waiting.install()
                if not self._installed:
                    return
            waiting.held = self._held = self.open = True

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
        self.open = False
        if self._state is not None:
            self._forget()
        if self._held:
            self._held = _interrupts.held = False
            if _interrupts.pending:
                _interrupts.pending = False
                signal.raise_signal(signal.SIGINT)

    def _forget(self) -> None:
        self.active = self.thorough = False
        self._state, self._stores = None, []
        self._undos.clear()
        self._seen.clear()

    def retire(self) -> None:
        """There will be no more steps: nobody is to find the handler of Ctrl-C any more."""
        if self._installed:
            with suppress(TypeError, ValueError, AttributeError):  # the interpreter is about to end
                _interrupts.remove()


def _put_back(tensors: Iterable[Tensor], copies: Iterable[Tensor]) -> None:
    for t, c in zip(tensors, copies, strict=True):
        t.detach().copy_(c)


def _refill(value: Any, old: Any) -> None:
    value.clear()
    value.extend(old) if isinstance(value, list) else value.update(old)
