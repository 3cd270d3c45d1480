"""The CUDA backend: each pass becomes one Triton kernel over all tensors.

The source is generated from the plan. A kernel gets a table of pointers, so that nothing is flattened or copied and
one launch serves any number of tensors: the tensors are cut into blocks, and each program of the kernel works on one
block. Host numbers (learning rates, bias corrections) lie in the same table, because Triton would round a Python
number to float32 and compile again for some integers; so no schedule compiles anything. Sums are taken per block and
then per tensor, in the same order every time. Numbers per tensor are computed by torch on the device, as in the
eager backend, and nothing here waits for the device.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...lang.graph import Host, Value
from ..plan import Level, Plan, Storage
from ..runner import Unsupported
from .foreach import COMPARE, EagerRunner

TYPES = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}
INFIX = {"add": "+", "sub": "-", "mul": "*"}
LOGICAL = {"and", "or", "not"}
#: Elements that one program of a kernel works on: eight for each of the 128 threads, two loads of 16 bytes in float32.
BLOCK = 1024
#: Pointers that are multiples of this many bytes are read with the widest loads.
ALIGNMENT = 16
#: What every launch gets. Each operation is rounded by itself, as in the eager backend.
OPTIONS = {"BLOCK": BLOCK, "enable_fp_fusion": False}

PRELUDE = """
@triton.jit
def largest(x):
    nan = tl.max((x != x).to(tl.int32), 0)
    return tl.where(nan > 0, float("nan"), tl.max(x, 0))
