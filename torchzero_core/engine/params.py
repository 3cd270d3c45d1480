"""A list of parameters and everything that is derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

#: How many lists of some of the parameters are remembered.
REMEMBERED = 32


class Params(list[Tensor]):
    """Parameters that go through the same steps.

    What is worked out from a list of parameters (buckets, routes, stand-ins, scratch memory) is kept in :attr:`derived`
    and so dies with the list. The same parameters in the same order are the same object, as long as they come from the
    same root by :meth:`part`; whoever changes a parameter or its memory throws the root away.

    Args:
        params: the parameters.
        root: the list of all of them, where this is a part of it.

    Attributes:
        derived: by whom it was derived.

    Example:
        >>> import torch
        >>> root = Params([torch.zeros(2), torch.zeros(3)])
        >>> root.part(root[:1]) is root.part([root[0]]), root.part(root[:]) is root
        (True, True)
    """

    __slots__ = ("_buffers", "_parts", "derived")

    def __init__(self, params: Iterable[Tensor] = (), root: Params | None = None) -> None:
        super().__init__(params)
        self.derived: dict[Any, Any] = {}
        self._parts: dict[tuple[int, ...], Params] = {} if root is None else root._parts
        self._buffers: dict[tuple[str, int], Tensor] = {} if root is None else root._buffers
        if root is None:
            self._parts[tuple(map(id, self))] = self

    def part(self, params: Sequence[Tensor]) -> Params:
        """Some of the parameters; the same list for the same ones."""
        if isinstance(params, Params) and params._parts is self._parts:
            return params
        key = tuple(map(id, params))
        known = self._parts.get(key)
        if known is None:
            if len(self._parts) >= REMEMBERED:  # the oldest but the root
                del self._parts[list(self._parts)[1]]
            known = self._parts[key] = Params(params, self)
        return known

    def scratch(self, name: str) -> list[Tensor]:
        """Tensors like the parameters; they keep their memory, not their content, from step to step."""
        known = self.derived.get(name)
        if known is None:
            known = self.derived[name] = [self._buffer(name, p) for p in self]
        return known

    def memory(self) -> list[Tensor]:
        """All that :meth:`scratch` holds, for this list and those of the same root."""
        return list(self._buffers.values())

    def _buffer(self, name: str, param: Tensor) -> Tensor:
        key = name, id(param)
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(param, requires_grad=False)
        return self._buffers[key]
