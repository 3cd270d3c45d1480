"""The default backend: each pass becomes a few ``torch._foreach`` calls over pieces that fit in the cache.

Temporaries live for one piece only, so they are small and hot; an operation works in place where its operand is no longer
needed, and a state is updated where it lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lang.graph import Dims, Kind, Place, Storage, Value
from ...lang.ops import AMAX, FILL, SHAPE
from ..bucket import Bucket
from ..numbers import doubles, real, write_numbers
from ..plan import Pass
from ..program import Program, number_stores
from ..runner import Given, Runner
from .foreach_source import Parts, write_slices, write_sweep

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


class NumbersRunner(Runner):
    """A runner whose numbers are numpy's on the host or torch's on the device.

    Attributes:
        host: whether they are on the host.
        T: numbers per tensor and for all, by a node's id.
        Z: numbers per slice, by a node's id.
        real: their dtype on a device.
    """

    host = False

    def __init__(self, bucket: Bucket, program: Program) -> None:
        super().__init__(bucket, program)
        data, plan, ids = bucket.data, self.plan, program.ids
        like = data[0]
        self.real = real(like.dtype)
        self.zeros: Any = np.zeros(len(data)) if self.host else torch.zeros(len(data), dtype=self.real, device=like.device)
        self.T: dict[int, Any] = {}
        self.Z: dict[int, list[Tensor]] = {}
        self.fixed: dict[int, Any] = {}  # numbers that depend on shapes alone
        self.blank: dict[int, list[Tensor]] = {}
        for here in plan.passes:
            for node in here.numbers:
                if node.op is SHAPE:
                    self.fixed[ids[node]] = self.from_floats([float(node.attr(p.shape)) for p in bucket.whole])
            for node in here.slices:
                if node.op is FILL:
                    shapes = (node.dims.reduced(t.shape) for t in data) if node.dims is not None else ()
                    self.blank[ids[node]] = [like.new_zeros(shape, dtype=self.real) for shape in shapes]
        self.vectors: dict[Storage, Tensor] = {}  # the states of one number per tensor, in this step

    def from_floats(self, values: list[float]) -> Any:
        """Numbers per tensor."""
        if self.host:
            return np.array(values)
        return torch.tensor(values, dtype=self.real, device=self.bucket.data[0].device)

    def from_tensor(self, values: Tensor) -> Any:
        """Numbers per tensor, or one for all, as the passes want them."""
        if self.host:
            return doubles(values)[()]
        return values if values.dtype is torch.bool else values.to(self.real)

    def begin(self, given: Given, facts: Any) -> None:
        """Take what this step works on."""
        bucket, program = self.bucket, self.program
        self.hosts = program.host(bucket.settings, bucket.counts, facts)
        for storage in self.plan.storages:
            self.lists[storage] = self.find(storage, given)
        self.T, self.Z, self.results = dict(self.fixed), dict(self.blank), {}
        for node in program.number_loads:
            storage, i = node.attr, program.ids[node]
            if node.kind is Kind.SLICE:
                self.Z[i] = bucket.states(storage.rule, storage.name)
            elif node.kind is Kind.TENSOR:
                vector = self.vectors[storage] = bucket.vector(storage.rule, storage.name)
                self.T[i] = self.from_tensor(vector)
            else:
                loss = storage.place is Place.LOSS
                value = given.loss if loss else bucket.global_state(storage.rule, storage.name)
                assert value is not None
                self.T[i] = self.from_tensor(value.detach().reshape(()).to(bucket.data[0].device))

    def compute_numbers(self, numbers: Any, slices: Any) -> None:
        """The numbers of a pass."""
        if numbers is not None and self.host:
            with np.errstate(all="ignore"):  # infinities and NaNs go where they go
                numbers(self.hosts, self.T, self.zeros, None)
        elif numbers is not None:
            numbers(self.hosts, self.T, self.zeros, self.real)
        if slices is not None:
            slices(self.hosts, self.T, self.Z, self.real)

    def fold(self, here: Pass) -> None:
        """The reductions of slices."""
        ids = self.program.ids
        for node in here.folds:
            lists = [self.Z[ids[a]] for a in node.inputs]
            if node.op is AMAX:
                parts = [t.amax() if t.numel() else t.new_full((), -torch.inf) for t in lists[0]]
            else:
                parts = [(ts[0] * ts[1] if len(ts) > 1 else ts[0]).sum() for ts in zip(*lists, strict=True)]
            self.T[ids[node]] = self.from_tensor(torch.stack(parts))

    def numbers(self, node: Value) -> Any:
        """Numbers per tensor, or one for all."""
        return self.T[self.program.ids[node]]

    def set_numbers(self, node: Value, values: Any) -> None:
        """Take numbers that were worked out elsewhere."""
        if isinstance(values, Tensor):
            values = self.from_tensor(values.to(self.bucket.data[0].device))
        elif not self.host:
            values = torch.as_tensor(values, dtype=self.real, device=self.bucket.data[0].device)
        self.T[self.program.ids[node]] = np.float64(values) if self.host and np.ndim(values) == 0 else values

    def slices(self, node: Value) -> list[Tensor]:
        """Numbers per slice."""
        return self.Z[self.program.ids[node]]

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number."""
        bucket, ids = self.bucket, self.program.ids
        for storage, value in number_stores(self.plan, Kind.SLICE):
            torch._foreach_copy_(bucket.states(storage.rule, storage.name), self.Z[ids[value]])
        for storage, value in self.plan.number_stores:
            if value.kind is Kind.SLICE or storage in written:
                continue
            new = self.T[ids[value]]
            new = torch.from_numpy(np.asarray(new)) if self.host else new
            if storage.place is Place.GLOBAL:
                written.add(storage)
                bucket.global_state(storage.rule, storage.name).copy_(new)
            else:
                vector = self.vectors.get(storage)
                (bucket.vector(storage.rule, storage.name) if vector is None else vector).copy_(new)
        self.T, self.Z, self.results, self.vectors = {}, {}, {}, {}
        for storage in self.plan.storages:
            if storage.place in (Place.UPDATE, Place.GRAD):
                self.lists.pop(storage, None)