"""


class Source:
    """The Triton source of a plan for one dtype.

    Pass ``k`` is the kernel ``sweep<k>``. Where it ends in reductions it leaves one number for each block, and the
    kernel ``finish<k>`` adds up the blocks of each tensor.

    Args:
        plan: the passes.
        ids: the number of each value, from which its name in the source is made.
        dtype: the dtype of the parameters. Arithmetic is in float32 at least.

    Attributes:
        slots: the rows of the table of pointers.
    """

    def __init__(self, plan: Plan, ids: dict[Value, int], dtype: torch.dtype) -> None:
        self.plan, self.ids = plan, ids
        self.stored = TYPES[dtype]
        self.real = "tl.float64" if dtype == torch.float64 else "tl.float32"
        self.slots: dict[Storage, int] = {s: i for i, s in enumerate(plan.storages)}
        for level in plan.levels:
            for storage in level.reads.values():
                self.slots.setdefault(storage, len(self.slots))  # what opaque calls return

    # -- expressions -------------------------------------------------------------------------------------------------
    def operand(self, x: Any, *, mask: bool = False) -> str:
        """The name or literal of an operand, as a truth value if ``mask``, else as a number."""
        if isinstance(x, Value):
            name = f"n{self.ids[x]}"
            if x.mask == mask:
                return name
            return f"({name} != 0)" if mask else f"{name}.to({self.real})"
        if isinstance(x, Host):
            text = f"h{self.plan.host_index(x)}"
        else:
            x = float(x)
            literal = repr(x) if math.isfinite(x) else f"float('{x}')"
            text = f"tl.full((), {literal}, {self.real})"  # a bare literal would be rounded to float32
        return f"({text} != 0)" if mask else text

    def expression(self, node: Value) -> str:
        """The expression of a pointwise operation.

        Raises:
            Unsupported: it has no Triton form.
        """
        op = node.op
        a = [self.operand(x, mask=op in LOGICAL or (op == "where" and i == 0)) for i, x in enumerate(node.args)]
        single = self.real == "tl.float32"  # Triton's plain float32 division and root are not rounded correctly
        if op in INFIX:
            return f"{a[0]} {INFIX[op]} {a[1]}"
        if op in COMPARE:
            return f"{a[0]} {COMPARE[op]} {a[1]}"
        if op == "div":
            return f"tl.div_rn({a[0]}, {a[1]})" if single else f"{a[0]} / {a[1]}"
        if op == "sqrt":
            return f"tl.sqrt_rn({a[0]})" if single else f"tl.sqrt({a[0]})"
        if op in {"exp", "log", "pow", "copysign"}:
            return f"libdevice.{op}({', '.join(a)})"
        if op in {"maximum", "minimum"}:
            sign = ">" if op == "maximum" else "<"
            return f"tl.where(({a[0]} {sign} {a[1]}) | ({a[0]} != {a[0]}), {a[0]}, {a[1]})"  # NaN where either is
        text = {
            "abs": "tl.abs({0})",
            "neg": "-{0}",
            "sign": "({0} > 0).to({real}) - ({0} < 0).to({real})",
            "not": "{0} == 0",
            "isfinite": "({0} - {0}) == 0",
            "where": "tl.where({0}, {1}, {2})",
            "lerp": "{0} + {2} * ({1} - {0})",
            "lerp_end": "{1} - (1 - {2}) * ({1} - {0})",
            "fill": "{0}",
        }.get(op)
        if text is None:
            raise Unsupported(f"the CUDA backend has no operation {op!r}")
        return text.format(*a, real=self.real)

    # -- kernels -----------------------------------------------------------------------------------------------------
    def numbers(self, level: Level) -> list[Value]:
        """The numbers per tensor and for all tensors that a sweep takes, each as a tensor of its own."""
        nodes = (*level.elements, *level.reductions)
        return list(dict.fromkeys(a for n in nodes for a in n.args if isinstance(a, Value) and a.kind != "element"))

    def sweep(self, k: int, level: Level) -> str:
        """The kernel of pass ``k``."""
        names = self.ids
        numbers = self.numbers(level)
        nodes = [*level.elements, *level.reductions]
        hosts = dict.fromkeys(self.plan.host_index(a) for n in nodes for a in n.args if isinstance(a, Host))
        lines = [f"h{i} = tl.load(H + {i}).to({self.real})" for i in hosts]
        for x in numbers:
            text = f"tl.load(s{names[x]}{' + t' if x.kind == 'tensor' else ''})"
            lines.append(f"n{names[x]} = {text}{' != 0' if x.mask else f'.to({self.real})'}")
        for s in dict.fromkeys([*level.reads.values(), *(s for s, _ in level.writes)]):
            slot = self.slots[s]
            lines.append(f"p{slot} = tl.load(P + {slot} * nt + t).to(tl.pointer_type({self.stored}))")
            lines.append("if ALIGNED:")
            lines.append(f"    p{slot} = tl.multiple_of(p{slot}, {ALIGNMENT})")
            lines.append(f"p{slot} = p{slot} + start + lane")
        for value, s in level.reads.items():
            text = f"tl.load(p{self.slots[s]}, mask=mask)"
            lines.append(f"n{names[value]} = {text}{' != 0' if value.mask else f'.to({self.real})'}")
        lines += [f"n{names[node]} = {self.expression(node)}" for node in level.elements]
        for r, node in enumerate(level.reductions):
            a = [self.operand(x) for x in node.args]
            if node.op == "amax":
                text = f"largest(tl.where(live, {a[0]}, float('-inf')))"
            else:
                text = f"tl.sum(tl.where(live, {' * '.join(a)}, 0.0), 0)"
            lines.append(f"tl.store(R + {r} * nb + b, {text})")
        for s, value in level.writes:
            text = f"({self.operand(value)}).to({self.stored})"
            lines.append(f"tl.store(p{self.slots[s]}, {text}, mask=mask)")
        body = "\n".join(f"    {line}" for line in lines)
        extra = "".join(f", s{names[x]}" for x in numbers)
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

    def finish(self, k: int, level: Level) -> str:
        """The kernel that adds up what the blocks of each tensor have left."""
        begin, loop, end = [], [], []
        for r, node in enumerate(level.reductions):
            if node.op == "amax":
                begin.append(f"s{r} = tl.full([BLOCK], float('-inf'), {self.real})")
                loop.append(f"x = tl.load(R + {r} * nb + i + lane, mask=live, other=float('-inf'))")
                loop.append(f"s{r} = tl.where((x > s{r}) | (x != x), x, s{r})")
                end.append(f"tl.store(o{r} + t, largest(s{r}))")
            else:
                begin.append(f"s{r} = tl.zeros([BLOCK], tl.float64)")
                loop.append(f"s{r} += tl.load(R + {r} * nb + i + lane, mask=live, other=0.0).to(tl.float64)")
                end.append(f"tl.store(o{r} + t, tl.sum(s{r}, 0).to({self.real}))")
        outs = "".join(f", o{r}" for r in range(len(level.reductions)))
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
        for k, level in enumerate(self.plan.levels):
            if level.reductions or level.writes:
                parts.append(self.sweep(k, level))
            if level.reductions:
                parts.append(self.finish(k, level))
        return "".join(parts)


def _quoted(names: str) -> str:
    return repr(names.split(", "))


def _joined(lines: list[str]) -> str:
    return "\n    ".join(lines)


# -- compiling ---------------------------------------------------------------------------------------------------------
def require(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Triton's modules by the names that the kernels use.

    Raises:
        Unsupported: Triton is not installed, or this backend does not know the dtype.
    """
    if dtype not in TYPES:
        raise Unsupported(f"{dtype} is not supported")
    names = {"triton": "triton", "tl": "triton.language", "libdevice": "triton.language.extra.libdevice"}
    try:
        return {short: importlib.import_module(name) for short, name in names.items()}
    except ImportError as error:
        raise Unsupported(f"the CUDA backend needs Triton ({error})") from error


