"""The first step of a compiled chain in a fresh process: ``python -m benchmarks.starts tiny cpu 1``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import torch

import torchzero_core

from .measure import synchronize
from .subjects import SETS, chain, parameters

CHAIN = "five modules"
CACHES = ("TORCHZERO_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def starts(sets: Sequence[str], device: torch.device) -> list[tuple[str, ...]]:
    """Rows of set, seconds with an empty cache of kernels, seconds with what that left there."""
    rows: list[tuple[str, ...]] = [("set", "empty cache", "filled cache")]
    for where in sets:
        row = [where]
        with tempfile.TemporaryDirectory() as cache:
            for _ in range(2):
                command = [sys.executable, "-m", __name__, where, str(device), str(torch.get_num_threads())]
                environment = os.environ | dict.fromkeys(CACHES, cache)
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                row.append(f"{float(done.stdout):.2f} s" if done.returncode == 0 else "failed")
        rows.append(tuple(row))
    return rows


def first_step(where: str, device: torch.device) -> float:
    """Seconds that construction and first step take."""
    params = parameters(SETS[where](), device)
    assert torchzero_core  # imported above, so that the import is not timed
    synchronize(device)
    start = time.perf_counter()
    chain(CHAIN, True)(params).step()
    synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(first_step(sys.argv[1], torch.device(sys.argv[2])))
