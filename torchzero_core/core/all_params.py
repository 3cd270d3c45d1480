"""The parameters of an optimizer, and what they were when something was derived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..distributed import local
from ..engine.params import Params, same_objects
from .stand_ins import real_param

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # it is no public name
    TensorGuards = None  # type: ignore[assignment,misc]


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


class AllParams(Params):
    """The parameters of all groups. Everything that is derived from them hangs here.

    The optimizer asks at each step whether they are still what they were (:meth:`unchanged`), and throws this object
    away if not: anybody may exchange parameters, their memory or their state between two steps.

    Args:
        groups: the groups.
        state: the state of each parameter.

    Attributes:
        first_store: the state of the first parameter, once somebody has asked for it.
    """

    __slots__ = (
        "_facts",
        "_group_of",
        "_known_facts",
        "_layouts_hold",
        "_lists",
        "_small",
        "_stores",
        "first_store",
    )

    def __init__(self, groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, dict[str, Any]]) -> None:
        super().__init__(p for group in groups for p in group["params"])
        self._lists = [list(group["params"]) for group in groups]
        self._stores = list(state.values())
        self.first_store: dict[str, Any] | None = None
        self._facts: Callable[[Tensor], Any] = _facts
        self._layouts_hold: Callable[..., bool] = _no_objection
        self._small = any(p.numel() < 2 for p in self)  # these may be equal to others
        if TensorGuards is not None and all(map(_is_plain, self)):
            # The same facts for a fifth of the time: the address, and the rest compared in one call.
            self._facts = Tensor.data_ptr
            self._layouts_hold = TensorGuards(*self, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        self._known_facts = list(map(self._facts, self))
        self._group_of = {id(p): i for i, params in enumerate(self._lists) for p in params}

    def unchanged(self, groups: Sequence[Mapping[str, Any]], state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether these are still the parameters, where they were and as they were, with the same dicts of state."""
        stores = self._stores
        if len(state) < len(stores) or not all(map(is_, state.values(), stores)):
            return False
        lists = [group["params"] for group in groups]
        try:  # as in same_objects, of which one call a group costs more
            if lists != self._lists:
                return False
        except RuntimeError:
            return False
        if self._small and not all(map(partial(same_objects, small=True), lists, self._lists)):
            return False
        if len(state) > len(stores):
            self._stores = list(state.values())
        return list(map(self._facts, self)) == self._known_facts and self._layouts_hold(*self)

    def knows(self, param: Tensor) -> bool:
        """Whether it is one of these parameters."""
        return id(param) in self._group_of

    # -- groups ----------------------------------------------------------------------------------------------------
    def group_index(self, param: Tensor) -> int:
        """The number of the group that a parameter, or what it stands in for, is in."""
        return self._group_of[id(real_param(param))]
