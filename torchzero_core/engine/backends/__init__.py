"""What runs the passes. A backend is a file with a ``refusal`` and a ``runner``, and a line here."""

from __future__ import annotations

from typing import Any

from ..bucket import Bucket
from ..program import Program
from ..runner import Runner, Scratch, Unavailable, Unsupported
from . import c, triton
from .foreach import ForeachRunner

#: The compiling backend of each kind of device.
COMPILING: dict[str, Any] = {"cpu": c}
COMPILING["cuda"] = triton


def refusal(bucket: Bucket) -> str | None:
    """Why no compiling backend takes the tensors of a bucket; None where one does."""
    data = bucket.data[0]
    if not bucket.dense:
        return "a parameter does not fill one block of memory"
    backend = COMPILING.get(data.device.type)
    if backend is None:
        return f"there is no compiling backend for {data.device.type}"
    return backend.refusal(data.dtype)


def compiled(bucket: Bucket, program: Program, scratch: Scratch) -> Runner:
    """A runner of compiled passes for a bucket.

    Args:
        bucket: the tensors and their state.
        program: the passes.
        scratch: makes the workspaces.

    Raises:
        Unsupported: something in the program cannot be compiled.
    """
    return COMPILING[bucket.data[0].device.type].runner(bucket, program, scratch)


__all__ = ["ForeachRunner", "Unavailable", "Unsupported", "compiled", "refusal"]
