"""A list of parameters and everything that is derived from it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

#: How many lists of some of the parameters are remembered.
REMEMBERED = 32


def same_objects(now: Sequence[Tensor], before: Sequence[Tensor], *, small: bool) -> bool:
    """Whether two lists of one kind hold the same tensors.

    Args:
        now: tensors.
        before: tensors.
        small: whether some of them have fewer than two elements.
    """
    if small:  # these may be equal to others
        return len(now) == len(before) and all(map(is_, now, before))
    try:  # equality is asked for only where objects are not the same, and costs a fifth of asking for identity
        return now == before
    except RuntimeError:  # tensors of more than one element have no truth value
        return False


class Params(list[Tensor]):
    """Parameters that go through the same steps.

    What is worked out from a list of parameters (buckets, routes, stand-ins, scratch memory) is kept in :attr:`derived`
    and so dies with the list. The same parameters in the same order are the same object, as long as they come from the
    same root by :meth:`part`; whoever changes a parameter or its memory throws the root away.

    Args:
        params: the parameters.
        whole: the list that this is a part of.

    Attributes:
        derived: by whom it was derived.

    Example:
        >>> import torch
        >>> root = Params([torch.zeros(2), torch.zeros(3)])
        >>> root.part(root[:1]) is root.part([root[0]]), root.part(root[:]) is root
        (True, True)
    """

    __slots__ = ("__weakref__", "_buffers", "_parts", "_root", "derived")

    def __init__(self, params: Iterable[Tensor] = (), whole: Params | None = None) -> None:
        super().__init__(params)
        self.derived: dict[Any, Any] = {}
        self._parts: dict[tuple[int, ...], Params] = {}
        self._root = None if whole is None else weakref.ref(whole)
        self._buffers: dict[tuple[str, int], Tensor] = {} if whole is None else whole._buffers

    @property
    def root(self) -> Params:
        """The list of all of them; itself where it is no part, or outlives what it was a part of."""
        root = None if self._root is None else self._root()
        return self if root is None else root

    def part(self, params: Sequence[Tensor]) -> Params:
        """Some of the parameters; the same list for the same ones."""
        root = self.root
        if params is root or (isinstance(params, Params) and params.root is root):
            return params
        key = tuple(map(id, params))
        known = root._parts.get(key)
        if known is None:
            if key == tuple(map(id, root)):
                return root
            if len(root._parts) >= REMEMBERED:  # the oldest
                del root._parts[next(iter(root._parts))]
            known = root._parts[key] = Params(params, root)
        return known

    def forget(self) -> None:
        """Throw away what was derived from the list and its parts, also where one of them is in use."""
        for params in (self, *self._parts.values()):
            for value in params.derived.values():
                if isinstance(value, Params):
                    value.forget()
            params.derived.clear()

    def scratch(self, name: str) -> list[Tensor]:
        """Tensors like the parameters; they keep their memory, not their content, from step to step."""
        known = self.derived.get(name)
        if known is None:
            known = self.derived[name] = [self._buffer(name, p) for p in self]
        return known

    def memory(self) -> list[Tensor]:
        """All that :meth:`scratch` holds, for this list and those of the same root."""
        return list(self._buffers.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # a copy is of other parameters, and nothing is derived from them yet

    def _buffer(self, name: str, param: Tensor) -> Tensor:
        key = name, id(param)
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(param, requires_grad=False)
        return self._buffers[key]
