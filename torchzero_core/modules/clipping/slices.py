"""Which slices of a tensor have a norm or mean of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from ...core import Context
from ...lang import Dims, Value, as_dims

#: None: each whole tensor; "global": all tensors together; ints: slices that run along these dimensions.
Dim: TypeAlias = int | Sequence[int] | Literal["global"] | None


def dims_of(ctx: Context) -> Dims | None:
    """The slices that the settings ``dim`` and ``inverse_dims`` name; None for whole tensors."""
    dims = as_dims(ctx.settings.dim)
    return dims if dims is None else dims._replace(inverse=bool(ctx.settings.inverse_dims))


def large_enough(ctx: Context, u: Value, new: Value) -> Value:
    """``new`` in slices (or whole tensors, or all of them together) that have ``min_size`` elements, else ``u``.

    A tensor that has none of the dimensions has no slices.
    """
    h = ctx.settings
    dims = None if h.dim == "global" else dims_of(ctx)
    if dims is None and h.min_size <= 1:
        return new
    size = u.global_numel() if h.dim == "global" else u.numel() if dims is None else ctx.of_shape(dims.size)
    return (size >= h.min_size.maximum(1)).where(new, u)


def check_dims(name: str, dim: Dim, *, allow_global: bool) -> None:
    """Refuse what is no dimension.

    Raises:
        ValueError: naming the module and what it takes.
    """
    if dim is None or (dim == "global" and allow_global) or isinstance(dim, int):
        return
    if not isinstance(dim, str) and all(isinstance(d, int) for d in dim):
        return
    also = ', "global"' if allow_global else ""
    raise ValueError(f"{name}(dim={dim!r}) must be None{also}, an int or a list of ints.")
