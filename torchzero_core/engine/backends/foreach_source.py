"""Python source of a pass: a few ``torch._foreach`` calls over lists of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...lang.graph import Kind, Number, Place, Storage, Value
from ...lang.ops import ADAM, AMAX, DOT, FILL, LOAD, OPERATIONS, SUM, WRITTEN
from ..kernels import adam_update
from ..numbers import TORCH, compiled, literal
from ..plan import Pass, Plan

Tensors = list[Tensor]
ADD, SUB, MUL, DIV = (OPERATIONS[name] for name in ("add", "sub", "mul", "div"))
LERP = (OPERATIONS["lerp_start"], OPERATIONS["lerp_end"])
#: Operations whose foreach form takes one 0-d tensor for all.
TAKES_TENSOR = {ADD, MUL, DIV}
#: From this size on, a call of the vector library for each tensor beats one slower call for all.
DOT_ELEMENTS = 1 << 13

#: What a reduction leaves: a 0-d tensor for each tensor, and whether the number wanted is its square.
Parts = tuple[Tensors, bool]


def _sum(x: Tensors) -> Parts:
    return [t.sum(dtype=_wide(t)) for t in x], False


def _dot(x: Tensors, y: Tensors) -> Parts:
    first = x[0]
    full = first.dtype in (torch.float32, torch.float64)
    if full and first.is_cpu and first.numel() > DOT_ELEMENTS:
        return [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(x, y, strict=True)], False
    if x is y:  # one call for all tensors
        return list(torch._foreach_norm(x) if full else torch._foreach_norm(x, dtype=torch.float32)), True
    return _sum(list(torch._foreach_mul(x, y)))


def _amax(x: Tensors) -> Parts:
    return [t.amax() if t.numel() else t.new_full((), -torch.inf) for t in x], False


def _wide(t: Tensor) -> torch.dtype | None:
    return torch.float32 if t.dtype in (torch.bfloat16, torch.float16) else None


def slice_sum(x: Tensors, dims: list[list[int]]) -> Tensors:
    """The sum over each slice; new memory, also where a tensor has none of the dimensions."""
    return [t.sum(d, keepdim=True, dtype=_wide(t)) if d else t.clone() for t, d in zip(x, dims, strict=True)]


def slice_amax(x: Tensors, dims: list[list[int]]) -> Tensors:
    """The largest element of each slice; new memory, also where a tensor has none of the dimensions."""
    return [_largest(t, d) if d else t.clone() for t, d in zip(x, dims, strict=True)]


def _largest(t: Tensor, dims: list[int]) -> Tensor:
    if t.numel():
        return t.amax(dims, keepdim=True)
    return t.new_full([1 if d in dims else n for d, n in enumerate(t.shape)], -torch.inf)


NAMESPACE: dict[str, Any] = {
    **TORCH,
    "_sum": _sum,
    "_dot": _dot,
    "_amax": _amax,
    "_slice_sum": slice_sum,
    "_slice_amax": slice_amax,
    **{
        f"{op.foreach}{suffix}": getattr(torch, f"_foreach_{op.foreach}{suffix}")
        for op in OPERATIONS.values()
        for suffix in ("", "_")
        if op.foreach is not None
    },
    "copy_": torch._foreach_copy_,
    "addcdiv": torch._foreach_addcdiv,
    "addcdiv_": torch._foreach_addcdiv_,
    "addcmul": torch._foreach_addcmul,
    "addcmul_": torch._foreach_addcmul_,
    "adam_update": adam_update,
}


@dataclass(frozen=True)
class Memory:
    """In what values lie in memory, and in what they are computed: float32 at least.

    Attributes:
        dtype: of the parameters.
        state_dtype: of a state.
        rounded: new parameters go through ``R.store``.
    """

    dtype: torch.dtype
    state_dtype: Callable[[Storage], torch.dtype]
    rounded: bool = False

    @property
    def wide(self) -> torch.dtype:
        """The dtype of arithmetic."""
        return torch.float32 if self.dtype in (torch.bfloat16, torch.float16) else self.dtype

    def converted(self, storage: Storage) -> bool:
        """Whether what lies there has to be converted first."""
        return (self.state_dtype(storage) if storage.place is Place.STATE else self.dtype) is not self.wide


class Writer:
    """Writes pointwise operations on lists.

    Values per element and per slice are lists ``n<i>`` of tensors. So are numbers per tensor, and a global number is a
    0-d tensor, unless the host has the numbers: then they are lists of floats and floats. ``H`` holds host numbers.
    torch multiplies small tensors by a 0-d one of their own dtype in a third of the time that it takes with a number,
    so where :attr:`cells` says so, ``C`` has the host numbers as such ones, and ``K(i, T[i])`` those per tensor.

    Args:
        plan: the plan.
        ids: the number of each value.
        like: what to name a list of tensors shaped like the result.
        host: whether the host has the numbers.
    """

    def __init__(self, plan: Plan, ids: dict[Value, int], *, like: str, host: bool) -> None:
        self.plan, self.ids, self.like, self.host = plan, ids, like, host
        self.cells = self.uses_cells = False
        self.lines: list[str] = []

    def name(self, value: Value) -> str:
        """The variable that holds a value."""
        return f"n{self.ids[value]}"

    def operand(self, x: Any) -> tuple[str, str]:
        """Source and letter: L a list of tensors, F one of floats, G one 0-d tensor for a list, S a number."""
        if isinstance(x, Value):
            if x.kind is Kind.GLOBAL:
                return self.name(x), "S" if self.host else "G"
            return self.name(x), "F" if self.host and x.kind is Kind.TENSOR else "L"
        return (f"H[{self.plan.hosts[x]}]" if isinstance(x, Number) else literal(x)), "S"

    def each(self, node: Value, args: list[str], letters: str) -> str:
        """An operation tensor by tensor."""
        lists = [i for i, letter in enumerate(letters) if letter in "LF"]
        text = node.op.torch.format(*(f"a{i}" if i in lists else arg for i, arg in enumerate(args)))
        if len(lists) == 1:
            return f"[{text} for a{lists[0]} in {args[lists[0]]}]"
        return f"[{text} for {', '.join(f'a{i}' for i in lists)} in zip({', '.join(args[i] for i in lists)})]"

    def pointwise(self, node: Value, dying: Callable[[Value], bool]) -> Value | None:
        """Write one operation; the operand in whose memory it was done, if any."""
        operands = list(node.args)
        lists = [self.operand(a)[1] == "L" for a in operands]

        def can(i: int) -> bool:
            a = operands[i]
            return lists[i] and a.kind is node.kind and not a.mask and dying(a)

        op = node.op
        if op.commutative and all(lists) and not can(0) and can(1):
            operands.reverse()
        args, letters = zip(*map(self.operand, operands), strict=True)
        if op is FILL:
            text, first = self._fill(node, args[0], letters[0]), None
        elif op.foreach is None or letters[0] != "L" or (op in LERP and letters[1] != "L"):
            text, first = self.each(node, list(args), "".join(letters)), None
        else:
            first = operands[0] if can(0) else None
            if op in LERP and any(a is first for a in operands[1:]):
                first = None  # x·x in place is fine, a lerp towards itself is not
            last = args[-1]
            if self.cells and op is MUL and not operands[0].mask:
                if isinstance(operands[-1], Number):
                    last, self.uses_cells = f"C[{self.plan.hosts[operands[-1]]}]", True
                elif letters[-1] == "F":
                    i = self.ids[operands[-1]]
                    last = f"K({i}, T[{i}])"
            if letters[-1] == "G" and op not in TAKES_TENSOR:
                last = f"[{last}] * len({args[0]})"
            text = f"{op.foreach}{'_' if first is not None else ''}({', '.join([*args[:-1], last])})"
        self.lines.append(f"{self.name(node)} = {text}")
        return first

    def _fill(self, node: Value, value: str, letter: str) -> str:
        like = f"Z[{self.ids[node]}]" if node.kind is Kind.SLICE else self.like
        if letter == "F":
            return f"[torch.full_like(t, a, dtype=dtype) for t, a in zip({like}, {value})]"
        if letter == "L":
            return f"[torch.zeros_like(t, dtype=dtype) + a for t, a in zip({like}, {value})]"
        return f"[torch.zeros_like(t, dtype=dtype) + {value} for t in {like}]" if letter == "G" else (
            f"[torch.full_like(t, {value}, dtype=dtype) for t in {like}]"
        )  # fmt: skip

    def numbers(self, values: list[Value]) -> None:
        """Fetch numbers per slice, per tensor and for all."""
        for value in values:
            i = self.ids[value]
            if value.kind is Kind.SLICE:
                text = f"Z[{i}]" if value.mask else f"[t.to(dtype) for t in Z[{i}]]"
            else:
                text = f"T[{i}]" + (".tolist()" if self.host else "" if value.kind is Kind.GLOBAL else ".unbind()")
            self.lines.append(f"{self.name(value)} = {text}")


def write_slices(plan: Plan, here: Pass, ids: dict[Value, int], *, host: bool) -> Callable[..., None] | None:
    """The numbers per slice of a pass: ``f(H, T, Z, dtype)`` reads and writes ``Z[id]``, lists of tensors."""
    nodes = [n for n in here.slices if n.op is not LOAD]
    if not nodes:
        return None
    out = Writer(plan, ids, like="", host=host)
    mine = set(nodes)
    out.numbers(list(dict.fromkeys(a for n in nodes for a in n.inputs if a not in mine)))
    for node in nodes:
        out.pointwise(node, lambda a: False)
        out.lines.append(f"Z[{ids[node]}] = {out.name(node)}")
    return compiled("slices", "H, T, Z, dtype", out.lines, NAMESPACE)


def write_sweep(
    plan: Plan, here: Pass, ids: dict[Value, int], collect: Callable[..., Any], memory: Memory, *, host: bool
) -> Callable[..., Any] | None:
    """The sweep of one pass: ``f(E, H, T, Z, D, F, C, K, R)`` with lists of pieces; returns the partial reductions.

    ``E[i]`` belongs to the i-th storage of the plan; ``T`` has a node's numbers (one per piece, or one in all), ``Z``
    those per slice, ``D`` the dimensions of slices, ``F`` what opaque calls returned, and ``R`` rounds parameters.
    """
    if not here.sweeps:
        return None
    out = Sweep(plan, here, ids, memory, host=host)
    for i, node in enumerate(out.work):
        out.write(i, node)
    copies = [(s, v) for s, v in here.writes if (s, v) not in out.placed]
    for i, (_, value) in enumerate(copies):
        if here.reads.get(value) in [s for s, _ in copies[:i]]:  # its memory gets something else before it is copied
            out.lines.append(f"{out.name(value)} = [t.clone() for t in {out.name(value)}]")
    for storage, value in copies:
        write = "R.store" if memory.rounded and storage.place is Place.PARAM else "copy_"
        out.lines.append(f"{write}({out.memory(storage)}, {out.name(value)})")
    whole = [n for n in here.element_reductions if n.kind is Kind.TENSOR]
    sliced = [n for n in here.element_reductions if n.kind is Kind.SLICE]
    parts = ", ".join(map(out.name, whole))
    out.lines.append(f"return {f'collect({parts})' if parts else '()'}, [{', '.join(map(out.name, sliced))}]")
    sweep = compiled("sweep", "E, H, T, Z, D, F, C, K, R", out.lines, {**NAMESPACE, "collect": collect})
    sweep.uses_cells = out.uses_cells  # type: ignore[attr-defined]
    return sweep


class Sweep(Writer):
    """Writes the work on elements, in place of what is no longer needed.

    Attributes:
        work: what is computed, in order.
        last: the last work that reads a value.
        targets: where a value is written to.
        lies: the storage whose memory a value is.
        lent: lists that are another value's memory by now.
        placed: writes that are done because the value was computed in place.
    """

    def __init__(self, plan: Plan, here: Pass, ids: dict[Value, int], memory: Memory, *, host: bool) -> None:
        super().__init__(plan, ids, like="LIKE", host=host)
        self.cells = host
        self.here = here
        self.work = [*here.elements, *here.element_reductions]
        self.lines += [f"LIKE = E[{plan.like}]", f"dtype = {memory.wide}"]
        for value, storage in here.reads.items():
            result = storage.place is Place.RESULT
            self.lines.append(f"{self.name(value)} = {f'F[{ids[value]}]' if result else self.memory(storage)}")
            if value.mask:
                self.lines.append(f"{self.name(value)} = [t != 0 for t in {self.name(value)}]")
            elif memory.converted(storage):
                self.lines.append(f"{self.name(value)} = [t.to(dtype) for t in {self.name(value)}]")
        self.numbers(here.numbers_for_elements())
        self.last = {a: i for i, node in enumerate(self.work) for a in node.inputs}
        self.targets: dict[Value, list[Storage]] = {}
        for storage, value in here.writes:
            self.targets.setdefault(value, []).append(storage)
        self.written = {storage for storage, _ in here.writes}
        self.lies = {v: s for v, s in here.reads.items() if v.mask or not memory.converted(s)}
        self.lent: set[Value] = set()
        self.placed: set[tuple[Storage, Value]] = set()
        later = plan.passes[plan.passes.index(here) + 1 :]
        self.needed_later = set(plan.inputs).union(*(other.reads for other in later))
        self.sums = self._multiply_adds()
        self.inside = {x for parts in self.sums.values() for x in parts[1:] if x is not None}

    def memory(self, storage: Storage) -> str:
        """The list of pieces of a storage."""
        return f"E[{self.plan.storages[storage]}]"

    def write(self, i: int, node: Value) -> None:
        """Write one operation and forget what it was the last to need."""
        if node in self.inside:
            return
        if node.op in (SUM, DOT, AMAX):
            args = list(map(self.name, node.inputs))
            if node.kind is Kind.SLICE:
                args.append(f"D[{self.ids[node]}]")
            kind = "slice_" if node.kind is Kind.SLICE else ""
            self.lines.append(f"{self.name(node)} = _{kind}{node.op}({', '.join(args)})")
            return
        self.now = i
        if node.op is ADAM:
            self._adam(node)
            base = None
        elif node.op is WRITTEN:  # by a kernel, where its first operand lay
            base = node.inputs[0]
            self.lines.append(f"{self.name(node)} = {self.name(base)}")
        elif node in self.sums:
            base = self._sum(node)
        else:
            base = self.pointwise(node, lambda a: self._dying(a, node))
        if base is not None:
            self.lent.add(base)
            if base in self.lies:
                self.placed.add((self.lies[base], node))
                self.lies[node] = self.lies[base]
        self._forget(i, node)

    def _forget(self, i: int, node: Value) -> None:
        parts = [node, *(x for x in self.sums.get(node, ())[1:] if x is not None)]
        for a in dict.fromkeys(a for n in parts for a in n.inputs):
            unused = a.kind is Kind.ELEMENT and self.last.get(a, -1) <= i
            if unused and not (a in self.inside or a in self.lent or a in self.targets or a in self.here.reads):
                self.lines.append(f"{self.name(a)} = None")

    def _dying(self, a: Value, node: Value) -> bool:
        """May ``node`` overwrite ``a``? A temporary yes; a state when this is its new value."""
        if self.last.get(a, -1) > self.now or a in self.lent or (a in self.targets and a not in self.lies):
            return False
        storage = self.lies.get(a)
        if storage is None:
            return True
        if storage.place is Place.WORK and storage not in self.written:
            return a not in self.needed_later and a not in self.targets
        # its memory gets a new value in this pass, so nobody needs what it holds now
        targets = self.targets.get(node, ())
        return storage in self.written and a not in self.targets and all(s == storage for s in targets)

    def _adam(self, node: Value) -> None:
        free = (
            s
            for s in self.targets.get(node, ())
            if s.place in (Place.WORK, Place.OUT) and s not in self.here.reads.values()
        )
        home = next(free, None)
        like = self.name(node.inputs[1])  # laid out as its parameter
        memory = f"[torch.empty_like(t) for t in {like}]" if home is None else self.memory(home)
        args = ", ".join(self.operand(a)[0] for a in node.args)
        self.lines.append(f"{self.name(node)} = adam_update({memory}, {args})")
        if home is not None:
            self.placed.add((home, node))
            self.lies[node] = home

    # -- a ± b·number, a ± b/c·number and a ± b·c·number in one call -------------------------------------------------
    def _multiply_adds(self) -> dict[Value, tuple[Value, Value, Value | None]]:
        """The sums that are one call where nothing else uses what is added: (a, scaled, quotient or product in it)."""
        self.uses: dict[Value, int] = {}
        self.own = set(self.here.elements)
        for node in self.work:
            for a in node.inputs:
                self.uses[a] = self.uses.get(a, 0) + 1
        found: dict[Value, tuple[Value, Value, Value | None]] = {}
        for i, node in enumerate(self.here.elements):
            if node.op not in (ADD, SUB) or not all(isinstance(a, Value) and a.kind is Kind.ELEMENT for a in node.args):
                continue
            a, b = node.args
            if node.op is ADD and not self._scaled(b) and self._scaled(a):
                a, b = b, a
            if not self._scaled(b) or a is b:
                continue
            factor = b.inputs[0]
            pair = factor if self._pair(factor) else None
            found[node] = (a, b, pair)
            for operand in (*b.inputs, *(pair.inputs if pair is not None else ())):
                self.last[operand] = max(self.last.get(operand, -1), i)
        return found

    def _alone(self, x: Value) -> bool:
        return x in self.own and self.uses[x] == 1 and x not in self.targets

    def _scaled(self, x: Value) -> bool:
        return x.op is MUL and self._alone(x) and [a.kind for a in x.inputs] == [Kind.ELEMENT]

    def _pair(self, x: Value) -> bool:
        if x.op not in (DIV, MUL) or not self._alone(x) or len(x.inputs) != 2:
            return False
        return all(a.kind is Kind.ELEMENT and not a.mask for a in x.inputs)

    def _sum(self, node: Value) -> Value | None:
        base, scaled, pair = self.sums[node]
        factor, scale = scaled.args  # the value stands first
        place = self._dying(base, node) and factor is not base
        sign = "-" if node.op is SUB else ""
        number, end = self.operand(scale)[0], "_" if place else ""
        if pair is not None:
            name, (one, other) = "addcdiv" if pair.op is DIV else "addcmul", map(self.name, pair.inputs)
            text = f"{name}{end}({self.name(base)}, {one}, {other}, value={sign}{number})"
        else:
            text = f"add{end}({self.name(base)}, {self.name(factor)}, alpha={sign}{number})"
        self.lines.append(f"{self.name(node)} = {text}")
        return base if place else None
