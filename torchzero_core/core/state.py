"""Views of the state of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from ..engine import Transaction
from ..engine.layout import has_memory

#: What sets the names of module-wide state apart from those of the first parameter's own state.
GLOBAL = "global."


class ScopedState(MutableMapping[str, Any]):
    """One module's part of the state of one parameter: a view of ``optimizer.state[p]`` under a prefix.

    Args:
        store: the dict.
        prefix: what the names start with.
        transaction: where a value is noted down before somebody gets it who may write to it.
    """

    __slots__ = ("_prefix", "_store", "_transaction")

    def __init__(self, store: dict[str, Any], prefix: str, transaction: Transaction | None = None) -> None:
        self._store, self._prefix, self._transaction = store, prefix, transaction

    def __getitem__(self, key: str) -> Any:
        value = self.examined(key)
        if self._transaction is not None:
            self._transaction.keep_value(value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or another one where there is none."""
        return self[key] if self._prefix + key in self._store else default

    def peek(self, key: str) -> Any:
        """A value for reading, or for whoever tells :meth:`keep_rows` what is written to it.

        Only for what :meth:`examined` has looked at in this step.
        """
        return self._store[self._prefix + key]

    def examined(self, key: str) -> Any:
        """A value for reading whose memory is there.

        Raises:
            RuntimeError: the memory of a tensor has been given back.
        """
        value = self._store[self._prefix + key]
        if type(value) is Tensor:  # as nearly always
            if not has_memory(value):
                raise self._gone(key, value)
            return value
        for t in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(t, Tensor) and not has_memory(t):
                raise self._gone(key, t)
        return value

    def _gone(self, key: str, tensor: Tensor) -> RuntimeError:
        return RuntimeError(
            f"The memory of the state {self._prefix + key!r}, of shape {tuple(tensor.shape)}, has been given back. "
            "Bring it back, or call reset()."
        )

    def examined_all(self, keys: Sequence[str]) -> list[Any] | None:
        """Several values as :meth:`examined` gives them; None where one of them is not there."""
        return [self.examined(key) for key in keys] if all(self._prefix + key in self._store for key in keys) else None

    def keep_rows(self, index: Tensor, *rows: tuple[Tensor, int]) -> None:
        """Single rows of large tensors are about to be written.

        Args:
            index: which one, as a tensor with one number that nobody writes to.
            rows: tensors, got by :meth:`peek`, and the dimension along which the row lies.
        """
        if self._transaction is None:
            return
        for tensor, dim in rows:
            old = tensor.index_select(dim, index)
            self._transaction.undo(partial(tensor.index_copy_, dim, index, old))

    def keep_part(self, views: Sequence[Tensor]) -> None:
        """Parts of tensors, got by :meth:`peek`, are about to be written.

        Args:
            views: the parts.
        """
        if self._transaction is not None:
            self._transaction.keep(views)

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self._store[self._prefix + key]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._prefix + key in self._store

    def __iter__(self) -> Iterator[str]:
        n = len(self._prefix)
        return iter([k[n:] for k in self._store if k.startswith(self._prefix)])

    def __len__(self) -> int:
        return sum(k.startswith(self._prefix) for k in self._store)

    def __repr__(self) -> str:
        return repr(dict(self))


class Stateful(Protocol):
    """What has state."""

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """The dict that holds the state of ``param`` and the prefix of its own part of it."""

    @property
    def transaction(self) -> Transaction | None:
        """Where changes of the state are noted down."""


class StateOf:
    """``module.state``: maps a parameter to the module's state for it."""

    __slots__ = ("_module",)

    def __init__(self, module: Stateful) -> None:
        self._module = module

    def __getitem__(self, param: Tensor) -> ScopedState:
        store, prefix = self._module.locate(param)
        return ScopedState(store, prefix, self._module.transaction)