@cache
def kernels(text: str) -> dict[str, Any]:
    """The kernels of a source, by name.

    Triton reads the source of a kernel through :mod:`inspect`, which finds it in :mod:`linecache`: no file is written.
    Triton itself keeps what it compiles on disk, by the hash of the source.

    Raises:
        Unsupported: Triton is not installed.
    """
    namespace = {"__name__": "torchzero_core_passes", **require()}
    name = f"<torchzero_core pass {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), namespace)
    return namespace


class GPURunner(EagerRunner):
    """Runs one program on one bucket by Triton kernels.

    Args:
        bucket: the tensors and their state.
        program: the passes.

    Raises:
        Unsupported: something in the plan has no Triton form, or Triton is missing or fails.
    """

    def __init__(self, bucket: Any, program: Any) -> None:
        dtype, device = bucket.data[0].dtype, bucket.data[0].device
        super().__init__(bucket, program)
        plan = self.plan
        self.real = torch.float64 if dtype == torch.float64 else torch.float32
        key = ("gpu", dtype)
        if key not in program.compiled:
            source = Source(plan, program.ids, dtype)
            program.compiled[key] = source, kernels(source.text())
        self.source, loaded = program.compiled[key]
        sizes = np.array([p.numel() for p in bucket.data], dtype=np.int64)
        nt = self.nt = len(sizes)
        blocks = -(-sizes // BLOCK)
        first = np.concatenate([[0], np.cumsum(blocks)])
        tensor = np.repeat(np.arange(nt), blocks)
        nb = self.nb = len(tensor)

        def upload(values: Any, kind: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype=kind)).to(device)

        self.tensor, self.index = upload(tensor, np.int32), upload(np.arange(nb) - first[tensor], np.int32)
        self.sizes, self.first = upload(sizes, np.int64), upload(first, np.int32)
        self.numel = self.sizes.to(self.real)
        self.pointers = len(self.source.slots) * nt
        self.staged = np.zeros(self.pointers + max(1, len(plan.hosts)), dtype=np.int64)
        self.table = torch.zeros(len(self.staged), dtype=torch.int64, device=device)
        self.hosts = self.table[self.pointers :].view(torch.float64)
        self.stale, self.aligned = True, True
        self.held: dict[Storage, list[Tensor]] = {}
        self.given: list[Tensor] = []
        most = max((len(level.reductions) for level in plan.levels), default=0)
        self.partials = torch.empty(max(1, most * nb), dtype=self.real, device=device)
        self.kernels: list[tuple[Any, Any, list[Value], list[Tensor]]] = []
        for k, level in enumerate(plan.levels):
            # Each in memory of its own: they are handed on as numbers per tensor.
            results = [torch.empty(nt, dtype=self.real, device=device) for _ in level.reductions]
            numbers = self.source.numbers(level)
            self.kernels.append((loaded.get(f"sweep{k}"), loaded.get(f"finish{k}"), numbers, results))
        if device.type == "cuda":
            self._compile()

    def _compile(self) -> None:
        """Compile now, so that what Triton cannot do is known before a step has begun."""
        try:
            with torch.cuda.device(self.table.device):
                for sweep, finish, numbers, results in self.kernels:
                    if sweep is not None:
                        types = [torch.bool if x.mask else self.real for x in numbers]
                        args = [torch.int64, torch.float64, torch.int32, torch.int32, torch.int64, self.real]
                        sweep.warmup(*args, self.nt, self.nb, *types, grid=(1,), ALIGNED=True, **OPTIONS)
                    if finish is not None:
                        args = [torch.int32, self.real]
                        finish.warmup(*args, self.nb, *(self.real for _ in results), grid=(1,), **OPTIONS)
        except Exception as error:  # whatever Triton, its compiler or its cache stumbles over
            raise Unsupported(f"Triton failed: {type(error).__name__}: {str(error).strip()[:500]}") from error

    # -- the table ---------------------------------------------------------------------------------------------------
    def _enter(self, storage: Storage, tensors: list[Tensor]) -> None:
        """Enter a row of pointers."""
        slot = self.source.slots[storage]
        row = self.staged[slot * self.nt : (slot + 1) * self.nt]
        new = np.array([t.data_ptr() for t in tensors], dtype=np.int64)
        if not np.array_equal(row, new):
            row[:] = new
            self.stale = True

    def _upload(self) -> None:
        """Bring the table to the device, in the order of the stream: earlier kernels still see the old one."""
        staged = torch.from_numpy(self.staged)
        # Pinned memory is not reused before the copy from it is done; a new piece of it each time is safe and cheap.
        self.table.copy_(staged.pin_memory() if self.table.is_cuda else staged, non_blocking=True)
        self.aligned = not (self.staged[: self.pointers] % ALIGNMENT).any()
        self.stale = False

    # -- the step ----------------------------------------------------------------------------------------------------
    def begin(self, u: list[Tensor], grads: list[Tensor], out: list[Tensor]) -> None:
        """Take what this step works on."""
        slots, bucket = self.source.slots, self.bucket
        self.given = u
        conforming = bucket.conforming(u) if ("u",) in slots else u
        super().begin(conforming, bucket.conforming(grads) if ("g",) in slots else grads, out)
        for storage in slots:
            if storage[0] == "fresh":
                continue
            tensors = self.E[storage]
            if storage[0] not in ("u", "g"):  # those are new tensors at every step
                held = self.held.get(storage)
                if held is not None and all(map(_same, held, tensors)):
                    continue
                self.held[storage] = tensors
            self._enter(storage, tensors)
        hosts = self.staged[self.pointers :].view(np.float64)[: len(self.H)]
        new = np.array(self.H, dtype=np.float64)
        if not np.array_equal(hosts, new):
            hosts[:] = new
            self.stale = True

    def _numbers(self, values: Any) -> Any:
        """Numbers per tensor in the precision of the kernels."""
        return values.to(self.real)

    def set_fresh(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque call."""
        super().set_fresh(node, self.bucket.conforming(tensors))
        if ("fresh", node) in self.source.slots:
            self._enter(("fresh", node), self.fresh[node])

    def sweep(self, k: int) -> None:
        """Scalar work, then the elements, of pass ``k``."""
        scalars = self.passes[k][0]
        if scalars is not None:
            scalars(self.H, self.T, self.numel)
        sweep, finish, numbers, results = self.kernels[k]
        if sweep is None:
            return
        if self.stale:
            self._upload()
        ids, nb, partials = self.program.ids, self.nb, self.partials
        with torch.cuda.device_of(self.table):
            if nb:  # no tensor has an element otherwise
                args = [self.table, self.hosts, self.tensor, self.index, self.sizes, partials, self.nt, nb]
                values = [self.T[ids[x]] for x in numbers]
                sweep[(nb,)](*args, *values, ALIGNED=self.aligned, **OPTIONS)
            if finish is not None:
                finish[(self.nt,)](self.first, partials, nb, *results, **OPTIONS)
        for node, result in zip(self.plan.levels[k].reductions, results, strict=True):
            self.T[ids[node]] = result

    def set_total(self, node: Value, value: Any) -> None:
        """Take a total over everything."""
        self.T[self.program.ids[node]] = torch.as_tensor(value, dtype=self.real, device=self.table.device)

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number."""
        stores = self.program.trace.stores
        if ("u",) in stores:
            for mine, given in zip(self.E[("u",)], self.given, strict=True):
                if mine is not given:  # it was not laid out as its parameter
                    given.copy_(mine)
        if ("p",) in stores:  # a graph built before the step must refuse to run after it
            increment_version(self.bucket.data)
        self.given = []
        super().commit(written)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b
