"""Numbers per tensor and for all: a numpy array of doubles on the host, or a tensor that the host does not wait for.

On the CPU a call of torch costs more than the arithmetic; on an accelerator the host must not read a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..lang.graph import Dims, Kind, Number, Value
from ..lang.ops import FILL, LOAD, SHAPE, Role
from .plan import Pass, Plan
from .runner import Unsupported


def both(fn: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    """A function of two tensors where one of them may be a number."""
    if not isinstance(a, Tensor):
        a = b.new_full((), a)
    elif not isinstance(b, Tensor):
        b = a.new_full((), b)
    return fn(a, b)


def choose(mask: Any, a: Any, b: Any, dtype: torch.dtype) -> Any:
    """``torch.where`` for any mixture of tensors and numbers."""
    if isinstance(mask, Tensor):
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):  # torch would round them to float32
            b = torch.full((), b, dtype=dtype, device=mask.device)
        return torch.where(mask, a, b).to(dtype)
    chosen = a if mask else b
    if isinstance(chosen, Tensor):
        return chosen.clone()
    like = b if mask else a
    return (
        torch.full_like(like, chosen) if isinstance(like, Tensor) else torch.full((), chosen, dtype=dtype, device="cpu")
    )


#: What the spellings for torch may call.
TORCH: dict[str, Any] = {"torch": torch, "both": both, "choose": choose}


def real(dtype: torch.dtype) -> torch.dtype:
    """In what numbers per tensor are kept on a device."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def doubles(numbers: Tensor) -> Any:
    """Numbers on the host, in double precision; new memory, but for truths and what is double already."""
    if numbers.dtype is torch.float32:  # numpy converts it faster than torch
        return numbers.numpy().astype(np.float64)
    return (numbers if numbers.dtype is torch.bool else numbers.double()).numpy()


def doubled(numbers: Any) -> Any:
    """A copy of numbers of numpy's, in double precision unless they are truths."""
    return numbers.copy() if numbers.dtype == np.bool_ else numbers.astype(np.float64)


def literal(x: Any) -> str:
    """A constant as source."""
    return f"({x!r})" if np.isfinite(x) else f"float('{x}')"


def compiled(name: str, params: str, lines: list[str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """A function from its lines; it keeps its source as ``source``."""
    code = f"def {name}({params}):\n" + "".join(f"    {line}\n" for line in lines)
    space = dict(namespace)
    exec(compile(code, f"<{name}>", "exec"), space)
    function = space[name]
    function.source = code
    return function


def write_numbers(plan: Plan, here: Pass, ids: Mapping[Value, int], *, host: bool) -> Callable[..., None] | None:
    """The numbers of a pass: ``f(H, T, zeros, dtype)`` reads and writes ``T[id]``, arrays of numpy or of torch."""
    lines = []
    for node in here.numbers:
        if node.op in (LOAD, SHAPE) or node.op.role is Role.OPAQUE:
            continue
        args = [
            f"T[{ids[a]}]" if isinstance(a, Value) else f"H[{plan.hosts[a]}]" if isinstance(a, Number) else literal(a)
            for a in node.args
        ]
        text = (node.op.numpy if host else node.op.torch).format(*args)
        if node.op is FILL:
            text = text.replace("like", "zeros" if node.kind is Kind.TENSOR else "zeros.sum()")
        lines.append(f"T[{ids[node]}] = {text}")
    return compiled("numbers", "H, T, zeros, dtype", lines, {"np": np} if host else TORCH) if lines else None


def geometry(dims: Dims, shape: Sequence[int]) -> tuple[int, int]:
    """Of the slices of a contiguous tensor: how many elements each has, and how far apart these lie in memory.

    Raises:
        Unsupported: the dimensions do not follow one another.
    """
    along = dims.of(shape)
    if not along:
        return 1, max(math.prod(shape), 1)
    kept = [d for d in range(along[0], along[-1]) if d not in along and shape[d] != 1]
    if kept:
        raise Unsupported("the dimensions of slices do not follow one another")
    return max(math.prod(shape[d] for d in along), 1), max(math.prod(shape[along[-1] + 1 :]), 1)
