"""The parameters of an optimizer, and what they were when something was derived from them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed import local
from ..engine.params import Params

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # it is no public name
    TensorGuards = None  # type: ignore[assignment,misc]


class StandIn(NamedTuple):
    """A tensor that stands in for parameters in a projection.

    Attributes:
        tensor: the tensor.
        keeper: the parameter (or outer stand-in) with which its state is kept, and whose group it is in.
        prefix: what sets its state apart there.
    """

    tensor: Tensor
    keeper: Tensor
    prefix: str


def _facts(param: Tensor) -> tuple[Any, ...]:
    data = local(param.detach())
    try:
        address = data.data_ptr()
    except RuntimeError:  # without memory of its own
        address = 0
    return address, data.shape, data.stride(), data.dtype, data.device


def _is_plain(param: Tensor) -> bool:
    return type(param) in (Tensor, torch.nn.Parameter) and param.layout is torch.strided


def _no_objection(*params: Tensor) -> bool:
    return True


def _same_lists(now: list[list[Tensor]], before: list[list[Tensor]]) -> bool:
    """Whether lists have the same objects."""
    return len(now) == len(before) and all(
        len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(now, before, strict=True)
    )


def _equal_lists(now: list[list[Tensor]], before: list[list[Tensor]]) -> bool:
    """The same for a fifth of the time: objects are asked whether they are equal only where they are not the same."""
    try:
        return now == before
    except RuntimeError:  # tensors of more than one element have no truth value
        return False


class AllParams(Params):
    """The parameters of all groups. Everything that is derived from them hangs here.

    The optimizer asks at each step whether they are still what they were (:meth:`unchanged`), and throws this object
    away if not: anybody may exchange parameters, their memory or their state between two steps.

    Args:
        groups: the groups.
        state: the state of each parameter.
    """

    __slots__ = (
        "_facts",
        "_group_of",
        "_known_facts",
        "_layouts_hold",
        "_lists",
        "_same_lists",
        "_size",
        "_stand_ins",
        "_stores",
    )

    def __init__(self, groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, dict[str, Any]]) -> None:
        super().__init__(p for group in groups for p in group["params"])
        self._lists = [list(group["params"]) for group in groups]
        self._stores = list(state.values())
        self._size = sum(map(len, self._stores))
        self._facts: Callable[[Tensor], Any] = _facts
        self._layouts_hold: Callable[..., bool] = _no_objection
        self._same_lists = _same_lists
        if TensorGuards is not None and all(map(_is_plain, self)):
            # The same facts for a fifth of the time: the address, and the rest compared in one call.
            self._facts = Tensor.data_ptr
            self._same_lists = _same_lists if any(p.numel() == 1 for p in self) else _equal_lists
            self._layouts_hold = TensorGuards(*self, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        self._known_facts = list(map(self._facts, self))
        self._group_of = {id(p): i for i, params in enumerate(self._lists) for p in params}
        self._stand_ins: dict[int, StandIn] = {}

    def unchanged(self, groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether these are still the parameters, where they were and as they were, with the same dicts of state."""
        stores = self._stores
        if len(state) < len(stores) or not all(map(is_, state.values(), stores)):
            return False
        if not self._same_lists([group["params"] for group in groups], self._lists):
            return False
        size = sum(map(len, state.values()))
        if size != self._size:
            if size < self._size:
                return False  # some state has been taken away
            self._stores, self._size = list(state.values()), size
        return list(map(self._facts, self)) == self._known_facts and self._layouts_hold(*self)

    # -- groups and stand-ins ----------------------------------------------------------------------------------------
    def group_index(self, param: Tensor) -> int:
        """The number of the group that a parameter, or what it stands in for, is in."""
        return self._group_of[id(self.real_param(param))]

    def real_param(self, param: Tensor) -> Tensor:
        """The parameter with which the state of a stand-in is kept; a parameter itself."""
        return self.place(param)[0] if self._stand_ins else param

    def place(self, param: Tensor) -> tuple[Tensor, str]:
        """The parameter with which the state of another tensor is kept, and what sets it apart there."""
        found = self._stand_ins.get(id(param)) if self._stand_ins else None
        if found is None:
            return param, ""
        real, prefix = self.place(found.keeper)
        return real, prefix + found.prefix

    def stand_in(self, owner: Any, source: Params, stand_ins: Sequence[StandIn]) -> Params:
        """Let tensors stand in for parameters, in place of those that their owner had before.

        Args:
            owner: the projection.
            source: what they stand in for.
            stand_ins: the tensors.
        """
        for tensor in self.derived[owner][1] if owner in self.derived else ():
            self._stand_ins.pop(id(tensor), None)
        self._stand_ins.update({id(s.tensor): s for s in stand_ins})
        params = Params(s.tensor for s in stand_ins)
        self.derived[owner] = weakref.ref(source), params
        return params

    def stand_ins(self, owner: Any, source: Params) -> Params | None:
        """The tensors of an owner, if they were made for these parameters.

        Args:
            owner: the projection.
            source: what they stand in for.
        """
        made_for, params = self.derived.get(owner, (None, None))
        return params if made_for is not None and made_for() is source else None
