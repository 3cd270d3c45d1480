"""Which slices of a tensor have a norm or mean of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ...core import Context
from ...lang import Number, Value

#: None: each whole tensor; "global": all tensors together; ints: slices that run along these dimensions.
Dims: TypeAlias = int | Sequence[int] | Literal["global"] | None


def reduced(t: Tensor, dim: int | Sequence[int], *, inverse: bool, min_size: int) -> list[int] | None:
    """The dimensions of ``t`` that a slice runs along; None where there are no slices of ``min_size`` elements."""
    wanted = [dim] if isinstance(dim, int) else dim
    chosen = {d % t.ndim for d in wanted if -t.ndim <= d < t.ndim}
    dims = [d for d in range(t.ndim) if (d in chosen) != inverse]
    return dims if dims and math.prod(t.shape[d] for d in dims) >= max(min_size, 1) else None


def sliced(
    ctx: Context, u: Value, change: Callable[[Tensor, list[int], float], Tensor], number: Number | float = 0.0
) -> Value:
    """Change each tensor along the slices that the settings ``dim``, ``inverse_dims`` and ``min_size`` name.

    Args:
        ctx: of the rule.
        u: the update.
        change: gets a tensor, the dimensions of its slices and ``number``, and returns the new tensor.
        number: a setting that ``change`` needs.
    """
    h = ctx.settings
    dim, inverse, min_size = h.dim, bool(h.inverse_dims), int(h.min_size)
    dims = int(dim) if isinstance(dim, Number) else dim

    def run(tensors: list[Tensor], value: float) -> list[Tensor]:
        out = []
        for t in tensors:
            along = reduced(t, dims, inverse=inverse, min_size=min_size)
            out.append(t.clone() if along is None else change(t, along, value))
        return out

    return ctx.call(run, u, number)


def slice_norms(t: Tensor, dims: list[int], ord: float) -> Tensor:
    """The norms of the slices, shaped to be multiplied with ``t``."""
    return torch.linalg.vector_norm(t, ord, dims, keepdim=True)


def large_enough(ctx: Context, u: Value, new: Value) -> Value:
    """``new`` where the whole tensor, or all of them together, have ``min_size`` elements, else ``u``."""
    min_size = ctx.settings.min_size
    if min_size <= 1:
        return new
    size = u.global_numel() if ctx.settings.dim == "global" else u.numel()
    return (size >= min_size).where(new, u)


def check_dims(name: str, dim: Dims, *, allow_global: bool) -> None:
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
