"""The CPU backend: each pass becomes one C loop over all tensors.

The source is generated from the plan, compiled once, and called with a table of pointers, so that nothing is flattened
or copied and no schedule recompiles. The elements are split evenly among threads; sums are taken in blocks and added
up in double precision, in the same order every time.
"""

from __future__ import annotations

import ctypes
import math
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...lang.graph import Kind, Place, Storage, Value
from ...lang.ops import SHAPE
from ..bucket import Bucket, state_dtypes
from ..layout import check_memory
from ..numbers import geometry
from ..program import Program, number_stores
from ..runner import Given, Runner, Scratch, Unsupported
from .c_build import library, refusal
from .c_source import Source

#: Below this many elements for each, another thread costs more than it saves.
ELEMENTS_PER_THREAD = 1 << 17

POINTER, INT64 = ctypes.c_void_p, ctypes.c_int64


class Job(ctypes.Structure):
    """What the C code gets; see the prelude of its source."""

    _fields_ = [
        *(
            (name, INT64 if name == "nt" else POINTER)
            for name in ("P", "nt", "numel", "H", "T", "R", "Z", "O", "G", "S")
        ),
        ("begin", INT64),
        ("end", INT64),
        ("body", POINTER),
    ]


class CPURunner(Runner):
    """Runs one program on one bucket by compiled passes.

    Args:
        bucket: the tensors and their state.
        program: the passes.
        scratch: makes the workspaces.

    Raises:
        Unsupported: something in the plan has no C form.
    """

    enters = True

    def __init__(self, bucket: Bucket, program: Program, scratch: Scratch) -> None:
        super().__init__(bucket, program, scratch)
        data, plan = bucket.data, self.plan
        key = ("c", data[0].dtype)
        if key not in program.compiled:
            source = Source(plan, program.ids, data[0].dtype, state_dtypes(bucket.rules, data[0].dtype))
            computes = [source.write_globals(here) for here in plan.passes]
            program.compiled[key] = source, library(source.text()), computes
        self.source, lib, self.computes = program.compiled[key]
        nt = self.nt = len(data)
        source = self.source
        sizes = [p.numel() for p in data]
        self.total = sum(sizes)
        self.threads = max(1, min(torch.get_num_threads(), 64, self.total // ELEMENTS_PER_THREAD))
        most = max(len(here.reductions) for here in plan.passes)
        self.nhost = len(plan.hosts)
        self.P = (POINTER * max(1, len(source.rows) * nt))()
        self.pointers: list[list[int]] = [[]] * len(source.rows)
        self.T: Any = (ctypes.c_double * max(1, len(source.columns) * nt))()
        self.array = np.frombuffer(memoryview(self.T))  # the same memory
        self.H = (ctypes.c_double * max(1, self.nhost + len(source.globals)))()
        self.kept: list[Any] = [(INT64 * nt)(*sizes), (ctypes.c_double * max(1, most * nt * self.threads))()]
        addresses = dict(
            zip(
                ["P", "nt", "numel", "H", "T", "R"],
                [self.P, nt, self.kept[0], self.H, self.T, self.kept[1]],
                strict=True,
            )
        )
        self.job = Job(**{k: v if k == "nt" else ctypes.addressof(v) for k, v in addresses.items()})
        if source.lists:
            self._make_slices(data)
        self._fill_shapes()
        self.passes = [
            [self._function(lib, f"{kind}{k}") for kind in ("numbers", "slices", "folds")]
            + [self._function(lib, f"sweep{k}", INT64, ctypes.c_int)]
            for k in range(len(plan.passes))
        ]
        self.write = self._function(lib, "commit")
        self.stores = number_stores(plan, Kind.GLOBAL)
        fixed = (Place.PARAM, Place.WORK)  # the bucket is given up when their memory changes
        self.changing = [i for s, i in plan.storages.items() if s.place not in fixed]
        for storage, i in plan.storages.items():
            if storage.place in fixed:
                self._enter(i, self.lists[i])
        #: Rows of states that are no elements.
        self.more = [(s, row) for s, row in source.rows.items() if s.place is Place.STATE and s not in plan.storages]

    def _function(self, lib: ctypes.CDLL, name: str, *more: Any) -> Any:
        function = getattr(lib, name, None)
        if function is not None:
            function.argtypes, function.restype = [ctypes.POINTER(Job), *more], None
        return function

    def _make_slices(self, data: list[Tensor]) -> None:
        """Memory for numbers per slice, and the shapes of slices."""
        source = self.source
        if not all(t.is_contiguous() for t in data):
            raise Unsupported("slices of tensors that are not contiguous")
        counts = [
            [math.prod(node.dims.reduced(t.shape)) if node.dims is not None else 0 for t in data]
            for node in source.lists
        ]
        offsets: list[int] = []
        for row in counts:
            offsets += accumulate(row, initial=offsets[-1] if offsets else 0)
        shapes = [geometry(dims, t.shape) for dims in source.shapes for t in data]
        table: list[int] = []
        for d in range(len(source.shapes)):
            here = shapes[d * self.nt : (d + 1) * self.nt]
            table += [m for m, _ in here] + [inner for _, inner in here]
        self.Z = torch.zeros(max(1, offsets[-1]), dtype=torch.float64, device="cpu")
        self.offsets = offsets
        parts = torch.zeros(max(1, offsets[-1] * self.threads), dtype=torch.float64, device="cpu")
        arrays = [self.Z, torch.tensor(offsets, device="cpu"), torch.tensor(table, device="cpu"), parts]
        self.kept += arrays
        for name, array in zip("ZOGS", arrays, strict=True):
            setattr(self.job, name, array.data_ptr())

    def _fill_shapes(self) -> None:
        """Numbers that depend on shapes and dtypes alone."""
        for node, column in self.source.columns.items():
            if node.op is SHAPE:
                values = [float(node.attr(p)) for p in self.bucket.whole]
                self.T[column * self.nt : (column + 1) * self.nt] = values

    def _enter(self, row: int, tensors: list[Tensor]) -> None:
        """Enter a row of pointers: tensors stay the same objects where somebody gives them other memory."""
        pointers = list(map(Tensor.data_ptr, tensors))
        if pointers != self.pointers[row]:
            if row not in self._foreign:
                check_memory(tensors, "tensor")
            self.pointers[row] = pointers
            self.P[row * self.nt : (row + 1) * self.nt] = pointers  # type: ignore[assignment]

    # -- the step ----------------------------------------------------------------------------------------------------
    def begin(self, given: Given, loss: Tensor | None, alike: object = None) -> None:
        """Take what this step works on."""
        bucket, program = self.bucket, self.program
        self.hosts = bucket.hosts
        self.H[: self.nhost] = self.hosts  # type: ignore[call-overload]
        self.find(given)
        self.conform(alike)
        for i in self.changing:
            self._enter(i, self.lists[i])
        for storage, row in self.more:
            self._enter(row, bucket.states(storage.rule, storage.name, anywhere=True))
        for node in program.number_loads:
            if node.kind is Kind.GLOBAL:
                value = loss if node.attr.place is Place.LOSS else bucket.global_state(node.attr.rule, node.attr.name)
                assert value is not None
                self.H[self.source.globals[node]] = float(value)

    def sweep(self, k: int) -> None:
        """The numbers, then the elements, of pass ``k``."""
        if self.computes[k] is not None:
            self.computes[k](self.H)
        numbers, slices, folds, sweep = self.passes[k]
        if numbers is not None:
            numbers(self.job)
        if slices is not None:
            slices(self.job)
        if sweep is not None:
            sweep(self.job, self.total, self.threads)
        if folds is not None:
            folds(self.job)

    def _column(self, node: Value) -> slice:
        start = self.source.columns[node] * self.nt
        return slice(start, start + self.nt)

    def numbers(self, node: Value) -> Any:
        """Numbers per tensor, or one for all."""
        if node.kind is Kind.GLOBAL:
            return self.H[self.source.globals[node]]
        return self.array[self._column(node)].copy()

    def set_numbers(self, node: Value, values: Any) -> None:
        """Take numbers that were worked out elsewhere."""
        if node.kind is Kind.GLOBAL:
            self.H[self.source.globals[node]] = float(values)
        else:
            self.array[self._column(node)] = values

    def slices(self, node: Value) -> list[Tensor]:
        """Numbers per slice, which may be written."""
        assert node.dims is not None
        start = self.source.lists[node] * (self.nt + 1)
        bounds = self.offsets[start : start + self.nt + 1]
        shapes = [node.dims.reduced(t.shape) for t in self.bucket.data]
        return [self.Z[a:b].view(shape) for a, b, shape in zip(bounds[:-1], bounds[1:], shapes, strict=True)]

    def set_result(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque operation."""
        super().set_result(node, tensors)
        row = self.source.rows.get(Storage(Place.RESULT, node=node))
        if row is not None:
            self._enter(row, self.results[node])

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number."""
        if self.write is not None:
            self.write(self.job)
        for storage, value in self.stores:
            if storage not in written:
                written.add(storage)
                self.bucket.global_state(storage.rule, storage.name).fill_(self.H[self.source.globals[value]])
        if self.program.moves:  # a graph built before the step must refuse to run after it
            increment_version(self.bucket.data)
        self.forget()


runner = CPURunner

__all__ = ["CPURunner", "refusal", "runner"]
