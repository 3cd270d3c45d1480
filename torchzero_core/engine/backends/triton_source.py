"""Triton source of a plan: each pass is one kernel over all tensors, which are rows of a table of pointers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ...lang.graph import WHERE, Dims, Kind, Number, Place, Storage, Value
from ...lang.ops import AMAX
from ..plan import Pass, Plan
from ..runner import Unsupported

TYPES = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
    torch.bool: "tl.int8",
}
#: Pointers that are multiples of this many bytes are read with the widest loads.
ALIGNMENT = 16

PRELUDE = """
@triton.jit
def largest(x):
    nan = tl.max((x != x).to(tl.int32), 0)
    return tl.where(nan > 0, float("nan"), tl.max(x, 0))
"""


@dataclass
class Sweep:
    """What the kernels of a pass do.

    Attributes:
        here: the pass.
        writes: what is written to memory, the operands of the reductions to slices among it.
        whole: the reductions to numbers per tensor, which the kernels do.
        sliced: the reductions to numbers per slice, which torch does afterwards, and where their operands lie by then.
        numbers: the numbers per tensor and for all that the elements use, each an argument of the kernel.
        slices: the numbers per slice that the elements use.
    """

    here: Pass
    writes: list[tuple[Storage, Value]]
    whole: list[Value]
    sliced: list[tuple[Value, Storage]]
    numbers: list[Value]
    slices: list[Value]

    @property
    def runs(self) -> bool:
        """Whether there is anything to do for a kernel."""
        return bool(self.writes or self.whole)

    @property
    def storages(self) -> list[Storage]:
        """What it reads and writes."""
        return list(dict.fromkeys([*self.here.reads.values(), *(s for s, _ in self.writes)]))


class Source:
    """The Triton source of a plan for one dtype.

    Pass ``k`` is the kernel ``sweep<k>``. Where it ends in reductions it leaves one number for each block, and the
    kernel ``finish<k>`` adds up the blocks of each tensor.

    Args:
        plan: the passes.
        ids: the number of each value, from which its name in the source is made.
        dtype: the dtype of the parameters. Arithmetic is in float32 at least.
        state_dtype: that of a state.

    Attributes:
        rows: of the table, by the storage whose pointers they are; first those of the plan, in its order.
        lists: of the table, by the numbers per slice whose pointers they are.
        shapes: of the table, two for each way to cut tensors into slices: how many elements a run of slices has, and
            how far apart those of one slice lie.
        height: the number of rows.
        scratch: the rows of further workspaces, for operands of reductions to slices that lie nowhere.
        sweeps: the kernels of each pass.

    Raises:
        Unsupported: something in the plan has no Triton form.
    """

    def __init__(
        self, plan: Plan, ids: dict[Value, int], dtype: torch.dtype, state_dtype: Callable[[Storage], torch.dtype]
    ) -> None:
        self.plan, self.ids, self.dtype, self.state_dtype = plan, ids, dtype, state_dtype
        self.stored = TYPES[dtype]
        self.real = "tl.float64" if dtype == torch.float64 else "tl.float32"
        self.first_scratch = 1 + max((s.rule for s in plan.storages if s.place is Place.WORK), default=-1)
        self.sweeps = [self._sweep(here) for here in plan.passes]
        used = [s for sweep in self.sweeps for s in sweep.storages]  # those of opaque calls and the scratch among them
        self.rows = {s: i for i, s in enumerate(dict.fromkeys((*plan.storages, *used)))}
        self.scratch = {s: i for s, i in self.rows.items() if s.place is Place.WORK and s not in plan.storages}
        slices = list(dict.fromkeys(x for sweep in self.sweeps for x in sweep.slices))
        self.lists = {x: len(self.rows) + i for i, x in enumerate(slices)}
        shapes = dict.fromkeys(x.dims for x in slices if x.dims is not None)
        self.shapes: dict[Dims, int] = {d: len(self.rows) + len(slices) + 2 * i for i, d in enumerate(shapes)}
        self.height = len(self.rows) + len(slices) + 2 * len(shapes)

    def _sweep(self, here: Pass) -> Sweep:
        writes, sliced = list(here.writes), []
        for node in here.element_reductions:
            if node.kind is Kind.SLICE:
                [operand] = node.inputs
                home = self._lies(here, writes, operand)
                if home is None:
                    home = Storage(Place.WORK, self.first_scratch + len(writes) - len(here.writes))
                    writes.append((home, operand))
                sliced.append((node, home))
        whole = [n for n in here.element_reductions if n.kind is not Kind.SLICE]
        used = dict.fromkeys(a for n in (*here.elements, *whole) for a in n.inputs if a.kind is not Kind.ELEMENT)
        numbers = [a for a in used if a.kind is not Kind.SLICE]
        return Sweep(here, writes, whole, sliced, numbers, [a for a in used if a.kind is Kind.SLICE])

    def _lies(self, here: Pass, writes: list[tuple[Storage, Value]], value: Value) -> Storage | None:
        """Where a value lies after the kernels of a pass, in the dtype of the parameters at least."""
        overwritten = {s for s, _ in here.writes}
        places = [s for s, v in writes if v is value]
        places += [s for v, s in here.reads.items() if v is value and s not in overwritten]
        return next((s for s in places if self.type_of(s) in (self.stored, self.real)), None)

    # -- expressions -------------------------------------------------------------------------------------------------
    def type_of(self, storage: Storage) -> str:
        """The type of what a row points to."""
        dtype = self.state_dtype(storage) if storage.place is Place.STATE else self.dtype
        if dtype not in TYPES:
            raise Unsupported(f"a state of {dtype} is not supported")
        return TYPES[dtype]

    def operand(self, x: Any, *, mask: bool = False) -> str:
        """The name or literal of an operand; of a number, whether it is not zero if ``mask``."""
        if isinstance(x, Value):
            return f"n{self.ids[x]}"
        if isinstance(x, Number):
            text = f"h{self.plan.hosts[x]}"
        else:
            x = float(x)
            word = repr(x) if math.isfinite(x) else f"float('{x}')"
            text = f"tl.full((), {word}, {self.real})"  # a bare literal would be rounded to float32
        return f"({text} != 0)" if mask else text

    def expression(self, node: Value) -> str:
        """The expression of a pointwise operation, or of what a reduction reduces.

        Raises:
            Unsupported: it has no Triton form.
        """
        op = node.op
        single = op.triton_single if self.real == "tl.float32" else None
        text = op.triton if single is None else single
        if not text:
            raise Unsupported(f"the CUDA backend has no operation {op.name!r}")
        masks = [op.logical or (op is WHERE and i == 0) for i in range(len(node.args))]
        return text.format(*(self.operand(x, mask=mask) for x, mask in zip(node.args, masks, strict=True)))

    def _fetched(self, value: Value, pointer: str, mask: str = "") -> str:
        """The line that loads a value."""
        cast = " != 0" if value.mask else f".to({self.real})"
        return f"n{self.ids[value]} = tl.load({pointer}{mask}){cast}"

    # -- kernels -----------------------------------------------------------------------------------------------------
    def _hosts(self, nodes: Iterable[Value]) -> list[str]:
        hosts = dict.fromkeys(self.plan.hosts[a] for n in nodes for a in n.args if isinstance(a, Number))
        return [f"h{i} = tl.load(H + {i}).to({self.real})" for i in hosts]

    def _pointers(self, sweep: Sweep) -> list[str]:
        """The pointers to the elements of a block."""
        lines = []
        for s in sweep.storages:
            row = self.rows[s]
            lines.append(f"p{row} = tl.load(P + {row} * nt + t).to(tl.pointer_type({self.type_of(s)}))")
            if s.at < 0:  # places of a ring begin anywhere
                lines += ["if ALIGNED:", f"    p{row} = tl.multiple_of(p{row}, {ALIGNMENT})"]
            lines.append(f"p{row} = p{row} + start + lane")
        return lines

    def _slices(self, sweep: Sweep) -> list[str]:
        """The numbers per slice of a block. Only its first element's place is worked out in 64 bits, which are slow."""
        lines = []
        for dims in dict.fromkeys(x.dims for x in sweep.slices if x.dims is not None):
            d = self.shapes[dims]
            lines += [
                f"run{d} = tl.load(P + {d} * nt + t)",
                f"inner{d} = tl.load(P + {d + 1} * nt + t)",
                f"o{d} = (start % run{d}).to(tl.int32) + lane",
                f"at{d} = o{d} // run{d}.to(tl.int32) * inner{d}.to(tl.int32) + o{d} % inner{d}.to(tl.int32)",
                f"at{d} = start // run{d} * inner{d} + at{d}",
            ]
        for x in sweep.slices:
            assert x.dims is not None
            row, kind = self.lists[x], "tl.int8" if x.mask else self.real
            lines.append(f"z{row} = tl.load(P + {row} * nt + t).to(tl.pointer_type({kind})) + at{self.shapes[x.dims]}")
            lines.append(self._fetched(x, f"z{row}", ", mask=mask"))
        return lines

    def _reductions(self, sweep: Sweep) -> list[str]:
        lines = []
        for r, node in enumerate(sweep.whole):
            a = self.expression(node)
            if node.op is AMAX:
                text = f"largest(tl.where(live, {a}, float('-inf')))"
            else:
                text = f"tl.sum(tl.where(live, {a}, 0.0), 0)"
            lines.append(f"tl.store(R + {r} * nb + b, {text})")
        return lines

    def _write(self, storage: Storage, value: Value) -> str:
        return f"tl.store(p{self.rows[storage]}, ({self.operand(value)}).to({self.type_of(storage)}), mask=mask)"

    def sweep(self, k: int) -> str:
        """The kernel of pass ``k``."""
        sweep, names = self.sweeps[k], self.ids
        lines = self._hosts([*sweep.here.elements, *sweep.whole])
        for x in sweep.numbers:
            lines.append(self._fetched(x, f"s{names[x]}{' + t' if x.kind is Kind.TENSOR else ''}"))
        lines += self._pointers(sweep)
        lines += self._slices(sweep)
        lines += [self._fetched(v, f"p{self.rows[s]}", ", mask=mask") for v, s in sweep.here.reads.items()]
        lines += [f"n{names[node]} = {self.expression(node)}" for node in sweep.here.elements]
        lines += self._reductions(sweep)
        lines += [self._write(s, value) for s, value in sweep.writes]
        body = "\n".join(f"    {line}" for line in lines)
        extra = "".join(f", s{names[x]}" for x in sweep.numbers)
        # A block that is full needs no mask, and without one the loads can be wide.
        return f"""
@triton.jit
def body{k}(P, H, R, nt, nb, b, t, start, left{extra},
            ALIGNED: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    live = lane < left
    mask = live if MASKED else None
{body}

@triton.jit(do_not_specialize={_quoted(f"P, H, TENSOR, INDEX, NUMEL, R, nt, nb{extra}")})
def sweep{k}(P, H, TENSOR, INDEX, NUMEL, R, nt, nb{extra}, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    t = tl.load(TENSOR + b)
    start = tl.load(INDEX + b).to(tl.int64) * BLOCK
    left = tl.load(NUMEL + t) - start
    if left >= BLOCK:
        body{k}(P, H, R, nt, nb, b, t, start, left{extra}, ALIGNED, False, BLOCK)
    else:
        body{k}(P, H, R, nt, nb, b, t, start, left{extra}, ALIGNED, True, BLOCK)
"""

    def finish(self, k: int) -> str:
        """The kernel that adds up what the blocks of each tensor have left."""
        whole = self.sweeps[k].whole
        begin, loop, end = [], [], []
        for r, node in enumerate(whole):
            if node.op is AMAX:
                begin.append(f"s{r} = tl.full([BLOCK], float('-inf'), {self.real})")
                loop.append(f"x = tl.load(R + {r} * nb + i + lane, mask=live, other=float('-inf'))")
                loop.append(f"s{r} = tl.where((x > s{r}) | (x != x), x, s{r})")
                end.append(f"tl.store(o{r} + t, largest(s{r}))")
            else:
                begin.append(f"s{r} = tl.zeros([BLOCK], tl.float64)")
                loop.append(f"s{r} += tl.load(R + {r} * nb + i + lane, mask=live, other=0.0).to(tl.float64)")
                end.append(f"tl.store(o{r} + t, tl.sum(s{r}, 0).to({self.real}))")
        outs = "".join(f", o{r}" for r in range(len(whole)))
        indented = "\n        ".join(loop)
        return f"""
@triton.jit(do_not_specialize={_quoted(f"FIRST, R, nb{outs}")})
def finish{k}(FIRST, R, nb{outs}, BLOCK: tl.constexpr):
    t = tl.program_id(0)
    first = tl.load(FIRST + t)
    last = tl.load(FIRST + t + 1)
    lane = tl.arange(0, BLOCK)
    {_joined(begin)}
    for i in range(first, last, BLOCK):
        live = i + lane < last
        {indented}
    {_joined(end)}
"""

    def text(self) -> str:
        """All of it."""
        parts = [PRELUDE]
        for k, sweep in enumerate(self.sweeps):
            if sweep.runs:
                parts.append(self.sweep(k))
            if sweep.whole:
                parts.append(self.finish(k))
        return "".join(parts)


def _quoted(names: str) -> str:
    return repr(names.split(", "))


def _joined(lines: list[str]) -> str:
    return "\n    ".join(lines)
