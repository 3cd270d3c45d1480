"""A traced and planned run of rules, and the conditions under which it is valid."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..lang.graph import GRAD, LOSS_WITH_GRADIENTS, PARAM, Graph, Kind, Place, Storage, Value
from ..lang.number import Guard, host_function
from ..lang.ops import CALL, CHILD, LOAD, RANDOM, WRITTEN
from .plan import Plan, make_plan


class Mode(NamedTuple):
    """The ways to trace a segment.

    Attributes:
        writable: the update it starts from may be overwritten.
        moves: it moves the parameters.
        kernels: what torch has a kernel for is one call.
        recompute: a later pass computes again what is cheaper to compute than to keep.
        narrow: the parameters have less than 32 bits, and arithmetic more.
    """

    writable: bool
    moves: bool
    kernels: bool
    recompute: bool = False
    narrow: bool = False


class Program:
    """A traced and planned segment, valid while its guards hold.

    Attributes:
        graph: what was traced.
        mode: the way in which it was traced.
        plan: its passes.
        ids: the number of each value, by which backends call it.
        evaluate: computes the numbers of the plan from settings, counts and facts; None where the guards do not hold.
        again: the same for settings that have passed the guards.
        number_loads: the states of one number that it reads.
        moves: whether generated code writes to the parameters.
        calls: for each pass, whether opaque functions run after it.
        calls_kernels: whether one of torch's kernels is among what runs.
        random: whether it draws random values.
        meets: for each pass, whether all buckets come together after it.
        compiled: what a backend keeps.
    """

    def __init__(self, graph: Graph, mode: Mode, at_least: dict[Any, int] | None = None) -> None:
        self.graph, self.mode = graph, mode
        self.plan: Plan = make_plan(graph, at_least, recompute=mode.recompute)
        for storage in self.plan.storages:
            if storage.at >= 0:
                self.plan.hosts.setdefault(graph.numbers[storage.at], len(self.plan.hosts))
        self.ids = {node: i for i, node in enumerate(graph.nodes)}
        self.evaluate = host_function(list(self.plan.hosts), graph.guards)
        self.again = host_function(list(self.plan.hosts), graph.guards, settings_hold=True)
        passes = self.plan.passes
        self.number_loads = [n for p in passes for n in (*p.numbers, *p.slices) if n.op is LOAD]
        self.reads_gradient = GRAD in self.plan.storages
        self.reads_loss = any(storage.place is Place.LOSS for storage in graph.loads)
        self.loss_with_gradients = LOSS_WITH_GRADIENTS in graph.loads
        self.calls = [any(n.op is CALL for n in p.opaque) for p in passes]
        self.calls_kernels = any(n.op is CALL and n.attr.rule < 0 for p in passes for n in p.opaque)
        self.meets = [bool(p.totals) or any(n.op is not CALL for n in p.opaque) for p in passes]
        #: Whether functions or modules run between the passes, which may fail.
        self.foreign = any(n.op is CHILD or (n.op is CALL and n.attr.rule >= 0) for p in passes for n in p.opaque)
        self.random = any(n.op is RANDOM for p in passes for n in p.opaque)
        moved = graph.stores.get(PARAM)
        self.moves = moved is not None and moved.op is not WRITTEN
        self.slices = any(p.slices or any(n.kind is Kind.SLICE for n in p.reductions) for p in passes)
        self.compiled: dict[Any, Any] = {}
        self._aligned: dict[Any, Program] = {}

    def broken(self, other: Program) -> Guard | None:
        """The first guard that tells another program from this one."""
        known = {(repr(g.number), g.cast): g.value for g in self.graph.guards}
        changed = (g for g in other.graph.guards if known.get((repr(g.number), g.cast), g.value) != g.value)
        return next(changed, None)

    def aligned(self, at_least: dict[Any, int]) -> Program:
        """The same graph with totals no earlier than given."""
        key = tuple(sorted((repr(k), v) for k, v in at_least.items()))
        if key not in self._aligned:
            self._aligned[key] = Program(self.graph, self.mode, at_least)
        return self._aligned[key]

    def family(self) -> list[Program]:
        """The program with those that take its totals later."""
        return [self, *self._aligned.values()]

    def place_in_ring(self, storage: Storage, hosts: Any) -> int:
        """Which place of a ring a storage is in this step."""
        return int(hosts[self.plan.hosts[self.graph.numbers[storage.at]]])


def number_stores(plan: Plan, kind: Kind) -> list[tuple[Storage, Value]]:
    """The states of one kind of numbers that a plan writes."""
    return [(s, v) for s, v in plan.number_stores if v.kind is kind]
