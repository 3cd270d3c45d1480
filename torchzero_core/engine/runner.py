"""What every backend's runner does between the passes: opaque calls on whole tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..lang.graph import Host, Value
from .plan import Plan, Storage


class Unsupported(Exception):
    """A plan or its tensors have something that a backend cannot do; the message names it."""


class Runner:
    """Runs one program on one bucket.

    Args:
        bucket: the tensors and their state.
        program: the passes.

    Attributes:
        E: the tensors of each storage in this step.
        fresh: what opaque calls have returned in this step, by node.
        H: the host numbers of this step.
    """

    H: Any

    def __init__(self, bucket: Any, program: Any) -> None:
        self.bucket, self.program = bucket, program
        self.plan: Plan = program.plan
        self.levels = len(self.plan.levels)
        self.E: dict[Storage, list[Tensor]] = {}
        self.fresh: dict[Value, list[Tensor]] = {}

    def tensors(self, storage: Storage, u: list[Tensor], grads: list[Tensor], out: list[Tensor]) -> list[Tensor]:
        """What a storage is in this step."""
        kind, bucket = storage[0], self.bucket
        if kind == "state":
            return bucket.states(storage)
        if kind == "work":
            segment = bucket.segment
            return segment.home.workspace(f"work{storage[1]}{segment.space}", bucket.params)
        return bucket.data if kind == "p" else u if kind == "u" else grads if kind == "g" else out

    def whole(self, value: Value) -> list[Tensor]:
        """An argument of an opaque call as whole tensors, after its pass."""
        storage = self.plan.opaque_inputs[value]
        return self.fresh[value] if storage[0] == "fresh" else self.E[storage]

    def call(self, node: Value) -> None:
        """Run an opaque function."""
        args = [
            self.whole(a) if isinstance(a, Value) else self.H[self.plan.host_index(a)] if isinstance(a, Host) else a
            for a in node.args
        ]
        self.set_fresh(node, list(node.attr[-1](*args)))

    def set_fresh(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque call."""
        self.fresh[node] = tensors
