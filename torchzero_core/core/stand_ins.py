"""Tensors that stand for parameters: modules keep state under them, the optimizer keeps it with the parameters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Place(NamedTuple):
    """Where the state of a stand-in is kept."""

    param: Tensor
    prefix: str


def stand_for(tensor: Tensor, param: Tensor, prefix: str) -> None:
    """Let a tensor keep its state with a parameter (or a stand-in of one), under a prefix.

    The tensor itself knows it, so it is forgotten with the tensor.
    """
    tensor.stands_for = Place(param, prefix)  # type: ignore[attr-defined]


def real_place(param: Tensor) -> tuple[Tensor, str]:
    """The parameter that keeps the state of a tensor, and the prefix that it is kept under; "" for a parameter."""
    prefix = ""
    place: Place | None = getattr(param, "stands_for", None)
    while place is not None:
        param, prefix = place.param, place.prefix + prefix
        place = getattr(param, "stands_for", None)
    return param, prefix


def real_param(param: Tensor) -> Tensor:
    """The parameter that a stand-in stands for; a parameter itself."""
    place: Place | None = getattr(param, "stands_for", None)
    return param if place is None else real_param(place.param)
