"""Compiles C and keeps the libraries.

A library is kept by the hash of what it was made from, in a directory that nobody else can write to.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from ..runner import Unavailable

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


#: Seconds that a compiler may take to say its version, and to compile.
PATIENCE, LONG_PATIENCE = 10.0, 120.0
#: Compilers that did not come to an end.
_hung: set[str] = set()
#: What stands at the end of a library, before the hash of what stands before it: what was cut off is not loaded.
SEAL = b"torchzero_core:"


def _run(command: list[str], seconds: float, **environment: str) -> tuple[int, str, str]:
    """Run a compiler, whatever it may be.

    Returns:
        The exit status, what it printed, and what it complained of.

    Raises:
        OSError: it is no program.
        subprocess.TimeoutExpired: it did not come to an end.
    """
    pipe, alone = subprocess.PIPE, hasattr(os, "killpg")
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, **environment},
        start_new_session=alone,
    ) as process:
        try:
            out, complaints = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL) if alone else process.kill()  # with what it has started
            raise
    return process.returncode, out.decode(errors="replace"), complaints.decode(errors="replace")


@cache
def compiler() -> tuple[str, str] | None:
    """The C compiler and its version, or None where there is none (``CC`` names another)."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        path = shutil.which(name)
        if path is None:
            continue
        try:
            status, out, _ = _run([path, "--version"], PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            continue  # it is no program, or not that of a compiler
        if status == 0:
            return path, (out.splitlines() or [""])[0]
    return None


def refusal(dtype: torch.dtype = torch.float32) -> str | None:
    """Why parameters of a dtype cannot be compiled for; None where they can."""
    if dtype not in (torch.float32, torch.float64):
        return f"{dtype} is not supported"
    return None if compiler() is not None else "no C compiler (cc, gcc or clang) was found"


def cache_dirs() -> list[Path]:
    """Where libraries may be kept: ``TORCHZERO_CACHE``, else the user's cache, else a temporary directory.

    Each is used only while nobody else can write there.
    """
    own, cache_home = os.environ.get("TORCHZERO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    dirs = [Path(own).absolute()] if own else []
    dirs.append(Path(cache_home or os.path.expanduser("~/.cache")) / "torchzero_core")
    user = getattr(os, "getuid", lambda: 0)()
    with suppress(OSError):  # nothing can be written anywhere
        dirs.append(Path(tempfile.gettempdir()) / f"torchzero_core_{user}")
    return [path for path in dirs if path.is_absolute()]  # a home that is not known, or not written out


@cache
def library(text: str) -> ctypes.CDLL:
    """Compile and load; the result is kept by the hash of source, flags, compiler and processor.

    Raises:
        Unavailable: no compiler, or it failed; no directory.
    """
    found = compiler()
    if found is None:
        raise Unavailable("no C compiler (cc, gcc or clang) was found")
    cc, version = found
    text += CHECK
    key = hashlib.sha256("\0".join([text, *FLAGS, version, platform.machine(), _processor()]).encode()).hexdigest()[:32]
    failure: Unavailable | None = None
    for directory in cache_dirs():
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = directory.resolve()
            if not _private(directory):
                continue
            path = directory / f"{key}.so"
            if not _is_whole(path):
                _build(cc, text, path)
            return _load(path)
        except Unavailable as error:
            failure = failure or error  # a disk that is full, for example, looks like this too
        except (OSError, RuntimeError):
            continue  # a read-only home, a file system that forbids execution, links in a circle
        if cc in _hung:
            break
    raise failure or Unavailable("no directory can hold the compiled code; set TORCHZERO_CACHE to one that can")


#: A function that every library has, so that one which a strange compiler has left empty is noticed.
CHECK = "\nint torchzero_core_is_here(void) { return 1; }\n"


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    if not hasattr(loaded, "torchzero_core_is_here"):
        raise Unavailable("the C compiler made a library without the functions of its source")
    return loaded


@cache
def _processor() -> str:
    """-march=native makes code for this processor, and homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return platform.processor()


def _private(directory: Path) -> bool:
    """Whether a directory is this user's, and no other user can write there or exchange it."""
    if not hasattr(os, "getuid"):
        return True
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        return False
    above = (parent.stat().st_mode for parent in directory.parents)
    return not any(mode & 0o002 and not mode & stat.S_ISVTX for mode in above)


def _is_whole(path: Path) -> bool:
    """Whether a library is there, as it was written: to load one that was cut off kills the process."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    end = len(SEAL) + hashlib.sha256().digest_size
    return content[-end:] == SEAL + hashlib.sha256(content[:-end]).digest()


def _reaches_its_end(content: bytes) -> bool:
    """Whether a library in the format ELF is as long as its header says; others are left to the loader."""
    if content[:4] != b"\x7fELF":
        return True
    if len(content) < 64:
        return False
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    segments, sections = struct.unpack_from(order + ("QQ" if wide else "II"), content, 32 if wide else 28)
    size, number, section_size, section_number = struct.unpack_from(f"{order}4H", content, 54 if wide else 42)
    ends = [segments + size * number, sections + section_size * section_number]
    if max(ends) > len(content):
        return False
    for start in range(segments, ends[0], max(size, 1)):
        offset, _, _, length = struct.unpack_from(order + ("4Q" if wide else "4I"), content, start + (8 if wide else 4))
        ends.append(offset + length)
    return max(ends) <= len(content)


def _build(cc: str, text: str, path: Path) -> None:
    """Compile next to the target and rename: another process sees the whole library or none.

    Raises:
        Unavailable: the compiler failed.
    """
    if cc in _hung:
        raise Unavailable(f"the C compiler {cc} does not come to an end")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source, target = Path(scratch) / "pass.c", Path(scratch) / "pass.so"
        source.write_text(text)
        try:
            status, _, complaints = _run(
                [cc, *FLAGS, str(source), "-o", str(target), "-lm"], LONG_PATIENCE, TMPDIR=scratch
            )
        except subprocess.TimeoutExpired:
            _hung.add(cc)
            raise Unavailable(f"the C compiler {cc} does not come to an end") from None
        except OSError as error:
            raise Unavailable(f"the C compiler {cc} cannot be run ({error.strerror})") from None
        if status:
            complaints = complaints.replace(f"{scratch}{os.sep}", "").strip()[:500]
            raise Unavailable(f"the C compiler failed: {complaints or f'exit status {status}'}")
        if not target.is_file():
            raise Unavailable("the C compiler made no library")
        content = target.read_bytes()
        if not _reaches_its_end(content):
            raise Unavailable("the C compiler made half a library")
        with target.open("ab") as file:
            file.write(SEAL + hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())  # a rename may outlive a loss of power that the content does not
        os.replace(target, path)
