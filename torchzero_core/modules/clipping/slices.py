"""Which slices of a tensor have a norm or mean of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from ...core import Check, Context
from ...lang import Dims, Value, as_dims


def dims_or(*words: str) -> Check:
    """Refuses what is neither dimensions nor one of some words."""
    allowed = ", ".join(["None", *(f'"{word}"' for word in words), "an int or a list of ints"])

    def refuse(name: str, dim: Any) -> None:
        if dim is None or isinstance(dim, int) or (isinstance(dim, str) and dim in words):
            return
        if isinstance(dim, str) or not isinstance(dim, Sequence) or not all(isinstance(d, int) for d in dim):
            raise ValueError(f"{name}={dim!r} must be {allowed}.")

    return Check(refuse)


#: None: each whole tensor; ints: slices that run along these dimensions.
OwnDim: TypeAlias = Annotated[int | Sequence[int] | None, dims_or()]
#: The same, or "global": all tensors together.
Dim: TypeAlias = Annotated[int | Sequence[int] | Literal["global"] | None, dims_or("global")]


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
