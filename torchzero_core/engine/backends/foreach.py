"""The default backend: each pass becomes a few ``torch._foreach`` calls over pieces that fit in the cache.

Temporaries live for one piece only, so they are small and hot; an operation works in place where its operand is no
longer needed, and a state is updated where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lang.graph import Kind, Place, Storage, Value
from ...lang.ops import AMAX
from ..bucket import Bucket, state_dtypes
from ..memory import SHORT, go_on
from ..numbers import doubles, real, write_numbers
from ..numbers_runner import NumbersRunner
from ..plan import Pass
from ..program import Program
from ..runner import Given, Scratch
from .foreach_source import Memory, Parts, write_slices, write_sweep

#: Whether numbers per tensor are the host's on the CPU; False runs what accelerators run, for tests.
NUMBERS_ON_HOST = True
#: Pieces of about this many elements are swept at a time, so that temporaries stay in the cache.
CPU_PIECE = 1 << 17
GPU_PIECE = 1 << 26


def _vectors(*reductions: Parts) -> list[Tensor]:
    """The reductions of a pass, each as a vector of one number per tensor."""
    return [torch.stack(parts).square() if square else torch.stack(parts) for parts, square in reductions]


def _arrays(*reductions: Parts) -> list[Any]:
    """The same on the host, for the price of one conversion."""
    rows = doubles(torch.stack([t for parts, _ in reductions for t in parts])).reshape(len(reductions), -1)
    return [row * row if square else row for row, (_, square) in zip(rows, reductions, strict=True)]


class ForeachRunner(NumbersRunner):
    """Runs one program on one bucket.

    Args:
        bucket: the tensors and their state.
        program: the passes.
        scratch: makes the workspaces.
    """

    def __init__(self, bucket: Bucket, program: Program, scratch: Scratch) -> None:
        data, plan = bucket.data, program.plan
        cpu = data[0].device.type == "cpu"
        self.host = NUMBERS_ON_HOST and cpu
        super().__init__(bucket, program, scratch)
        dtype, rounded = data[0].dtype, bucket.rounding is not None
        key = ("foreach", self.host, dtype, rounded)
        if key not in program.compiled:
            collect = _arrays if self.host else _vectors
            memory = Memory(dtype, state_dtypes(bucket.rules, dtype), rounded=rounded)
            program.compiled[key] = [
                (
                    write_numbers(plan, here, program.ids, host=self.host),
                    write_slices(plan, here, program.ids, host=self.host),
                    write_sweep(plan, here, program.ids, collect, memory, host=self.host),
                )
                for here in plan.passes
            ]
        self.passes = program.compiled[key]
        cells = torch.zeros(max(1, len(plan.hosts)), dtype=real(data[0].dtype), device="cpu")
        self.cells: Sequence[Any] = cells.unbind()
        self.cell_numbers = cells.numpy()
        self._cell_lists: dict[tuple[int, int], tuple[Any, list[Tensor]]] = {}
        # Beside a tensor without dimensions another one is no mere number: its dtype would be that of the result.
        self.no_cells = any(not t.ndim for t in data) and data[0].dtype is not torch.float64
        self.uses_cells = any(sweep is not None and sweep.uses_cells for _, _, sweep in self.passes)
        self.chunks = _chunks(data, CPU_PIECE if cpu else GPU_PIECE, split=bucket.dense and not program.slices)
        self.whole_tensors = all(part is None for chunk in self.chunks for _, part in chunk)
        # A part of a tensor is a stretch of its memory, and torch's kernels go by memory.
        self.by_memory = not self.whole_tensors or program.calls_kernels
        self.rows = [_rows([i for i, _ in chunk], data[0].device, host=self.host) for chunk in self.chunks]
        self.single = len(self.chunks) == 1 and self.whole_tensors
        self._views: dict[Storage, tuple[list[Tensor], list[int], list[list[Tensor]]]] = {}
        self.per_tensor, self.per_slice = (
            [{program.ids[n]: n for n in here.element_reductions if n.kind is kind} for here in plan.passes]
            for kind in (Kind.TENSOR, Kind.SLICE)
        )

    def begin(self, given: Given, loss: Tensor | None, alike: object = None) -> None:
        """Take what this step works on."""
        super().begin(given, loss, alike)
        if self.no_cells:
            self.cells = self.hosts
        elif self.uses_cells:
            self.cell_numbers[:] = self.hosts
        if self.by_memory:
            self.conform(alike)

    def cell_list(self, node: int, values: Any) -> list[Any]:
        """Numbers per tensor as 0-d tensors, which are the same ones in each step.

        Args:
            node: whose numbers they are.
            values: the numbers.
        """
        if self.no_cells or not np.ndim(values):  # one drawn for all of them
            return values.tolist()
        key = node, len(values)
        known = self._cell_lists.get(key)
        if known is None:
            cells = torch.zeros(len(values), dtype=self.real, device="cpu")
            known = self._cell_lists[key] = cells.numpy(), list(cells.unbind())
        with np.errstate(all="ignore"):  # too large a number becomes an infinity
            known[0][:] = values
        return known[1]

    def pieces(self, storage: Storage, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The tensors by chunk, cut where a chunk has only a part of one."""
        old = self._views.get(storage)
        if (
            old is not None
            and len(old[0]) == len(tensors)
            and all(a is b for a, b in zip(old[0], tensors, strict=True))
            and old[1] == [t.data_ptr() for t in tensors]
        ):
            return old[2]
        data = self.bucket.data
        views = []
        for chunk in self.chunks:
            row = []
            for i, part in chunk:
                t = tensors[i]
                if part is not None:
                    p = data[i]
                    if t.stride() != p.stride():
                        t = torch.empty_like(p, dtype=t.dtype).copy_(t)
                    t = t.as_strided((part[1] - part[0],), (1,), t.storage_offset() + part[0])
                row.append(t)
            views.append(row)
        if storage.place in (Place.STATE, Place.PARAM, Place.WORK) and storage.at < 0:  # the others are new every step
            self._views[storage] = (list(tensors), [t.data_ptr() for t in tensors], views)
        return views

    def sweep(self, k: int) -> None:
        """The numbers, then the elements, of pass ``k``."""
        numbers, slices, elements = self.passes[k]
        if numbers is not None or slices is not None:
            self.compute_numbers(numbers, slices)
        if elements is None:
            pass
        elif self.single:
            results = {self.program.ids[v]: tensors for v, tensors in self.results.items()} if self.results else {}
            given = self.lists, self.hosts, self.T, self.Z, self.dims[k], results
            try:
                found, lists = elements(*given, self.cells, self.cell_list, self.bucket.rounding)
            except SHORT as error:
                found, lists = go_on(elements, error)
            for i, values in zip(self.per_tensor[k], found, strict=True):
                self.T[i] = values
            for i, tensors in zip(self.per_slice[k], lists, strict=True):
                self.Z[i] = tensors
        else:
            self._sweep_chunks(k, elements)
        if self.program.slices:
            self.fold(self.plan.passes[k])

    def _sweep_chunks(self, k: int, elements: Any) -> None:
        here = self.plan.passes[k]
        found = self._run_chunks(k, here, elements)
        for r, (i, node) in enumerate(self.per_tensor[k].items()):
            self.T[i] = self._join(node, [numbers[r] for numbers, _ in found])
        for r, i in enumerate(self.per_slice[k]):
            self.Z[i] = [t for _, lists in found for t in lists[r]]

    def _run_chunks(self, k: int, here: Pass, elements: Any) -> list[Any]:
        ids, lists = self.program.ids, self.lists
        used = set(here.reads.values()) | {s for s, _ in here.writes}
        views = [
            self.pieces(s, lists[i]) if s in used or i == self.plan.like else None
            for s, i in self.plan.storages.items()
        ]
        results = {ids[v]: self.pieces(s, self.results[v]) for v, s in here.reads.items() if s.place is Place.RESULT}
        wanted = [(ids[a], a.kind) for a in here.numbers_for_elements()]
        found = []
        for c, rows in enumerate(self.rows):
            T = {
                i: self.T[i][rows] if kind is Kind.TENSOR else self.T[i] for i, kind in wanted if kind is not Kind.SLICE
            }
            members = [i for i, _ in self.chunks[c]]
            Z = {i: [self.Z[i][m] for m in members] for i, kind in wanted if kind is Kind.SLICE}
            D = {i: [along[m] for m in members] for i, along in self.dims[k].items()}
            piece = [None if v is None else v[c] for v in views]
            given = piece, self.hosts, T, Z, D, {i: v[c] for i, v in results.items()}
            try:
                found.append(elements(*given, self.cells, self.cell_list, self.bucket.rounding))
            except SHORT as error:
                found.append(go_on(elements, error))
        return found

    def _join(self, node: Value, found: list[Any]) -> Any:
        """The numbers of each tensor from those of its pieces."""
        index = [i for chunk in self.chunks for i, _ in chunk]
        largest = node.op is AMAX
        count, start = len(self.bucket.data), -np.inf if largest else 0.0
        if self.host:
            numbers = np.concatenate(found)
            if self.whole_tensors:
                return numbers
            out = np.full(count, start)
            (np.maximum if largest else np.add).at(out, index, numbers)
            return out
        values = torch.cat(found)
        if self.whole_tensors:
            return values
        at = torch.tensor(index, device=values.device)
        whole = values.new_full((count,), start)
        return whole.index_reduce_(0, at, values, "amax") if largest else whole.index_add_(0, at, values)


def _rows(indices: list[int], device: torch.device, *, host: bool) -> Any:
    """What picks a chunk's tensors out of a vector of one number per tensor."""
    first, last = indices[0], indices[-1]
    if last - first + 1 == len(indices):
        return slice(first, last + 1)
    return np.array(indices) if host else torch.tensor(indices, device=device)


def _chunks(data: list[Tensor], size: int, *, split: bool) -> list[list[tuple[int, tuple[int, int] | None]]]:
    """Groups of whole tensors, or parts of a large one, of about ``size`` elements."""
    chunks: list[list[tuple[int, tuple[int, int] | None]]] = []
    current: list[tuple[int, tuple[int, int] | None]] = []
    filled = 0
    for i, p in enumerate(data):
        n = p.numel()
        if split and n > 2 * size:
            count = -(-n // size)
            step = -(-n // count)
            chunks += [[(i, (a, min(a + step, n)))] for a in range(0, n, step)]
            continue
        if current and filled + n > size:
            chunks.append(current)
            current, filled = [], 0
        current.append((i, None))
        filled += n
    if current or not chunks:
        chunks.append(current)
    return chunks
