"""Chooses what runs a segment when the chain was made with ``compile=True``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import cpu, gpu
from .runner import Runner, Unsupported
from .segment import Segment
from .transform import Transform

if TYPE_CHECKING:
    from .modular import Modular


def compilable(bucket: Any) -> bool:
    """Whether a backend takes the tensors of a bucket; one warning says why not."""
    data = bucket.data[0]
    try:
        if not bucket.dense:
            raise Unsupported("a parameter does not fill one block of memory")
        backend = {"cpu": cpu, "cuda": gpu}.get(data.device.type)
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
        return cpu.CPURunner(bucket, program) if bucket.data[0].is_cpu else gpu.GPURunner(bucket, program)
    except Unsupported as error:
        _warn(bucket, error)
        return None


def warn_uncompiled(modular: Modular, parts: Sequence[Any]) -> None:
    """One warning that names the modules of a chain that are no rules, so that there is nothing to compile."""
    names = [part.path for part in parts if not isinstance(part, (Segment, Transform))]
    if names:
        modular._warn_once(
            "compile:modules",
            f"compile=True has no effect on {', '.join(names)}: only rules can be compiled. The rules of the chain "
            "are, also those inside other modules.",
        )


def _warn(bucket: Any, error: Unsupported) -> None:
    names = bucket.segment.names
    bucket.segment.modular._warn_once(
        f"compile:{names}:{error}", f"compile=True has no effect on {names}: {error}. It runs uncompiled."
    )


__all__ = ["compilable", "compiled_runner", "warn_uncompiled"]
