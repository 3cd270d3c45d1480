"""Cut the graph of a rule into passes over memory.

Pointwise operations follow one another without touching memory; a reduction ends a pass, because what depends on its
result needs all of the data first. A :class:`Pass` is scalar work, one sweep over the elements, then the reductions and
the opaque calls (functions of whole tensors, modules that are no rules) at its end. What a later pass needs of an
earlier one and what no state holds anyway is kept in a workspace, or computed again where that is cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lang.graph import Graph, Kind, Number, Place, Storage, Value
from ..lang.ops import CHILD, FILL, LOAD, RANDOM, WRITTEN, Role

REDUCTION, TOTAL, OPAQUE = Role.REDUCTION, Role.TOTAL, Role.OPAQUE


@dataclass(eq=False)
class Pass:
    """One pass: what is computed, from where it is read and to where it is written.

    Attributes:
        numbers: numbers per tensor and for all.
        slices: numbers per slice.
        elements: what is computed of each element.
        reads: the values that are read from memory.
        writes: the values that are written to memory.
        reductions: of elements or slices, at the end.
        totals: over all tensors, after the reductions.
        opaque: functions of whole tensors, last.
    """

    numbers: list[Value] = field(default_factory=list)
    slices: list[Value] = field(default_factory=list)
    elements: list[Value] = field(default_factory=list)
    reads: dict[Value, Storage] = field(default_factory=dict)
    writes: list[tuple[Storage, Value]] = field(default_factory=list)
    reductions: list[Value] = field(default_factory=list)
    totals: list[Value] = field(default_factory=list)
    opaque: list[Value] = field(default_factory=list)

    @property
    def sweeps(self) -> bool:
        """Whether it goes over elements at all."""
        return bool(self.reads or self.writes or self.element_reductions)

    @property
    def element_reductions(self) -> list[Value]:
        """The reductions that the sweep does."""
        return [n for n in self.reductions if n.inputs[0].kind is Kind.ELEMENT]

    @property
    def folds(self) -> list[Value]:
        """The reductions of slices, after those of elements."""
        return [n for n in self.reductions if n.inputs[0].kind is Kind.SLICE]

    def numbers_for_elements(self) -> list[Value]:
        """The numbers per slice, per tensor and for all that the sweep uses."""
        used = (a for n in (*self.elements, *self.reductions) for a in n.inputs if a.kind is not Kind.ELEMENT)
        return list(dict.fromkeys(used))


@dataclass(eq=False)
class Plan:
    """The passes of a graph.

    Attributes:
        passes: the passes in order.
        number_stores: states of one number per slice, per tensor or in all, written after the last pass.
        storages: every element storage that is read or written, with its place among them.
        hosts: the host numbers that the passes use, with their place among them.
        meetings: for each total (or child), the pass at whose end it is taken; equal for all buckets of a segment.
        inputs: where the arguments of opaque calls lie when these are made.
    """

    passes: list[Pass]
    number_stores: list[tuple[Storage, Value]]
    storages: dict[Storage, int]
    hosts: dict[Number, int]
    meetings: dict[Any, int]
    inputs: dict[Value, Storage]

    @property
    def like(self) -> int:
        """The place of a storage that has the dtype of the parameters; states may have another."""
        return next((i for s, i in self.storages.items() if s.place is not Place.STATE), 0)


def make_plan(graph: Graph, at_least: Mapping[Any, int] | None = None, *, recompute: bool = False) -> Plan:
    """Plan the passes of a traced graph.

    Args:
        graph: the graph.
        at_least: passes before which a total (or child) must not be taken, so that the buckets of a segment agree.
        recompute: what a later pass needs is computed again where that reads less than a workspace costs.
    """
    return _Planner(graph, at_least or {}, recompute=recompute).plan()


class _Planner:
    """The stages of planning.

    Attributes:
        stores: what memory holds in the end, where that is not what it held before.
        nodes: those that some store depends on.
        users: which nodes use a value.
        done: the pass in which a value is computed.
        ready: the first pass that can use it.
        stored: the pass in which a storage gets its new value.
        home: where a value can be read after the pass that computes it.
        recipes: what has to be computed again to have a value in a later pass.
    """

    def __init__(self, graph: Graph, at_least: Mapping[Any, int], *, recompute: bool) -> None:
        self.graph, self.at_least, self.recompute = graph, at_least, recompute
        self.stores = {s: v for s, v in graph.stores.items() if not (v.op is LOAD and v.attr == s)}
        self.nodes = self._live()
        self.users: dict[Value, list[Value]] = {}
        for node in self.nodes:
            for a in node.inputs:
                self.users.setdefault(a, []).append(node)
        self.done: dict[Value, int] = {}
        self.ready: dict[Value, int] = {}
        self.stored: dict[Storage, int] = {}
        self.home: dict[Value, Storage] = {}
        self.recipes: dict[Value, set[Value]] = {}
        self.passes: list[Pass] = []

    def plan(self) -> Plan:
        """All stages."""
        self._schedule()
        self._sink()
        self._schedule_stores()
        self._place()
        self._keep()
        self._sort_into_passes()
        self._read()
        return self._result()

    def _live(self) -> list[Value]:
        """The nodes that some store depends on, in the order in which they were traced."""
        live: set[Value] = set()
        stack = list(self.stores.values()) + [n for n in self.graph.nodes if n.op is CHILD]
        while stack:
            node = stack.pop()
            if node not in live:
                live.add(node)
                stack.extend(node.inputs)
        return [n for n in self.graph.nodes if n in live]

    def _schedule(self) -> None:
        """As early as possible."""
        for node in self.nodes:
            if node.op is WRITTEN:  # memory, by the operation that is its last operand
                by = node.inputs[-1]
                self.done[node], self.ready[node] = self.done[by], self.ready[by]
                continue
            start = max((self.ready[a] for a in node.inputs), default=0)
            role = node.op.role
            barrier = role in (REDUCTION, TOTAL, OPAQUE)
            if role is TOTAL and node.inputs[0].op.role is REDUCTION:
                start = self.done[node.inputs[0]]  # partial sums are added up right after the pass that makes them
            if barrier:
                start = max(start, self.at_least.get(meeting(node), 0))
            self.done[node], self.ready[node] = start, start + barrier

    def _sink(self) -> None:
        """Compute what only a later pass wants in that pass, where it comes from memory that is still as it was."""
        stored = set(self.stores.values())
        for node in reversed(self.nodes):
            users = self.users.get(node)
            fixed = node.op in (LOAD, WRITTEN) or node.op.role is OPAQUE
            if node.kind is not Kind.ELEMENT or node in stored or fixed or not users:
                continue
            wanted = min(self.done[n] for n in users)
            if wanted > self.done[node] and all(self._intact(a, wanted) for a in node.inputs if a.kind is Kind.ELEMENT):
                self.done[node] = self.ready[node] = wanted

    def _intact(self, value: Value, at: int) -> bool:
        if value.op is FILL:
            return True
        new = self.stores.get(value.attr) if value.op is LOAD else value
        return new is None or (new is not value and self.ready[new] >= at)

    def _last_use(self, value: Value) -> int:
        """The last pass whose stores would destroy what a user reads: an opaque call reads after its pass."""
        return max((self.done[n] + (n.op.role is OPAQUE) for n in self.users.get(value, ())), default=0)

    def _schedule_stores(self) -> None:
        children = max((self.ready[n] for n in self.nodes if n.op is CHILD), default=0)
        for storage, value in self.stores.items():
            old = self.graph.loads.get(storage)
            last = self._last_use(old) if old is not None and old in self.done else 0
            if by_opaque(value):
                if old is not None and any(self.done[n] > self.done[value] for n in self.users.get(old, ())):
                    raise TypeError(f"The state {storage.name!r} is used after ctx.call has changed it; use it before.")
                self.stored[storage] = self.done[value]
            else:
                self.stored[storage] = max(self.ready[value], last)
                if storage.place is Place.PARAM:  # modules that are no rules evaluate at the point the step starts from
                    self.stored[storage] = max(self.stored[storage], children)

    def _place(self) -> None:
        """Where values lie anyway."""
        for storage, value in self.stores.items():
            if value.kind is not Kind.ELEMENT or value.op.role is OPAQUE:
                continue
            if by_opaque(value) or self.stored[storage] == self.ready[value]:
                self.home.setdefault(value, storage)
        for node in self.nodes:
            if node.kind is Kind.ELEMENT and node.op is LOAD:
                self.home[node] = node.attr
            elif node.kind is Kind.ELEMENT and node.op.role is OPAQUE:
                self.home[node] = Storage(Place.RESULT, node=node)

    def _keep(self) -> None:
        """Workspaces for what later passes need, each taken for as long as it is needed."""
        keep: list[tuple[int, int, Value]] = []
        for node in self.nodes:
            if node.kind is not Kind.ELEMENT or node in self.home:
                continue
            for_opaque = any(n.op.role is OPAQUE for n in self.users.get(node, ()))
            if node.op is FILL and not for_opaque:
                continue
            last = max([self._last_use(node), *(self.stored[s] for s, v in self.stores.items() if v is node)])
            if last > self.done[node]:
                again = (
                    {self.done[n] for n in self.users[node]} <= {self.done[node], last} if node in self.users else False
                )
                recipe = self._recipe(node) if self.recompute and again and not for_opaque else None
                if recipe is None:
                    keep.append((self.done[node], last, node))
                else:
                    self.recipes[node] = recipe
        taken: list[int] = []  # until which pass each workspace is
        self.kept: list[tuple[int, Storage, Value]] = []
        for begin, last, node in sorted(keep, key=lambda item: item[0]):
            index = next((i for i, until in enumerate(taken) if until < begin), len(taken))
            taken[index : index + 1] = [last]
            self.home[node] = Storage(Place.WORK, index)
            self.kept.append((begin, self.home[node], node))

    def _recipe(self, node: Value) -> set[Value] | None:
        """What has to be computed again to have ``node`` in a later pass, if that is cheaper than to keep it.

        A workspace costs 12 bytes an element: it is fetched to be written, written back, and read. A state that holds
        an input by then costs 4.
        """
        recipe, inputs, pending = {node}, set(), node.inputs
        while pending:
            value = pending.pop()
            if value.kind is not Kind.ELEMENT or value in recipe:
                continue
            storage = self.home.get(value)
            if storage is not None and self.stores.get(storage) is value:
                inputs.add(value)
            elif value.op.cheap and not (value.op is LOAD and value.attr in self.stores):
                if value.op is LOAD:
                    inputs.add(value)
                else:
                    recipe.add(value)
                    pending += value.inputs
            else:
                return None
        return recipe if len(inputs) <= 2 and len(recipe) <= 8 and node.op.cheap else None

    def _sort_into_passes(self) -> None:
        last = [0, *self.stored.values()]
        for n in self.nodes:
            last.append(self.done[n])
            used = any(n is v for v in self.stores.values()) or any(u.op is not WRITTEN for u in self.users.get(n, ()))
            if n.op.role is OPAQUE and (used or n.op is CHILD):
                last.append(self.ready[n])
        self.passes = [Pass() for _ in range(1 + max(last))]
        for begin, storage, node in self.kept:
            self.passes[begin].writes.append((storage, node))
        for node in self.nodes:
            here, role = self.passes[self.done[node]], node.op.role
            if role is REDUCTION:
                here.reductions.append(node)
            elif role is TOTAL:
                here.totals.append(node)
            elif role is OPAQUE:
                here.opaque.append(node)
            elif node.kind is Kind.ELEMENT:
                if node.op not in (LOAD, FILL) and not by_opaque(node):
                    here.elements.append(node)
            else:
                (here.slices if node.kind is Kind.SLICE else here.numbers).append(node)
        for storage, value in self.stores.items():
            if value.kind is Kind.ELEMENT and not by_opaque(value):
                self.passes[self.stored[storage]].writes.append((storage, value))

    def _read(self) -> None:
        """What each pass reads, and what it computes again."""
        for here in self.passes:
            wanted = [a for n in (*here.elements, *here.reductions) for a in n.inputs]
            wanted += [v for _, v in here.writes]
            computed = set(here.elements)
            again: set[Value] = set().union(
                *(self.recipes[w] for w in wanted if w in self.recipes and w not in computed)
            )
            here.elements[:0] = [n for n in self.nodes if n in again]
            wanted += [a for n in again for a in n.inputs]
            computed |= again
            fills, written = [], {v for _, v in here.writes}
            for value in dict.fromkeys(w for w in wanted if w.kind is Kind.ELEMENT and w not in computed):
                if value.op is FILL and (value not in self.home or value in written):
                    fills.append(value)
                else:
                    here.reads[value] = self.home[value]
            here.elements[:0] = fills

    def _result(self) -> Plan:
        given = dict.fromkeys(a for here in self.passes for node in here.opaque for a in node.inputs)
        inputs = {a: self.home[a] for a in given if a.kind is Kind.ELEMENT}
        storages = [s for here in self.passes for s in (*here.reads.values(), *(w for w, _ in here.writes))]
        storages += inputs.values()
        hosts = dict.fromkeys(a for n in self.nodes for a in n.args if isinstance(a, Number))
        return Plan(
            passes=self.passes,
            number_stores=[(s, v) for s, v in self.stores.items() if v.kind is not Kind.ELEMENT],
            storages={s: i for i, s in enumerate(dict.fromkeys(s for s in storages if s.place is not Place.RESULT))},
            hosts={number: i for i, number in enumerate(hosts)},
            meetings={meeting(n): self.done[n] for n in self.nodes if meeting(n) is not None},
            inputs=inputs,
        )


def by_opaque(value: Value) -> bool:
    """Whether it is memory that an opaque operation has written."""
    return value.op is WRITTEN and value.inputs[-1].op.role is OPAQUE


def meeting(node: Value) -> Any:
    """The name of what all buckets have to come together for; None of everything else."""
    if node.op.role is TOTAL:
        return node.attr
    return node.attr.key if node.op in (CHILD, RANDOM) else None
