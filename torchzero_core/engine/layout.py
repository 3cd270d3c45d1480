"""Whether tensors still lie in memory as they did: anybody may exchange, cut or cast them between two steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..distributed import local

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # it is no public name
    TensorGuards = None  # type: ignore[assignment,misc]


def layout_check(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """A function that says whether tensors, one argument each, have the shapes, strides, dtypes and devices of these.

    Args:
        tensors: of any kind; those of a layer that is still lazy have no shape.
    """
    if are_plain(tensors):  # all facts of all tensors for a fifth of the time
        return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    known = list(map(_layout, tensors))
    return lambda *now: list(map(_layout, now)) == known


def address_of(tensors: Sequence[Tensor]) -> Callable[[Tensor], int]:
    """A function that says where one of some tensors lies in memory; 0 where it has none of its own."""
    return Tensor.data_ptr if are_plain(tensors) else _address


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors are torch's own, with strides, so that all facts of all of them can be checked in one call."""
    plain = (Tensor, torch.nn.Parameter)
    return TensorGuards is not None and all(type(t) in plain and t.layout is torch.strided for t in tensors)


def check_addresses(tensors: Sequence[Tensor], address: Callable[[Tensor], int], what: str) -> None:
    """Refuse tensors whose memory has been given back altogether; a fraction of the cost of :func:`check_memory`.

    Args:
        tensors: of any kind.
        address: says where one of them lies.
        what: they are.

    Raises:
        RuntimeError: naming one.
    """
    if not all(map(address, tensors)):  # those without elements have no address either
        check_memory(tensors, what)


def check_memory(tensors: Sequence[Tensor], what: str) -> None:
    """Refuse tensors whose memory has been given back: to read it ends the process.

    Args:
        tensors: of any kind.
        what: they are.

    Raises:
        RuntimeError: naming one.
    """
    for i, whole in enumerate(tensors):
        if is_lazy(whole) or whole.layout is not torch.strided or whole.device.type == "meta":
            continue
        t = local(whole.detach())
        if type(t) is not Tensor or not t.numel():
            continue
        last = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        held = t.untyped_storage().nbytes()
        if held < (last + 1) * t.element_size():
            raise RuntimeError(
                f"The memory of {what} {i}, of shape {tuple(t.shape)}, has been given back: its storage has {held} "
                "bytes. Fully sharded training does so between two passes; make the step while it is there, or give "
                "the optimizer the sharded parameters."
            )


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    if is_lazy(tensor):
        return ()
    data = local(tensor.detach())
    return data.shape, data.stride(), data.dtype, data.device


def _address(tensor: Tensor) -> int:
    try:
        return 0 if is_lazy(tensor) else local(tensor.detach()).data_ptr()
    except RuntimeError:
        return 0
