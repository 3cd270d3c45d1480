"""Cut the graph of a rule into passes over memory.

Pointwise operations follow one another without touching memory; a reduction ends a pass, because what depends on its
result needs all of the data first. Level ``k`` of a :class:`Plan` is one pass: scalar work, one sweep over the
elements, then the reductions and the opaque calls (per-dimension norms, modules that are no rules) at its end.
What a later pass needs of an earlier one and what no state holds anyway is kept in a workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lang.graph import Host, Trace, Value, source

REDUCTIONS = {"sum", "dot", "amax"}
TOTALS = {"total", "global_max"}
OPAQUE = {"apply", "child"}
#: Operations that may be done twice.
CHEAP = {"load", "fill", "add", "sub", "mul", "div", "neg", "abs", "sqrt", "lerp", "lerp_end", "maximum", "minimum"}
#: Where a value lives: ("p",), ("g",), ("u",), ("out",), ("state", rule, name), ("global", rule, name), ("work", i), or
#: ("fresh", node) for what an opaque call returned.
Storage = tuple[Any, ...]


@dataclass
class Level:
    """One pass: what is computed, from where it is read and to where it is written."""

    scalars: list[Value] = field(default_factory=list)
    elements: list[Value] = field(default_factory=list)
    reads: dict[Value, Storage] = field(default_factory=dict)
    writes: list[tuple[Storage, Value]] = field(default_factory=list)
    reductions: list[Value] = field(default_factory=list)
    totals: list[Value] = field(default_factory=list)
    opaque: list[Value] = field(default_factory=list)


@dataclass
class Plan:
    """The passes of a graph.

    Attributes:
        levels: the passes in order.
        scalar_stores: states of one number per tensor or in all, written after the last pass.
        storages: every element storage that is read or written.
        workspaces: how many parameter-sized workspaces the passes need.
        hosts: the host numbers, as source, in the order in which backends index them.
        total_levels: for each total, the level at whose end it is taken; equal for all buckets of a segment.
        opaque_inputs: where the arguments of opaque calls lie when these are made.
    """

    levels: list[Level]
    scalar_stores: list[tuple[Storage, Value]]
    storages: list[Storage]
    workspaces: int
    hosts: list[str]
    total_levels: dict[Any, int]
    opaque_inputs: dict[Value, Storage]

    def host_index(self, host: Host) -> int:
        """The index of a host number."""
        return self.hosts.index(host.code)


def make_plan(trace: Trace, at_least: Mapping[Any, int] | None = None, *, recompute: bool = False) -> Plan:
    """Plan the passes of a traced graph.

    Args:
        trace: the graph.
        at_least: levels before which a total (or child) must not be taken, so that the buckets of a segment agree.
        recompute: what a later pass needs is computed again where that reads less than a workspace costs.
    """
    at_least = at_least or {}
    stores = {s: v for s, v in trace.stores.items() if not (v.op == "load" and v.attr == s)}
    nodes = _live(trace, stores)
    ready: dict[Value, int] = {}  # the first level whose pass can use the value
    done: dict[Value, int] = {}  # the level at which it is computed
    for node in nodes:
        start = max((ready[a] for a in node.args if isinstance(a, Value)), default=0)
        barrier = node.op in REDUCTIONS or node.op in TOTALS or node.op in OPAQUE
        if node.op in TOTALS and node.args[0].op in REDUCTIONS:
            start = done[node.args[0]]  # partial sums are added up right after the pass that makes them
        if barrier and node.attr is not None:
            start = max(start, at_least.get(node.attr, 0))
        done[node] = start
        ready[node] = start + barrier

    users: dict[Value, list[Value]] = {}
    for node in nodes:
        for a in node.args:
            if isinstance(a, Value):
                users.setdefault(a, []).append(node)
    _sink(nodes, users, stores, ready, done)

    def last_use(value: Value) -> int:
        return max((_needs_at(n, done) for n in users.get(value, ())), default=0)

    store_level = {}
    for storage, value in stores.items():
        old = trace.loads.get(storage)
        store_level[storage] = max(ready[value], last_use(old) if old in done else 0)

    count = 1 + max(
        [*done.values(), *(ready[n] for n in nodes if n.op not in TOTALS | REDUCTIONS), *store_level.values(), 0]
    )
    levels = [Level() for _ in range(count)]
    home: dict[Value, Storage] = {}  # where a value can be read after the pass that computes it
    for storage, value in stores.items():
        if value.kind == "element" and store_level[storage] == ready[value] and value.op not in OPAQUE:
            home.setdefault(value, storage)

    # Which values have to be kept for later passes, and for how long.
    keep: list[tuple[int, int, Value]] = []
    for node in nodes:
        if node.kind != "element":
            continue
        if node.op == "load":
            home[node] = node.attr
        elif node.op in OPAQUE:
            home[node] = ("fresh", node)
        elif node not in home and (node.op != "fill" or any(n.op in OPAQUE for n in users.get(node, ()))):
            last = max([last_use(node), *(store_level[s] for s, v in stores.items() if v is node)])
            if last > done[node]:
                keep.append((done[node], last, node))
    recipes: dict[Value, set[Value]] = {}
    if recompute:
        for begin, last, node in keep:
            recipe = _recipe(node, home, stores) if all(done[n] in (begin, last) for n in users[node]) else None
            if recipe is not None and not any(n.op in OPAQUE for n in users[node]):
                recipes[node] = recipe
        keep = [item for item in keep if item[2] not in recipes]
    workspaces: list[int] = []  # until which level each is taken
    for begin, last, node in sorted(keep, key=lambda item: item[0]):
        index = next((i for i, until in enumerate(workspaces) if until < begin), len(workspaces))
        workspaces[index : index + 1] = [last]
        home[node] = ("work", index)
        levels[begin].writes.append((("work", index), node))

    for node in nodes:
        level = levels[done[node]]
        if node.op in REDUCTIONS:
            level.reductions.append(node)
        elif node.op in TOTALS:
            level.totals.append(node)
        elif node.op in OPAQUE:
            level.opaque.append(node)
        elif node.op in {"load", "fill"} and node.kind == "element":
            continue
        elif node.kind == "element":
            level.elements.append(node)
        else:
            level.scalars.append(node)
    for storage, value in stores.items():
        if value.kind == "element":
            levels[store_level[storage]].writes.append((storage, value))

    for k, level in enumerate(levels):
        wanted = [a for n in (*level.elements, *level.reductions) for a in n.args]
        wanted += [v for _, v in level.writes]
        computed = set(level.elements)
        again = set().union(
            *(recipes[w] for w in wanted if isinstance(w, Value) and w in recipes and w not in computed)
        )
        level.elements[:0] = [n for n in nodes if n in again]
        wanted += [a for n in again for a in n.args]
        computed |= again
        fills = []
        for value in dict.fromkeys(w for w in wanted if isinstance(w, Value) and w.kind == "element"):
            if value in computed:
                continue
            if value.op == "fill":
                fills.append(value)
            else:
                level.reads[value] = home[value]
        level.elements[:0] = fills
        for node in level.opaque:
            for a in node.args:
                if isinstance(a, Value) and a.kind == "element" and a not in home:
                    raise AssertionError(f"{a} has no storage at the end of level {k}")

    storages = list(
        dict.fromkeys(
            s for level in levels for s in (*level.reads.values(), *(w for w, _ in level.writes)) if s[0] != "fresh"
        )
    )
    given = dict.fromkeys(a for level in levels for node in level.opaque for a in node.args if isinstance(a, Value))
    storages += [s for s in dict.fromkeys(home[a] for a in given) if s[0] != "fresh" and s not in storages]
    hosts = list(dict.fromkeys(source(a) for n in nodes for a in n.args if isinstance(a, Host)))
    scalar_stores = [(s, v) for s, v in stores.items() if v.kind != "element"]
    total_levels = {n.attr: done[n] for n in nodes if (n.op in TOTALS or n.op == "child")}
    return Plan(levels, scalar_stores, storages, len(workspaces), hosts, total_levels, {a: home[a] for a in given})


def _live(trace: Trace, stores: Mapping[Storage, Value]) -> list[Value]:
    """The nodes that some store depends on, in the order in which they were traced."""
    live: set[Value] = set()
    stack = list(stores.values()) + [n for n in trace.nodes if n.op == "child"]
    while stack:
        node = stack.pop()
        if node not in live:
            live.add(node)
            stack.extend(a for a in node.args if isinstance(a, Value))
    return [n for n in trace.nodes if n in live]


def _sink(
    nodes: list[Value],
    users: Mapping[Value, list[Value]],
    stores: Mapping[Storage, Value],
    ready: dict[Value, int],
    done: dict[Value, int],
) -> None:
    """Compute what only a later pass wants in that pass, where it comes from memory that is still as it was."""
    stored = set(stores.values())
    for node in reversed(nodes):
        if node.kind != "element" or node in stored or node.op == "load" or node.op in OPAQUE or not users.get(node):
            continue
        wanted = min(done[n] for n in users[node])
        if wanted <= done[node]:
            continue
        if all(_intact(a, wanted, stores, ready) for a in node.args if isinstance(a, Value) and a.kind == "element"):
            done[node] = ready[node] = wanted


def _recipe(node: Value, home: Mapping[Value, Storage], stores: Mapping[Storage, Value]) -> set[Value] | None:
    """What has to be computed again to have ``node`` in a later pass, if that is cheaper than to keep it.

    A workspace costs 12 bytes an element: it is fetched to be written, written back, and read. A state that holds an
    input by then costs 4.
    """
    recipe, inputs, pending = {node}, set(), [a for a in node.args if isinstance(a, Value)]
    while pending:
        value = pending.pop()
        if value.kind != "element" or value in recipe:
            continue
        storage = home.get(value)
        if storage is not None and stores.get(storage) is value:
            inputs.add(value)
        elif value.op in CHEAP and not (value.op == "load" and value.attr in stores):
            if value.op == "load":
                inputs.add(value)
            else:
                recipe.add(value)
                pending += [a for a in value.args if isinstance(a, Value)]
        else:
            return None
    return recipe if len(inputs) <= 2 and len(recipe) <= 8 and node.op in CHEAP else None


def _intact(value: Value, level: int, stores: Mapping[Storage, Value], ready: Mapping[Value, int]) -> bool:
    if value.op == "fill":
        return True
    if value.op != "load":
        return False
    new = stores.get(value.attr)
    return new is None or ready[new] >= level


def _needs_at(user: Value, done: Mapping[Value, int]) -> int:
    """The last level whose stores would destroy what ``user`` reads: an opaque call reads after its level's pass."""
    return done[user] + (user.op in OPAQUE)
