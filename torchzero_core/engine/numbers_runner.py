"""A runner whose numbers per tensor, per slice and for all are numpy's on the host or torch's on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..lang.graph import Dims, Kind, Place, Storage, Value
from ..lang.ops import AMAX, FILL, LOAD, SHAPE
from .bucket import Bucket, Row
from .memory import SHORT, go_on
from .numbers import doubled, doubles, real
from .plan import Pass
from .program import Program
from .runner import Given, Runner, Scratch


class NumbersRunner(Runner):
    """A runner whose numbers are numpy's on the host or torch's on the device.

    Attributes:
        host: whether they are on the host.
        T: numbers per tensor and for all, by a node's id.
        Z: numbers per slice, by a node's id.
        real: their dtype on a device.
        dims: for each pass, by the id of a reduction of elements to slices, the dimensions that it runs along.
        taken_over: numbers that one state takes over from another.
    """

    host = False

    def __init__(self, bucket: Bucket, program: Program, scratch: Scratch) -> None:
        super().__init__(bucket, program, scratch)
        data, plan, ids = bucket.data, self.plan, program.ids
        like = data[0]
        self.real = real(like.dtype)
        self.zeros: Any = (
            np.zeros(len(data)) if self.host else torch.zeros(len(data), dtype=self.real, device=like.device)
        )
        self.T: dict[int, Any] = {}
        self.Z: dict[int, list[Tensor]] = {}
        self.fixed: dict[int, Any] = {}  # numbers that depend on shapes and dtypes alone
        self.blank: dict[int, list[Tensor]] = {}
        for here in plan.passes:
            for node in here.numbers:
                if node.op is SHAPE:
                    self.fixed[ids[node]] = self.from_floats([float(node.attr(p)) for p in bucket.whole])
            for node in here.slices:
                if node.op is FILL:
                    shapes = (node.dims.reduced(t.shape) for t in data) if node.dims is not None else ()
                    self.blank[ids[node]] = [like.new_zeros(shape, dtype=self.real) for shape in shapes]
        self.dims = [self._dims(here) for here in plan.passes]
        self.taken_over = [v for _, v in plan.number_stores if v.op is LOAD]
        self.state_rows: dict[Storage, Row] = {}  # the states of one number per tensor, in this step

    def _dims(self, here: Pass) -> dict[int, list[list[int]]]:
        sliced = (n for n in here.element_reductions if n.kind is Kind.SLICE)
        return {self.program.ids[n]: [_along(n.dims, t) for t in self.bucket.data] for n in sliced}

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

    def make_numbers(self) -> list[Tensor]:
        """The states of one number that the step writes at its end, made where they are missing."""
        for storage, value in self.plan.number_stores:
            if value.kind is Kind.TENSOR and storage.place is not Place.GLOBAL:
                self.bucket.row(storage.rule, storage.name)
        return super().make_numbers()

    def begin(self, given: Given, loss: Tensor | None, alike: object = None) -> None:
        """Take what this step works on."""
        bucket, program = self.bucket, self.program
        self.hosts = bucket.hosts
        self.find(given)
        self.T, self.Z = self.fixed.copy(), self.blank.copy()
        for node in program.number_loads:
            storage, i = node.attr, program.ids[node]
            if node.kind is Kind.SLICE:
                self.Z[i] = bucket.states(storage.rule, storage.name)
            elif node.kind is Kind.TENSOR:
                row = self.state_rows[storage] = bucket.row(storage.rule, storage.name)
                self.T[i] = self.from_tensor(row.vector) if row.array is None or not self.host else doubled(row.array)
            else:
                value = loss if storage.place is Place.LOSS else bucket.global_state(storage.rule, storage.name)
                assert value is not None
                self.T[i] = self.from_tensor(value.detach().reshape(()).to(bucket.data[0].device))

    def compute_numbers(self, numbers: Any, slices: Any) -> None:
        """The numbers of a pass."""
        try:
            if numbers is not None and self.host:
                with np.errstate(all="ignore"):  # infinities and NaNs go where they go
                    numbers(self.hosts, self.T, self.zeros, None)
            elif numbers is not None:
                numbers(self.hosts, self.T, self.zeros, self.real)
        except SHORT as error:
            go_on(numbers, error)
        try:
            if slices is not None:
                slices(self.hosts, self.T, self.Z, self.real)
        except SHORT as error:
            go_on(slices, error)

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
        for value in self.taken_over:  # the other's memory, which may get its own new value first
            i = ids[value]
            if value.kind is Kind.SLICE:
                self.Z[i] = [t.clone() for t in self.Z[i]]
            else:
                self.T[i] = self.T[i].copy() if self.host else self.T[i].clone()
        for storage, value in self.plan.number_stores:
            if value.kind is Kind.SLICE:
                torch._foreach_copy_(bucket.states(storage.rule, storage.name), self.Z[ids[value]])
                continue
            if storage in written:
                continue
            new = self.T[ids[value]]
            if storage.place is Place.GLOBAL:
                written.add(storage)
                new = torch.from_numpy(np.asarray(new)) if self.host else new
                bucket.global_state(storage.rule, storage.name).copy_(new)
                continue
            row = self.state_rows.get(storage) or bucket.row(storage.rule, storage.name)
            if row.array is None or not self.host:
                row.vector.copy_(torch.from_numpy(np.asarray(new)) if self.host else new)
            else:
                with np.errstate(all="ignore"):  # too large a number becomes an infinity
                    row.array[...] = new
        self.T, self.Z, self.state_rows = {}, {}, {}
        self.forget()


def _along(dims: Dims | None, t: Tensor) -> list[int]:
    assert dims is not None
    return dims.of(t.shape)