class ForeachRunner(NumbersRunner):
    """Runs one program on one bucket.

    Args:
        bucket: the tensors and their state.
        program: the passes.
    """

    def __init__(self, bucket: Bucket, program: Program) -> None:
        data, plan = bucket.data, program.plan
        cpu = data[0].device.type == "cpu"
        self.host = NUMBERS_ON_HOST and cpu
        super().__init__(bucket, program)
        key = ("foreach", self.host)
        if key not in program.compiled:
            collect = _arrays if self.host else _vectors
            program.compiled[key] = [
                (
                    write_numbers(plan, here, program.ids, host=self.host),
                    write_slices(plan, here, program.ids, host=self.host),
                    write_sweep(plan, here, program.ids, collect, host=self.host),
                )
                for here in plan.passes
            ]
        self.passes = program.compiled[key]
        self.chunks = _chunks(data, CPU_PIECE if cpu else GPU_PIECE, split=bucket.dense and not program.slices)
        self.whole_tensors = all(part is None for chunk in self.chunks for _, part in chunk)
        self.rows = [_rows([i for i, _ in chunk], data[0].device, host=self.host) for chunk in self.chunks]
        self.single = len(self.chunks) == 1 and self.whole_tensors
        self._views: dict[Storage, tuple[list[Tensor], list[list[Tensor]]]] = {}
        self.dims = [self._dims(here) for here in plan.passes]
        self.per_tensor, self.per_slice = (
            [[n for n in here.element_reductions if n.kind is kind] for here in plan.passes]
            for kind in (Kind.TENSOR, Kind.SLICE)
        )

    def _dims(self, here: Pass) -> dict[int, list[list[int]]]:
        sliced = (n for n in here.element_reductions if n.kind is Kind.SLICE)
        return {self.program.ids[n]: [_along(n.dims, t) for t in self.bucket.data] for n in sliced}

    def pieces(self, storage: Storage, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The tensors by chunk, cut where a chunk has only a part of one."""
        old = self._views.get(storage)
        if (
            old is not None
            and len(old[0]) == len(tensors)
            and all(a is b for a, b in zip(old[0], tensors, strict=True))
        ):
            return old[1]
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
            self._views[storage] = (list(tensors), views)
        return views

    def sweep(self, k: int) -> None:
        """The numbers, then the elements, of pass ``k``."""
        here, (numbers, slices, elements) = self.plan.passes[k], self.passes[k]
        self.compute_numbers(numbers, slices)
        if elements is not None:
            found = [self._run_whole(k, elements)] if self.single else self._run_chunks(k, here, elements)
            ids = self.program.ids
            for r, node in enumerate(self.per_tensor[k]):
                parts = [numbers[r] for numbers, _ in found]
                self.T[ids[node]] = parts[0] if self.single else self._join(node, parts)
            for r, node in enumerate(self.per_slice[k]):
                self.Z[ids[node]] = [t for _, lists in found for t in lists[r]]
        if self.program.slices:
            self.fold(here)

    def _run_whole(self, k: int, elements: Any) -> Any:
        ids = self.program.ids
        results = {ids[v]: tensors for v, tensors in self.results.items()}
        return elements([self.lists[s] for s in self.plan.storages], self.hosts, self.T, self.Z, self.dims[k], results)

    def _run_chunks(self, k: int, here: Pass, elements: Any) -> list[Any]:
        ids, lists = self.program.ids, self.lists
        used = set(here.reads.values()) | {s for s, _ in here.writes}
        views = [self.pieces(s, lists[s]) if s in used or i == 0 else None for i, s in enumerate(self.plan.storages)]
        results = {ids[v]: self.pieces(s, self.results[v]) for v, s in here.reads.items() if s.place is Place.RESULT}
        wanted = [(ids[a], a.kind) for a in here.numbers_for_elements()]
        found = []
        for c, rows in enumerate(self.rows):
            T = {i: self.T[i][rows] if kind is Kind.TENSOR else self.T[i] for i, kind in wanted if kind is not Kind.SLICE}
            members = [i for i, _ in self.chunks[c]]
            Z = {i: [self.Z[i][m] for m in members] for i, kind in wanted if kind is Kind.SLICE}
            D = {i: [along[m] for m in members] for i, along in self.dims[k].items()}
            piece = [None if v is None else v[c] for v in views]
            found.append(elements(piece, self.hosts, T, Z, D, {i: v[c] for i, v in results.items()}))
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


def _along(dims: Dims | None, t: Tensor) -> list[int]:
    assert dims is not None
    return dims.of(t.shape)


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
