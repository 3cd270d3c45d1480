"""The parameters of an optimizer, and what they were when something was derived from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import is_
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from ..engine.layout import address_of, are_plain, layout_check
from ..engine.params import Params, same_objects
from .stand_ins import real_param


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
        "_address",
        "_addresses",
        "_grads_hold",
        "_group_of",
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
        self._small = any(is_lazy(p) or p.numel() < 2 for p in self)  # these may be equal to others
        self._address = address_of(self)
        self._layouts_hold = layout_check(self)
        self._addresses = list(map(self._address, self))
        self._grads_hold: Callable[..., bool] | None = None
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
        except (RuntimeError, ValueError):  # tensors of more than one element have no truth value, lazy ones nothing
            return False
        if self._small and not all(map(partial(same_objects, small=True), lists, self._lists)):
            return False
        if len(state) > len(stores):
            self._stores = list(state.values())
        return list(map(self._address, self)) == self._addresses and self._layouts_hold(*self)

    def note(self, store: dict[str, Any], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Take note of a dict of state that was made just now.

        Args:
            store: the dict.
            state: the state of each parameter, with this one.
        """
        if len(state) == len(self._stores) + 1:
            self._stores.append(store)
        else:  # others were made elsewhere
            self._stores = list(state.values())

    def note_grads(self, grads: Sequence[Tensor]) -> None:
        """Take note of the gradients of a step that all parameters have taken part in.

        Args:
            grads: one for each parameter.
        """
        if self._grads_hold is None or not self._grads_hold(*grads):
            self._grads_hold = layout_check(grads) if are_plain(grads) else None

    def grads_as_before(self, grads: Sequence[Tensor | None]) -> object:
        """A mark if gradients are there as they were in that step, with the same shapes, orders and dtypes.

        Args:
            grads: what lies in ``p.grad``.

        Returns:
            None if they are not; otherwise the same object until others are taken note of.
        """
        hold = self._grads_hold
        return hold if hold is not None and hold(*grads) else None

    def knows(self, param: Tensor) -> bool:
        """Whether it is one of these parameters."""
        return id(param) in self._group_of

    # -- groups ----------------------------------------------------------------------------------------------------
    def group_index(self, param: Tensor) -> int:
        """The number of the group that a parameter, or what it stands in for, is in."""
        return self._group_of[id(real_param(param))]
