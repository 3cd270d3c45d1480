"""A traced and planned run of rules, and the conditions under which it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..lang.graph import Trace, Value, host_function
from .plan import Plan, make_plan


class Mode(NamedTuple):
    """The ways to trace a segment.

    Attributes:
        owned: the update it starts from may be overwritten.
        apply: it moves the parameters.
        kernels: what torch has a kernel for is one call.
        recompute: a later pass computes again what is cheaper to compute than to keep.
    """

    owned: bool
    apply: bool
    kernels: bool
    recompute: bool = False


class Program:
    """A traced and planned segment, valid while its guards hold.

    Attributes:
        trace: the graph.
        plan: its passes.
        mode: the way in which it was traced.
        counted: the rules that count steps.
        meets: whether something happens between the passes: a total over all buckets, an opaque call.
    """

    def __init__(self, trace: Trace, mode: Mode, *, at_least: dict[Any, int] | None = None) -> None:
        self.trace, self.mode = trace, mode
        self.at_least = dict(at_least or {})
        self.plan: Plan = make_plan(trace, at_least, recompute=mode.recompute)
        self.ids = {node: i for i, node in enumerate(trace.nodes)}
        self.counted = sorted(trace.counted)
        self.host = host_function(self.plan.hosts)
        self._guards = host_function(list(trace.guards))
        self._expected = tuple(trace.guards.values())
        self.scalar_loads = [
            n
            for n in trace.loads.values()
            if n.kind != "element" and any(n in _args(self.plan, level) for level in self.plan.levels)
        ]
        self.reads_gradient = ("g",) in self.plan.storages
        self.meets = any(level.totals or level.opaque for level in self.plan.levels)
        self.compiled: dict[Any, Any] = {}  # what backends keep

    def holds(self, settings: Sequence[Any], counts: Sequence[int]) -> bool:
        """Whether the guards have the values with which this was traced."""
        return self._guards(settings, counts) == self._expected

    def levelled(self, at_least: dict[Any, int]) -> Program:
        """The same graph with totals no earlier than given."""
        key = ("levels", tuple(sorted((repr(k), v) for k, v in at_least.items())))
        if key not in self.compiled:
            self.compiled[key] = Program(self.trace, self.mode, at_least=at_least)
        return self.compiled[key]


def _args(plan: Plan, level: Any) -> set[Value]:
    nodes = (*level.scalars, *level.elements, *level.reductions, *level.totals, *level.opaque)
    found = {a for n in nodes for a in n.args if isinstance(a, Value)}
    return found | {v for _, v in plan.scalar_stores}
