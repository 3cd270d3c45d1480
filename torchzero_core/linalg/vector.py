"""Lists of tensors as one vector and back, with no copy that is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

#: So many elements are sooner put together than gone through tensor by tensor.
SHORT = 1 << 16
#: What sums are made in as it is.
_WIDE = (torch.float32, torch.float64)


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or in float32 where its dtype is a half precision.

    Args:
        tensor: a real tensor.

    Example:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor if tensor.dtype in _WIDE else tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_finite(matrices: Tensor) -> Tensor:
    """Whether all values of a matrix are finite, for every matrix of a batch.

    Args:
        matrices: of shape (…, m, n).

    Returns:
        Truth values of shape (…).

    Example:
        >>> all_finite(torch.tensor([[[1.0]], [[torch.inf]], [[torch.nan]]]))
        tensor([ True, False, False])
    """
    fine = matrices.sum((-2, -1)).isfinite()  # one pass and no memory; but it may overflow
    return fine if bool(fine.all()) else matrices.isfinite().flatten(-2).all(-1)


def flatten(tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The elements of all tensors, in order, as one vector.

    Args:
        tensors: real tensors of any shapes; an empty one adds nothing.
        out: where to write. None: a new vector of the dtype that holds all of theirs, on the device of the first. A
            single contiguous tensor then is not copied: the vector shares its memory.

    Returns:
        The vector.

    Raises:
        ValueError: no tensors and no ``out``, or an ``out`` of another length.

    Example:
        >>> flatten([torch.tensor([[1.0, 2.0]]), torch.tensor(3.0)])
        tensor([1., 2., 3.])
    """
    if out is None:
        if not tensors:
            raise ValueError("flatten got no tensors; there is no vector of them.")
        if len(tensors) == 1:
            return tensors[0].detach().reshape(-1)
        dtype = tensors[0].dtype
        for t in tensors[1:]:
            dtype = torch.promote_types(dtype, t.dtype)
        out = torch.empty(sum(t.numel() for t in tensors), dtype=dtype, device=tensors[0].device)
    pieces = unflatten(out, tensors)
    torch._foreach_copy_(pieces, [t.detach() for t in tensors]) if pieces else None
    return out


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector into views shaped like the given tensors: writing to them writes to the vector.

    The elements of each view stand in the logical (row-major) order of the tensor's shape, whatever its strides.

    Args:
        vector: has as many elements as all the tensors together.
        like: tensors whose shapes to take.

    Raises:
        ValueError: the lengths differ.

    Example:
        >>> a, b = unflatten(torch.arange(3.0), [torch.zeros(1, 2), torch.tensor(0.0)])
        >>> a, b
        (tensor([[0., 1.]]), tensor(2.))
    """
    sizes = [t.numel() for t in like]
    if vector.dim() != 1 or vector.numel() != sum(sizes):
        raise ValueError(
            f"A vector of shape {tuple(vector.shape)} cannot be cut into tensors with {sum(sizes)} elements in all."
        )
    return [piece.view(t.shape) for piece, t in zip(vector.split(sizes), like, strict=True)]


def unflatten_as(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Like :func:`unflatten`, but each piece has the dtype and device of its tensor; copied only where these differ.

    Args:
        vector: has as many elements as all the tensors together.
        like: tensors whose shapes, dtypes and devices to take.

    Example:
        >>> unflatten_as(torch.arange(2.0), [torch.zeros(2, dtype=torch.float64)])
        [tensor([0., 1.], dtype=torch.float64)]
    """
    return [piece.to(device=t.device, dtype=t.dtype) for piece, t in zip(unflatten(vector, like), like, strict=True)]


@contextmanager
def elsewhere(tensors: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Tensors may be written inside, and hold what they held before afterwards, to the last bit, also after an error.

    Args:
        tensors: the tensors.

    Yields:
        The tensors, to be written whether gradients are on or off, and copies of what they held.

    Example:
        >>> p = torch.ones(1, requires_grad=True)
        >>> with elsewhere([p]) as ([data], [start]):
        ...     print(data.mul_(3), start)
        tensor([3.]) tensor([1.])
        >>> p.detach()
        tensor([1.])
    """
    data = [t.detach() for t in tensors]
    start = [t.clone() for t in data]
    try:
        yield data, start
    finally:
        torch._foreach_copy_(data, start)


def total_dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors as a 0-d tensor.

    Sums in float32 at least (half precision would overflow) and on the device of the first tensor.

    Args:
        a: tensors.
        b: tensors of the same shapes.

    Example:
        >>> total_dot([torch.tensor([1.0, 2.0]), torch.tensor(3.0)], [torch.tensor([4.0, 5.0]), torch.tensor(6.0)])
        tensor(32.)
    """
    if not a:
        return torch.zeros((), device="cpu")
    if len(a) == 1 == len(b):
        return _dot(a[0], b[0])
    x = short_vector(a)
    if x is not None and (y := x if b is a else short_vector(b)) is not None and y.dtype is x.dtype:
        return _dot(x, y)
    device = a[0].device
    parts = [_dot(x, y) for x, y in zip(a, b, strict=True)]
    return torch.stack([part if part.device == device else part.to(device) for part in parts]).sum()


def short_vector(tensors: Sequence[Tensor]) -> Tensor | None:
    """The elements of all tensors as one vector, where that takes one call and not much memory; None where it does not.

    Args:
        tensors: of any shapes; they have to be of one dtype, on one device, and small together.

    Example:
        >>> short_vector([torch.tensor([1.0, 2.0]), torch.tensor(3.0)])
        tensor([1., 2., 3.])
    """
    if sum(map(Tensor.numel, tensors)) > SHORT or any(t.dtype is not tensors[0].dtype for t in tensors):
        return None
    # Asked for and not tried: what fails for want of memory has to fail, for another sum is rounded otherwise.
    return _flatten_dense_tensors(tensors) if len(set(map(Tensor.get_device, tensors))) == 1 else None


def _dot(x: Tensor, y: Tensor) -> Tensor:
    if x.requires_grad or y.requires_grad:
        x, y = x.detach(), y.detach()
    x, y = at_least_float32(x), at_least_float32(y)
    if x.ndim == 1 == y.ndim:
        return torch.dot(x, y)
    if x.is_contiguous() and y.is_contiguous():
        return torch.dot(x.view(-1), y.view(-1))
    return (x * y).sum()
