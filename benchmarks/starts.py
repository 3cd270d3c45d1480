"""First steps in fresh processes, which know no kernel yet."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch._dynamo  # the first step of any torch optimizer imports it, which takes a second

import torchzero_core  # noqa: F401 - imported here, so that this is part of nobody's first step

from .memory import synchronize
from .subjects import SETS, chain, parameters

CHAIN = "five modules"
CACHES = ("TORCHZERO_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass
class Start:
    """Seconds of construction and the first two steps, each in a process of its own; None where it failed.

    Attributes:
        where: the set.
        eager: not compiled.
        cold: compiled, with an empty cache of kernels.
        warm: compiled, with what that left in the cache.
    """

    where: str
    eager: float | None
    cold: float | None
    warm: float | None


def starts(sets: Sequence[str], device: torch.device) -> list[Start]:
    """Measure the first steps of the five modules on each of the sets."""
    context: Any = multiprocessing.get_context("spawn")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imports all of it once instead of nine times
    found = []
    for where in sets:
        with tempfile.TemporaryDirectory() as cache:
            seconds = [_in_process(context, where, device, compiled, cache) for compiled in (False, True, True)]
        found.append(Start(where, *seconds))
    return found


def _in_process(context: Any, where: str, device: torch.device, compiled: bool, cache: str) -> float | None:
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, where, device, torch.get_num_threads(), compiled, cache)
    process = context.Process(target=first_steps, args=arguments)
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    except EOFError:  # the process died; its error is on the screen
        return None
    finally:
        receiver.close()
        process.join()


def first_steps(sender: Connection, where: str, device: torch.device, threads: int, compiled: bool, cache: str) -> None:
    """Send the seconds that construction and two steps take.

    Two, as a rule may have a special form for its first step.

    Args:
        sender: where the seconds go.
        where: the set.
        device: where the parameters are.
        threads: threads of torch.
        compiled: whether the chain is.
        cache: the folder that keeps kernels.
    """
    os.environ.update(dict.fromkeys(CACHES, cache))
    torch.set_num_threads(threads)
    params = parameters(SETS[where](), device)
    torch.optim.Adam(parameters([(1,)], device)).step()  # loads what torch loads late
    synchronize(device)
    start = time.perf_counter()
    optimizer = chain(CHAIN, compiled)(params)
    optimizer.step()
    optimizer.step()
    synchronize(device)
    sender.send(time.perf_counter() - start)
