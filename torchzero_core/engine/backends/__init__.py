"""Chooses what runs a segment when the chain was made with ``compile=True``."""

from __future__ import annotations

from typing import Any

from ..runner import Runner, Unsupported
from . import c, triton


def compilable(bucket: Any) -> bool:
    """Whether a backend takes the tensors of a bucket; one warning says why not."""
    data = bucket.data[0]
    try:
        if not bucket.dense:
            raise Unsupported("a parameter does not fill one block of memory")
        backend = {"cpu": c, "cuda": triton}.get(data.device.type)
        if backend is None:
            raise Unsupported(f"there is no compiling backend for {data.device.type}")
        backend.require(data.dtype)
    except Unsupported as error:
        _warn(bucket, error)
        return False
    return True


def compiled_runner(bucket: Any, program: Any) -> Runner | None:
    """A runner of compiled passes for a bucket, or None (with one warning that says why) for the default one."""
    try:
        return c.CPURunner(bucket, program) if bucket.data[0].is_cpu else triton.GPURunner(bucket, program)
    except Unsupported as error:
        _warn(bucket, error)
        return None


def _warn(bucket: Any, error: Unsupported) -> None:
    names = bucket.segment.names
    bucket.segment.home.warn_once(
        f"compile:{names}:{error}", f"compile=True has no effect on {names}: {error}. It runs uncompiled."
    )


__all__ = ["compilable", "compiled_runner"]
