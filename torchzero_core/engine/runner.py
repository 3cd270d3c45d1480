"""What every backend's runner does: which tensors a step works on, and opaque calls between the passes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ..lang.graph import Kind, Number, Place, Storage, Value
from ..lang.rule import Call
from .bucket import Bucket
from .program import Program


class Unsupported(Exception):
    """A plan or its tensors have something that a backend cannot do; the message names it."""


class Given(NamedTuple):
    """What one step gives to a bucket.

    Attributes:
        update: what the rules start from.
        grads: the gradients, if they are read.
        out: where the result goes, if not over the update.
        params: all parameters of the bucket, for their scratch memory.
        loss: the loss, if it is read.
    """

    update: list[Tensor]
    grads: list[Tensor]
    out: list[Tensor]
    scratch: Any
    loss: Tensor | None = None


class Runner:
    """Runs one program on one bucket.

    A step is ``begin``, for each pass ``sweep`` and what has to happen after it, and ``commit``.

    Args:
        bucket: the tensors and their state.
        program: the passes.

    Attributes:
        lists: the tensors of each storage in this step.
        results: what opaque calls have returned in this step, by node.
        hosts: the host numbers of this step.
    """

    def __init__(self, bucket: Bucket, program: Program) -> None:
        self.bucket, self.program, self.plan = bucket, program, program.plan
        self.lists: dict[Storage, list[Tensor]] = {}
        self.results: dict[Value, list[Tensor]] = {}
        self.hosts: Any = ()

    # -- what a backend defines --------------------------------------------------------------------------------------
    def begin(self, given: Given, facts: Any) -> None:
        """Take what this step works on."""
        raise NotImplementedError

    def sweep(self, k: int) -> None:
        """The numbers, then the elements, of pass ``k``."""
        raise NotImplementedError

    def numbers(self, node: Value) -> Any:
        """Numbers per tensor, or one for all: a tensor, or numpy's or Python's own."""
        raise NotImplementedError

    def set_numbers(self, node: Value, values: Any) -> None:
        """Take numbers that were worked out elsewhere."""
        raise NotImplementedError

    def slices(self, node: Value) -> list[Tensor]:
        """Numbers per slice, which may be written."""
        raise NotImplementedError

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number.

        Args:
            written: the module-wide states that another bucket has written in this step; the own ones are added.
        """
        raise NotImplementedError

    # -- memory ------------------------------------------------------------------------------------------------------
    def find(self, storage: Storage, given: Given) -> list[Tensor]:
        """What an element storage is in this step."""
        place, bucket = storage.place, self.bucket
        if place is Place.STATE:
            states = bucket.states(storage.rule, storage.name)
            if storage.at < 0:
                return states
            at = self.program.place_in_ring(storage, self.hosts)
            return [ring[at] for ring in states]
        if place is Place.WORK:
            return given.scratch(storage.rule)
        if place is Place.UPDATE:
            return given.update
        return given.grads if place is Place.GRAD else bucket.data if place is Place.PARAM else given.out

    # -- opaque calls ------------------------------------------------------------------------------------------------
    def whole(self, value: Value) -> list[Tensor]:
        """An argument of an opaque call as whole tensors, after its pass."""
        storage = self.plan.inputs[value]
        return self.results[value] if storage.place is Place.RESULT else self.lists[storage]

    def argument(self, x: Any) -> Any:
        """An argument of an opaque call: a list of tensors, or a number."""
        if isinstance(x, Value):
            return self.whole(x) if x.kind is Kind.ELEMENT else self.numbers(x)
        return self.hosts[self.plan.hosts[x]] if isinstance(x, Number) else x

    def call(self, node: Value) -> None:
        """Run an opaque function."""
        call: Call = node.attr
        bucket = self.bucket
        states = {name: bucket.states(call.rule, name) for name in call.state}
        elements = len(node.args) - sum(
            bucket.slot(call.rule, name).plain for name in call.state
        )  # the rest are states, which go by name
        out = call.fn(*map(self.argument, node.args[:elements]), **states)
        if isinstance(out, tuple):
            out, new = out
            for name, tensors in new.items():
                for old, tensor in zip(states[name], tensors, strict=True):
                    old.copy_(tensor)
        if out is not None:
            self.set_result(node, list(out))

    def set_result(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque operation."""
        self.results[node] = tensors
