"""Norms and inner products of lists of tensors, as numbers of the host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def has_norm(tensor: Tensor) -> bool:
    """Whether a tensor has values that a norm can be taken of.

    Args:
        tensor: any; those of integers and those without a shape yet have none.
    """
    return not is_lazy(tensor) and (tensor.is_floating_point() or tensor.is_complex())


def dense(tensor: Tensor) -> Tensor:
    """The values of a tensor, of which a sparse one keeps only some.

    Args:
        tensor: dense or sparse.
    """
    return tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """The norm of each tensor, in float32 at least, with one wait for the device.

    Args:
        tensors: whose :func:`has_norm` holds.

    Example:
        >>> norms([torch.tensor([3.0, 4.0]), torch.zeros(0)])
        [5.0, 0.0]
    """
    if not tensors:
        return []
    values = [_precise(dense(t.detach())) for t in tensors]
    return _numbers(torch._foreach_norm(values))


def total(values: Iterable[float]) -> float:
    """The norm of all together.

    Args:
        values: their norms.
    """
    return math.hypot(*values)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The inner product of two lists of tensors.

    Args:
        a: dense tensors.
        b: dense tensors of the same shapes.

    Example:
        >>> inner([torch.tensor([1.0]), torch.tensor([2.0])], [torch.tensor([3.0]), torch.tensor([4.0])])
        11.0
    """
    return math.fsum(_numbers([_dot(x, y) for x, y in zip(a, b, strict=True)])) if a else 0.0


def _dot(x: Tensor, y: Tensor) -> Tensor:
    x, y = _precise(x.detach()).reshape(-1), _precise(y.detach()).reshape(-1)
    return torch.vdot(x, y).real if x.is_complex() else torch.dot(x, y)


def _precise(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    device = scalars[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    found: list[float] = torch.stack([s.to(device=device, dtype=dtype) for s in scalars]).tolist()
    return found
