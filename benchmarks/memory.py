"""Bytes: what a run allocates, what stays of it, what an optimizer keeps, and what is free."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def allocations(run: Callable[[], None], device: torch.device) -> tuple[int, int]:
    """Bytes that ``run`` holds at most at one time beyond those held before, and bytes that are left of them."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before
    # the allocator reports to the profiler, so this sees what happens inside a kernel too
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        held += size
        peak = max(peak, held)
    return peak, held


def state_bytes(optimizer: Any) -> int:
    """Bytes of all tensors in an optimizer's state, each storage counted once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(dict(optimizer.state))
    return sum(storages.values())


def total(device: torch.device) -> int:
    """Bytes that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


def free(device: torch.device) -> int:
    """Bytes that are free on the device; 0 where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0


def copy_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Bytes a second, read and written, of the fastest of copying and scaling in place; large tensors."""
    a, b = (torch.ones(megabytes * 2**18, device=device) for _ in range(2))
    repeats = 20 if device.type == "cuda" else 1  # so that waiting for the device does not count
    best = 0.0
    for _ in range(7):
        for run in (lambda: a.copy_(b), lambda: a.mul_(1.0)):
            synchronize(device)
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            synchronize(device)
            best = max(best, repeats * 2 * a.nbytes / (time.perf_counter() - start))
    return best
