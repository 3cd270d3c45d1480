"""Which slices of a tensor have a norm or mean of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from ...core import Check, Context
from ...lang import Dims, Value, as_dims


def _refuse(name: str, dim: Any) -> None:
    """Refuses what is neither dimensions nor "global"."""
    if dim is None or isinstance(dim, int) or dim == "global":
        return
    if isinstance(dim, str) or not isinstance(dim, Sequence) or not all(isinstance(d, int) for d in dim):
        raise ValueError(f'{name}={dim!r} must be None, "global", an int or a list of ints.')


#: None: each whole tensor; ints: slices that run along these dimensions; "global": all tensors together.
Dim: TypeAlias = Annotated[int | Sequence[int] | Literal["global"] | None, Check(_refuse)]


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
