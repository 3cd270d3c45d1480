"""Chooses what runs a segment when the chain was made with ``compile=True``."""

from __future__ import annotations

from typing import Any

from . import cpu


def compiled_runner(bucket: Any, program: Any) -> Any:
    """A runner of compiled passes for a bucket, or None (with one warning that says why) for the default one."""
    device, dtype = bucket.data[0].device.type, bucket.data[0].dtype
    modular = bucket.segment.modular
    names = ", ".join(m.path for m in bucket.segment.modules)
    try:
        if device == "cpu":
            if dtype not in cpu.TYPES:
                raise cpu.Unsupported(f"{dtype} is not supported")
            if not bucket.dense:
                raise cpu.Unsupported("a parameter does not fill one block of memory")
            return cpu.CPURunner(bucket, program)
        raise cpu.Unsupported(f"there is no compiling backend for {device}")
    except cpu.Unsupported as error:
        modular._warn_once(
            f"compile:{names}:{error}", f"compile=True has no effect on {names}: {error}. It runs uncompiled."
        )
        return None


__all__ = ["compiled_runner"]
