"""What every backend's runner does: which tensors a step works on, and opaque calls between the passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..lang.graph import UPDATE, Kind, Number, Place, Storage, Value
from ..lang.ops import CALL
from ..lang.rule import Call
from .bucket import Bucket, Found, Places
from .layout import MemoryCheck
from .program import Program


class Unsupported(Exception):
    """A plan or its tensors have something that a backend cannot do; the message names it."""


class Unavailable(Unsupported):
    """There is nothing to compile with, or nowhere to keep what is compiled, whatever the plan is."""


#: What one step gives to a bucket: what the rules start from, the gradients if they are read, and where the result
#: goes if not over the update.
Given: TypeAlias = tuple[list[Tensor], list[Tensor], list[Tensor]]
#: Makes the workspaces of a bucket, by their number.
Scratch: TypeAlias = Callable[[int], list[Tensor]]


class Runner:
    """Runs one program on one bucket.

    A step is ``begin``, for each pass ``sweep`` and what has to happen after it, and ``commit``.

    Args:
        bucket: the tensors and their state.
        program: the passes.
        scratch: makes the workspaces.

    Attributes:
        lists: the tensors of each storage in this step, in the plan's order.
        results: what opaque calls have returned in this step, by node.
        hosts: the host numbers of this step.
        enters: whether the backend itself notices where tensors lie elsewhere than before.
    """

    enters = False

    def __init__(self, bucket: Bucket, program: Program, scratch: Scratch) -> None:
        self.bucket, self.program, self.plan = bucket, program, program.plan
        storages = self.plan.storages
        self.lists: list[list[Tensor]] = [[]] * len(storages)
        self.results: dict[Value, list[Tensor]] = {}
        self.hosts: tuple[Any, ...] = ()
        given = {Place.UPDATE: 0, Place.GRAD: 1, Place.OUT: 2}
        states = [(i, s) for s, i in storages.items() if s.place is Place.STATE]
        self._states = [(i, s.rule, s.name) for i, s in states if s.at < 0]
        self._held: Found | None = None
        self._check_given = MemoryCheck("gradient"), MemoryCheck("gradient")
        self._rings = [(i, s) for i, s in states if s.at >= 0]
        self._foreign = [i for s, i in storages.items() if s.place in (Place.UPDATE, Place.GRAD)]
        self._update = storages.get(UPDATE) if UPDATE in program.graph.stores else None
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._conformed: object = None  # the mark of layouts that need no copies
        self._given = [(i, given[s.place]) for s, i in storages.items() if s.place in given]
        self._calls = [[self._call(n) for n in here.opaque if n.op is CALL] for here in self.plan.passes]
        for storage, i in storages.items():
            if storage.place is Place.PARAM:
                self.lists[i] = bucket.data
            elif storage.place is Place.WORK:
                self.lists[i] = scratch(storage.rule)

    # -- what a backend defines --------------------------------------------------------------------------------------
    def begin(self, given: Given, loss: Tensor | None, alike: object = None) -> None:
        """Take what this step works on.

        Args:
            given: the tensors.
            loss: the loss, if it is read.
            alike: something that is the same object in all steps whose tensors have the same layouts and dtypes; None
                where nobody has looked.
        """
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
    def find(self, given: Given) -> None:
        """Fill :attr:`lists` for this step."""
        lists, bucket = self.lists, self.bucket
        self._find_states()
        for i, storage in self._rings:
            at = self.program.place_in_ring(storage, self.hosts)
            lists[i] = [ring[at] for ring in bucket.states(storage.rule, storage.name)]
        for i, which in self._given:
            lists[i] = given[which]
            if which < 2 and lists[i]:
                self._check_given[which](lists[i])

    def _find_states(self) -> None:
        """Fill the lists of states: they hold them from the last step, unless somebody has touched one."""
        bucket = self.bucket
        if self._held is not None and self._held.again() is not None and (self.enters or self._held.in_place()):
            return
        for i, rule, name in self._states:
            self.lists[i] = bucket.states(rule, name)
        if bucket.shards is None and self._states:
            places = sum((bucket.places(rule, name) for _, rule, name in self._states), Places([], []))
            self._held = Found(places, places.read())

    def written(self) -> list[Tensor]:
        """What the step is about to write, after :meth:`begin`: states, and the parameters where it moves them."""
        bucket, stores = self.bucket, self.program.graph.stores
        out: list[Tensor] = []
        for storage, i in self.plan.storages.items():
            if storage in stores and storage.place in (Place.STATE, Place.PARAM):
                out += self.lists[i]
        out += self.make_numbers()
        for calls in self._calls:
            for node, _, names in calls:
                out += (t for name in names for t in bucket.whole_states(node.attr.rule, name))
        return out

    def make_numbers(self) -> list[Tensor]:
        """The states of one number that the step writes at its end, made where they are missing."""
        bucket, out = self.bucket, []
        for storage, _ in self.plan.number_stores:
            if storage.place is Place.GLOBAL:
                out.append(bucket.global_state(storage.rule, storage.name))
            else:
                out += bucket.states(storage.rule, storage.name)
        return out

    def conform(self, alike: object) -> None:
        """Copy what others gave where it does not lie in memory as compiled code wants it.

        Args:
            alike: as in :meth:`begin`.
        """
        if alike is not None and alike is self._conformed:
            return
        lists, as_given = self.lists, True
        for i in self._foreign:
            given, lists[i] = lists[i], self.bucket.conforming(lists[i])
            if lists[i] is not given:
                as_given = False
                if i == self._update:
                    self._copies = [(a, b) for a, b in zip(lists[i], given, strict=True) if a is not b]
        self._conformed = alike if as_given else None

    def forget(self) -> None:
        """Let go of what belongs to others, after bringing back the update where it was copied."""
        for mine, given in self._copies:
            given.copy_(mine)
        self._copies = []
        if self.results:
            self.results = {}
        for i, _ in self._given:
            self.lists[i] = []

    # -- opaque calls ------------------------------------------------------------------------------------------------
    def whole(self, value: Value) -> list[Tensor]:
        """An argument of an opaque call as whole tensors, after its pass."""
        storage = self.plan.inputs[value]
        return self.results[value] if storage.place is Place.RESULT else self.lists[self.plan.storages[storage]]

    def argument(self, x: Any) -> Any:
        """An argument of an opaque call: a list of tensors, or a number."""
        if isinstance(x, Value):
            return self.whole(x) if x.kind is Kind.ELEMENT else self.numbers(x)
        return self.hosts[self.plan.hosts[x]] if isinstance(x, Number) else x

    def _call(self, node: Value) -> tuple[Value, list[tuple[str, Any]], list[str]]:
        """An opaque operation: where its arguments come from, and the states that it gets by name."""
        call: Call = node.attr
        states = sum(self.bucket.slot(call.rule, name).plain for name in call.state)
        sources: list[tuple[str, Any]] = []
        for x in node.args[: len(node.args) - states]:  # the rest are states
            storage = self.plan.inputs.get(x) if isinstance(x, Value) else None
            if storage in self.plan.storages:
                sources.append(("list", self.plan.storages[storage]))
            elif isinstance(x, Number):
                sources.append(("host", self.plan.hosts[x]))
            else:
                sources.append(("" if isinstance(x, Value) else "constant", x))
        return node, sources, list(call.state)

    def run_calls(self, k: int) -> None:
        """Run the opaque functions of pass ``k``."""
        lists, hosts, bucket = self.lists, self.hosts, self.bucket
        for node, sources, names in self._calls[k]:
            call: Call = node.attr
            args = [
                lists[x] if s == "list" else hosts[x] if s == "host" else x if s == "constant" else self.argument(x)
                for s, x in sources
            ]
            if call.rule < 0:  # a kernel, which goes element by element and writes where the tensors lie
                call.fn(*args)
                continue
            spread = bucket.shards is not None
            if spread:
                args = [bucket.gather(a) if isinstance(a, list) else a for a in args]
            states = {name: bucket.whole_states(call.rule, name) for name in names}
            out = call.fn(*args, **states)
            if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict):  # torch gives tuples too
                out, new = out
                for name, tensors in new.items():
                    torch._foreach_copy_(states[name], list(tensors))
            for name in names:
                bucket.take_states(call.rule, name, states[name])
            out = self._checked(call, out)
            self.set_result(node, bucket.scatter(out) if spread else out)

    def _checked(self, call: Call, out: Any) -> list[Tensor]:
        """What an opaque function returned, in the dtype of the parameters.

        Raises:
            TypeError: it is no list of tensors, or one of another length.
            ValueError: a tensor has another shape than its parameter.
        """
        whole, path = self.bucket.whole, self.bucket.rules[call.rule].path
        if not isinstance(out, (list, tuple)) or len(out) != len(whole) or not all(isinstance(t, Tensor) for t in out):
            what = f"{type(out).__name__} of {len(out)}" if isinstance(out, (list, tuple)) else type(out).__name__
            raise TypeError(
                f"{path}: the function in ctx.call must return a list with a tensor for each of {len(whole)} "
                f"parameters, or such a list and a dict of new states; it returned a {what}."
            )
        for t, p in zip(out, whole, strict=True):
            if t.shape != p.shape:
                raise ValueError(
                    f"{path}: the function in ctx.call returned a tensor of shape {tuple(t.shape)} for a parameter of "
                    f"shape {tuple(p.shape)}."
                )
        return [t.to(p.dtype) for t, p in zip(out, whole, strict=True)]

    def set_result(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque operation, in the memory order of the parameters."""
        self.results[node] = self.bucket.conforming(tensors)
