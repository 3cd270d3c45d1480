"""The CUDA backend: each pass becomes one Triton kernel over all tensors.

The source is generated from the plan. A kernel gets a table of pointers, so that nothing is flattened or copied and one
launch serves any number of tensors: the tensors are cut into blocks, and each program of the kernel works on one block.
Host numbers (learning rates, bias corrections) lie in the same table, because Triton would round a Python number to
float32 and compile again for some integers; so no schedule compiles anything. Sums are taken per block and then per
tensor, in the same order every time. Numbers per tensor and per slice are computed by torch on the device, and nothing
here waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...lang.graph import Place, Storage, Value
from ...lang.ops import AMAX
from ..bucket import Bucket, state_dtypes
from ..layout import check_memory
from ..numbers import geometry, write_numbers
from ..numbers_runner import NumbersRunner
from ..program import Program
from ..runner import Given, Scratch, Unsupported
from .foreach_source import slice_amax, slice_sum, write_slices
from .triton_build import kernels, refusal
from .triton_source import ALIGNMENT, Source, Sweep

#: Elements that one program of a kernel works on: eight for each of the 128 threads, two loads of 16 bytes in float32.
BLOCK = 1024
#: What every launch gets. Each operation is rounded by itself, as in the foreach backend.
OPTIONS = {"BLOCK": BLOCK, "enable_fp_fusion": False}
#: Places in a run of slices are numbers of 32 bits.
LONGEST_RUN = (1 << 31) - (1 << 16)


class GPURunner(NumbersRunner):
    """Runs one program on one bucket by Triton kernels.

    Args:
        bucket: the tensors and their state.
        program: the passes.
        scratch: makes the workspaces.

    Raises:
        Unsupported: something in the plan has no Triton form, or Triton is missing or fails.
    """

    def __init__(self, bucket: Bucket, program: Program, scratch: Scratch) -> None:
        super().__init__(bucket, program, scratch)
        data, plan, ids = bucket.data, self.plan, program.ids
        device = data[0].device
        key = ("triton", data[0].dtype)
        if key not in program.compiled:
            source = Source(plan, ids, data[0].dtype, state_dtypes(bucket.rules, data[0].dtype))
            computes = [
                (write_numbers(plan, here, ids, host=False), write_slices(plan, here, ids, host=False))
                for here in plan.passes
            ]
            program.compiled[key] = source, kernels(source.text()), computes
        self.source, loaded, self.computes = program.compiled[key]
        self._cut()
        self.pointers = self.source.height * self.nt
        self.staged = np.zeros(self.pointers + max(1, len(plan.hosts)), dtype=np.int64)
        self.table = torch.zeros(len(self.staged), dtype=torch.int64, device=device)
        self.host_numbers = self.table[self.pointers :].view(torch.float64)
        self.stale, self.aligned = True, True
        self.to_align = [row for s, row in self.source.rows.items() if s.at < 0]
        self._enter_shapes()
        self.scratch = {storage: scratch(storage.rule) for storage in self.source.scratch}
        sweeps = self.source.sweeps
        most = max(len(sweep.whole) for sweep in sweeps)
        self.partials = torch.empty(max(1, most * self.nb), dtype=self.real, device=device)
        self.kernels = [(loaded.get(f"sweep{k}"), loaded.get(f"finish{k}")) for k in range(len(sweeps))]
        # Each in memory of its own: they are handed on as numbers per tensor.
        self.sums = [[torch.empty(self.nt, dtype=self.real, device=device) for _ in sweep.whole] for sweep in sweeps]
        if device.type == "cuda":
            self._compile()

    def _cut(self) -> None:
        """Cut the tensors into blocks."""
        sizes = np.array([p.numel() for p in self.bucket.data], dtype=np.int64)
        self.nt = len(sizes)
        blocks = -(-sizes // BLOCK)
        first = np.concatenate([[0], np.cumsum(blocks)])
        tensor = np.repeat(np.arange(self.nt), blocks)
        self.nb = len(tensor)

        def upload(values: Any, kind: Any) -> Tensor:
            array = np.ascontiguousarray(values, dtype=kind)
            return torch.from_numpy(array).to(self.bucket.data[0].device)

        self.tensor, self.index = upload(tensor, np.int32), upload(np.arange(self.nb) - first[tensor], np.int32)
        self.sizes, self.first = upload(sizes, np.int64), upload(first, np.int32)

    def _compile(self) -> None:
        """Compile now, so that what Triton cannot do is known before a step has begun."""
        try:
            with torch.cuda.device(self.table.device):
                for (sweep, finish), work in zip(self.kernels, self.source.sweeps, strict=True):
                    if sweep is not None:
                        types = [torch.bool if x.mask else self.real for x in work.numbers]
                        args = [torch.int64, torch.float64, torch.int32, torch.int32, torch.int64, self.real]
                        sweep.warmup(*args, self.nt, self.nb, *types, grid=(1,), ALIGNED=True, **OPTIONS)
                    if finish is not None:
                        args = [torch.int32, self.real]
                        finish.warmup(*args, self.nb, *(self.real for _ in work.whole), grid=(1,), **OPTIONS)
        except Exception as error:  # whatever Triton, its compiler or its cache stumbles over
            raise Unsupported(f"Triton failed: {type(error).__name__}: {str(error).strip()[:500]}") from error

    # -- the table ---------------------------------------------------------------------------------------------------
    def _row(self, row: int) -> Any:
        return self.staged[row * self.nt : (row + 1) * self.nt]

    def _enter(self, row: int, tensors: list[Tensor]) -> None:
        """Enter a row of pointers."""
        new = np.array([t.data_ptr() for t in tensors], dtype=np.int64)
        if not np.array_equal(self._row(row), new):
            if row not in self._foreign:
                check_memory(tensors, "tensor")
            self._row(row)[:] = new
            self.stale = True

    def _enter_shapes(self) -> None:
        """Enter how the tensors are cut into slices."""
        data = self.bucket.data
        if self.source.shapes and not all(t.is_contiguous() for t in data):
            raise Unsupported("slices of tensors that are not contiguous")
        for dims, row in self.source.shapes.items():
            pairs = [geometry(dims, t.shape) for t in data]
            self._row(row)[:] = [m * inner for m, inner in pairs]
            self._row(row + 1)[:] = [inner for _, inner in pairs]
            if self._row(row).max() > LONGEST_RUN:
                raise Unsupported(f"slices that lie within more than {LONGEST_RUN} elements")

    def _upload(self) -> None:
        """Bring the table to the device, in the order of the stream: earlier kernels still see the old one."""
        staged = torch.from_numpy(self.staged)
        # Pinned memory is not reused before the copy from it is done; a new piece of it each time is safe and cheap.
        self.table.copy_(staged.pin_memory() if self.table.is_cuda else staged, non_blocking=True)
        pointers = self.staged[: self.pointers].reshape(-1, self.nt)
        self.aligned = not (pointers[self.to_align] % ALIGNMENT).any()
        self.stale = False

    # -- the step ----------------------------------------------------------------------------------------------------
    def begin(self, given: Given, loss: Tensor | None, alike: object = None) -> None:
        """Take what this step works on."""
        super().begin(given, loss, alike)
        self.conform(alike)
        for i, tensors in enumerate(self.lists):
            self._enter(i, tensors)
        for storage, row in self.source.scratch.items():
            self._enter(row, self.scratch[storage])
        staged = self.staged[self.pointers :].view(np.float64)[: len(self.hosts)]
        new = np.array(self.hosts, dtype=np.float64)
        if not np.array_equal(staged, new):
            staged[:] = new
            self.stale = True

    def set_result(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque operation."""
        super().set_result(node, tensors)
        row = self.source.rows.get(Storage(Place.RESULT, node=node))
        if row is not None:
            self._enter(row, self.results[node])

    def sweep(self, k: int) -> None:
        """The numbers, then the elements, of pass ``k``."""
        self.compute_numbers(*self.computes[k])
        sweep, ids = self.source.sweeps[k], self.program.ids
        if sweep.runs:
            self._launch(k, sweep)
        for node, result in zip(sweep.whole, self.sums[k], strict=True):
            self.T[ids[node]] = result
        for node, storage in sweep.sliced:
            reduce = slice_amax if node.op is AMAX else slice_sum
            self.Z[ids[node]] = reduce(self._tensors(storage), self.dims[k][ids[node]])
        if self.program.slices:
            self.fold(sweep.here)

    def _tensors(self, storage: Storage) -> list[Tensor]:
        """What lies at a storage in this step."""
        if storage.place is Place.RESULT:
            return self.results[storage.node]
        if storage in self.scratch:
            return self.scratch[storage]
        return self.lists[self.plan.storages[storage]]

    def _launch(self, k: int, sweep: Sweep) -> None:
        (kernel, finish), ids = self.kernels[k], self.program.ids
        slices = [[self._as_taken(x, t) for t in self.Z[ids[x]]] for x in sweep.slices]
        for x, tensors in zip(sweep.slices, slices, strict=True):
            self._enter(self.source.lists[x], tensors)
        if self.stale:
            self._upload()
        with torch.cuda.device_of(self.table):
            if self.nb:  # no tensor has an element otherwise
                table = [self.table, self.host_numbers, self.tensor, self.index, self.sizes, self.partials]
                numbers = [self._as_taken(x, self.T[ids[x]]) for x in sweep.numbers]
                kernel[(self.nb,)](*table, self.nt, self.nb, *numbers, ALIGNED=self.aligned, **OPTIONS)
            if finish is not None:
                finish[(self.nt,)](self.first, self.partials, self.nb, *self.sums[k], **OPTIONS)

    def _as_taken(self, value: Value, numbers: Tensor) -> Tensor:
        """Numbers as the kernels take them: truth values, or in the precision of the arithmetic."""
        return numbers.to(torch.bool if value.mask else self.real).contiguous()

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number."""
        if self.program.moves:  # a graph built before the step must refuse to run after it
            increment_version(self.bucket.data)
        super().commit(written)


runner = GPURunner

__all__ = ["GPURunner", "refusal", "runner"]
