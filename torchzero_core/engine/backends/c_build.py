"""Compiles C and keeps the libraries.

A library is kept by the hash of what it was made from, in a directory that nobody else can write to.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from ..runner import Unsupported
from .c_source import TYPES

FLAGS = [
    "-O3",
    "-fprefetch-loop-arrays",  # the hardware's own prefetching stops at the end of a page
    "-march=native",
    "-fPIC",
    "-shared",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
]


@cache
def compiler() -> tuple[str, str] | None:
    """The C compiler and its version, or None where there is none (``CC`` names another)."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        path = shutil.which(name)
        if path is not None:
            out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if out.returncode == 0:
                return path, out.stdout.splitlines()[0]
    return None


def refusal(dtype: torch.dtype = torch.float32) -> str | None:
    """Why parameters of a dtype cannot be compiled for; None where they can."""
    if dtype not in TYPES or dtype is torch.bool:
        return f"{dtype} is not supported"
    return None if compiler() is not None else "no C compiler (cc, gcc or clang) was found"


def cache_dirs() -> list[Path]:
    """Where libraries are kept: ``TORCHZERO_CACHE``, else the user's cache, else a temporary directory.

    The last is shared with other users, so it is used only while nobody else can write there.
    """
    places = [os.environ.get("TORCHZERO_CACHE"), os.environ.get("XDG_CACHE_HOME")]
    dirs = [Path(places[0])] if places[0] else []
    home = Path(places[1]) if places[1] else Path(os.path.expanduser("~/.cache"))
    user = getattr(os, "getuid", lambda: 0)()
    return [*dirs, home / "torchzero_core", Path(tempfile.gettempdir()) / f"torchzero_core_{user}"]


@cache
def library(text: str) -> ctypes.CDLL:
    """Compile and load; the result is kept by the hash of source, flags, compiler and processor.

    Raises:
        Unsupported: no compiler, or it failed.
    """
    found = compiler()
    if found is None:
        raise Unsupported("no C compiler (cc, gcc or clang) was found")
    cc, version = found
    key = hashlib.sha256("\0".join([text, *FLAGS, version, platform.machine(), _processor()]).encode()).hexdigest()[:32]
    for directory in cache_dirs():
        path = directory / f"{key}.so"
        try:
            if not path.exists():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory == cache_dirs()[-1] and not _private(directory):
                continue
            if not path.exists():
                _build(cc, text, path)
            return ctypes.CDLL(str(path))
        except OSError:
            continue  # a read-only home, or a file system that forbids execution
    raise Unsupported("no directory can hold the compiled code; set TORCHZERO_CACHE to one that can")


@cache
def _processor() -> str:
    """-march=native makes code for this processor, and homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return platform.processor()


def _private(directory: Path) -> bool:
    """Whether a directory is this user's and no other user can write there."""
    if not hasattr(os, "getuid"):
        return True
    status = directory.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _build(cc: str, text: str, path: Path) -> None:
    """Compile next to the target and rename: another process sees the whole library or none."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source, target = Path(scratch) / "pass.c", Path(scratch) / "pass.so"
        source.write_text(text)
        out = subprocess.run(
            [cc, *FLAGS, str(source), "-o", str(target), "-lm"], capture_output=True, text=True, check=False
        )
        if out.returncode:
            raise Unsupported(f"the C compiler failed: {out.stderr.strip()[:500]}")
        os.replace(target, path)
