"""Loads Triton kernels from their source."""

from __future__ import annotations

import hashlib
import importlib
import linecache
from functools import cache
from typing import Any

import torch

from ..runner import Unsupported
from .triton_source import TYPES

#: Triton's modules by the names that the kernels use.
MODULES = {"triton": "triton", "tl": "triton.language", "libdevice": "triton.language.extra.libdevice"}


def refusal(dtype: torch.dtype = torch.float32) -> str | None:
    """Why parameters of a dtype cannot be compiled for; None where they can."""
    if dtype not in TYPES or dtype is torch.bool:
        return f"{dtype} is not supported"
    try:
        for name in MODULES.values():
            importlib.import_module(name)
    except ImportError as error:
        return f"the CUDA backend needs Triton ({error})"
    return None


@cache
def kernels(text: str) -> dict[str, Any]:
    """The kernels of a source, by name.

    Triton reads the source of a kernel through :mod:`inspect`, which finds it in :mod:`linecache`: no file is written.
    Triton itself keeps what it compiles on disk, by the hash of the source.

    Raises:
        Unsupported: Triton is not installed.
    """
    why = refusal()
    if why is not None:
        raise Unsupported(why)
    modules = {short: importlib.import_module(name) for short, name in MODULES.items()}
    namespace = {"__name__": "torchzero_core_passes", **modules}
    name = f"<torchzero_core pass {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), namespace)
    return namespace
