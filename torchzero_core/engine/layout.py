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


class MemoryCheck:
    """Refuses tensors whose memory has been given back, in whole or in part: to read it ends the process.

    Where the memory of each has as many bytes as at the last call, it takes a fraction of :func:`check_memory`.

    Args:
        what: they are.

    Example:
        >>> check, t = MemoryCheck("gradient"), torch.zeros(3)
        >>> check([t])
        >>> _ = t.untyped_storage().resize_(4)
        >>> check([t])
        Traceback (most recent call last):
        RuntimeError: The memory of gradient 0, of shape (3,), has been given back: its storage has 4 bytes. ...
    """

    __slots__ = ("_known", "_plain", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._known: list[int] | None = None
        self._plain: bool | None = None

    def __call__(self, tensors: Sequence[Tensor]) -> None:
        """Look at them.

        Args:
            tensors: of the same kinds and shapes in each call.

        Raises:
            RuntimeError: naming one.
        """
        if self._plain is None:
            self._plain = are_plain(tensors)
        held = list(map(_BYTES, map(_STORAGE, tensors))) if self._plain else None
        if held is None or held != self._known:
            check_memory(tensors, self._what)
            self._known = held


_BYTES, _STORAGE = torch.UntypedStorage.nbytes, Tensor.untyped_storage


def check_memory(tensors: Sequence[Tensor], what: str) -> None:
    """Refuse tensors whose memory has been given back: to read it ends the process.

    Args:
        tensors: of any kind.
        what: they are.

    Raises:
        RuntimeError: naming one.
    """
    for i, t in enumerate(tensors):
        if not has_memory(t):
            raise RuntimeError(
                f"The memory of {what} {i}, of shape {tuple(t.shape)}, has been given back: its storage has "
                f"{local(t.detach()).untyped_storage().nbytes()} bytes. Fully sharded training does so between two "
                "passes; make the step while it is there, or give the optimizer the sharded parameters."
            )


def has_memory(tensor: Tensor) -> bool:
    """Whether the memory of a tensor reaches as far as its elements; True where it has none of its own.

    Args:
        tensor: of any kind.
    """
    if type(tensor) is Tensor and tensor.is_contiguous():  # as nearly always
        n = tensor.numel()
        held = tensor.untyped_storage().nbytes()
        return not n or held >= (tensor.storage_offset() + n) * tensor.element_size()
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return True
    t = local(tensor.detach())
    if type(t) is not Tensor or not t.numel():
        return True
    last = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return t.untyped_storage().nbytes() >= (last + 1) * t.element_size()


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
