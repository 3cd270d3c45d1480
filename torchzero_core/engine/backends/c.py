"""The CPU backend: each pass becomes one C loop over all tensors.

The source is generated from the plan, compiled once, cached by its hash, and called with a table of pointers, so that
nothing is flattened or copied and no schedule recompiles. The elements are split evenly among threads; sums are taken
in blocks and added up in double precision, in the same order every time.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import operator
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ...lang.graph import Host, Value
from ..plan import Level, Plan, Storage
from ..runner import Runner, Unsupported

FLAGS = [
    "-O3",
    "-fprefetch-loop-arrays",  # the hardware's own prefetching stops at the end of a page
    "-march=native",
    "-fPIC",
    "-shared",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
]
TYPES = {torch.float32: "float", torch.float64: "double"}
BINARY = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|"}
CALLS = {"abs": "fabs", "sqrt": "sqrt", "exp": "exp", "log": "log", "pow": "pow", "copysign": "copysign"}
#: Below this many elements for each, another thread costs more than it saves.
ELEMENTS_PER_THREAD = 1 << 17

PRELUDE = """
#include <math.h>
#include <stdint.h>
#include <pthread.h>
#define BLOCK 4096
/* NaN in a gives NaN with one comparison; two would become a branch, which keeps a loop from being vectorised. */
#define MAXIMUM(a, b) (!((a) <= (b)) ? (a) : (b))
#define MINIMUM(a, b) (!((a) >= (b)) ? (a) : (b))
#define OR_NAN(x, b) ((b) == (b) ? (x) : (b))
#define LERP(a, b, w) ((a) + (w) * ((b) - (a)))
#define LERP_END(a, b, w) ((b) - (1 - (w)) * ((b) - (a)))
#define SIGN(a) (((a) > 0) - ((a) < 0))
typedef struct {
  void **P; int64_t nt; const int64_t *numel; const double *H; const double *T; double *R;
  int64_t begin, end;
  void (*body)(void **, int64_t, int64_t, const double *, const double *, double *, int64_t, int64_t);
} Job;
static void *work(void *arg) {
  Job *j = arg;
  int64_t offset = 0;
  for (int64_t t = 0; t < j->nt && offset < j->end; t++) {
    int64_t n = j->numel[t], a = j->begin - offset, b = j->end - offset;
    offset += n;
    if (a < 0) a = 0;
    if (b > n) b = n;
    if (a < b) j->body(j->P, j->nt, t, j->H, j->T, j->R, a, b);
  }
  return 0;
}
static void run(Job *job, int64_t total, int threads, int64_t reductions, const char *is_max) {
  Job jobs[64];
  pthread_t ids[64];
  char started[64];
  int64_t share = (total / threads + 63) / 64 * 64, size = reductions * job->nt;
  for (int k = 0; k < threads; k++) {
    jobs[k] = *job;
    jobs[k].begin = k * share;
    jobs[k].end = k == threads - 1 ? total : (k + 1) * share < total ? (k + 1) * share : total;
    jobs[k].R = job->R + k * size;
    for (int64_t r = 0; r < reductions; r++)
      for (int64_t t = 0; t < job->nt; t++) jobs[k].R[r * job->nt + t] = is_max[r] ? -INFINITY : 0;
  }
  for (int k = 1; k < threads; k++) started[k] = pthread_create(&ids[k], 0, work, &jobs[k]) == 0;
  work(&jobs[0]);
  for (int k = 1; k < threads; k++) {
    if (started[k]) pthread_join(ids[k], 0); else work(&jobs[k]);
    for (int64_t r = 0; r < reductions; r++)
      for (int64_t t = 0; t < job->nt; t++) {
        double *to = job->R + r * job->nt + t, x = jobs[k].R[r * job->nt + t];
        *to = is_max[r] ? MAXIMUM(*to, x) : *to + x;
      }
  }
}
"""


class Source:
    """The C source of a plan for one dtype."""

    def __init__(self, plan: Plan, ids: dict[Value, int], dtype: torch.dtype) -> None:
        self.plan, self.ids = plan, ids
        self.type = TYPES[dtype]
        self.suffix = "f" if dtype == torch.float32 else ""
        nodes = [n for level in plan.levels for n in (*level.scalars, *level.reductions, *level.totals)]
        self.columns: dict[Value, int] = {}  # numbers per tensor: columns of T
        self.globals: dict[Value, int] = {}  # numbers for all: appended to the host numbers
        for n in nodes:
            if n.kind == "tensor":
                self.columns.setdefault(n, len(self.columns))
            elif n.kind == "global":
                self.globals.setdefault(n, len(plan.hosts) + len(self.globals))
        self.slots: dict[Storage, int] = {s: i for i, s in enumerate(plan.storages)}
        for n in self.columns:
            if n.op == "load":
                self.slots.setdefault(n.attr, len(self.slots))
        for storage, value in plan.scalar_stores:
            if value.kind == "tensor":
                self.slots.setdefault(storage, len(self.slots))
        for level in plan.levels:
            for storage in level.reads.values():
                self.slots.setdefault(storage, len(self.slots))  # what opaque calls return

    def operand(self, x: Any, real: str) -> str:
        """The C name or literal of an operand."""
        if isinstance(x, Value):
            if x.kind == "global":
                return f"h{self.globals[x]}"
            return f"n{self.ids[x]}"
        if isinstance(x, Host):
            return f"h{self.plan.host_index(x)}"
        x = float(x)
        if math.isnan(x) or math.isinf(x):
            return f"(({real}){'NAN' if x != x else 'INFINITY' if x > 0 else '-INFINITY'})"
        return f"(({real}){x!r})"

    def expression(self, node: Value, real: str) -> str:
        """The C expression of a pointwise operation."""
        a = [self.operand(x, real) for x in node.args]
        op, f = node.op, "f" if real == "float" else ""
        if op in BINARY:
            return f"{a[0]} {BINARY[op]} {a[1]}"
        if op in COMPARE:
            return f"{a[0]} {COMPARE[op]} {a[1]}"
        if op in CALLS:
            return f"{CALLS[op]}{f}({', '.join(a)})"
        if op in {"maximum", "minimum", "lerp", "lerp_end", "sign"}:
            text = f"{op.upper()}({', '.join(a)})"
            return (
                f"OR_NAN({text}, {a[1]})" if op in {"maximum", "minimum"} and isinstance(node.args[1], Value) else text
            )
        if op == "neg":
            return f"-{a[0]}"
        if op == "not":
            return f"!{a[0]}"
        if op == "isfinite":
            return f"({a[0]} - {a[0]}) == 0"
        if op == "where":
            return f"{a[0]} ? {a[1]} : {a[2]}"
        if op == "fill":
            return a[0]
        raise Unsupported(op)

    def _hosts(self, nodes: list[Value], real: str) -> list[str]:
        used: dict[int, None] = {}
        for n in nodes:
            for x in n.args:
                if isinstance(x, Host):
                    used[self.plan.host_index(x)] = None
                elif isinstance(x, Value) and x.kind == "global":
                    used[self.globals[x]] = None
        return [f"  const {real} h{i} = ({real})H[{i}];" for i in used]

    def sweep(self, k: int, level: Level) -> str:
        """The loop over the elements of pass ``k``."""
        real, lines, names = self.type, [], self.ids
        nodes = [*level.elements, *level.reductions]
        lines += self._hosts(nodes, real)
        storages = dict.fromkeys([*level.reads.values(), *(s for s, _ in level.writes)])
        for s in storages:
            slot = self.slots[s]
            lines.append(f"  {real} *p{slot} = ({real} *)P[{slot} * nt + t];")
        tensors = dict.fromkeys(x for n in nodes for x in n.args if isinstance(x, Value) and x.kind == "tensor")
        for x in tensors:
            lines.append(f"  const {real} n{names[x]} = ({real})T[{self.columns[x]} * nt + t];")
        lines.append("  for (int64_t block = a; block < b; block += BLOCK) {")
        lines.append("    const int64_t end = block + BLOCK < b ? block + BLOCK : b;")
        clauses = ""
        for r, node in enumerate(level.reductions):
            if node.op == "amax":
                lines.append(f"    {real} r{r} = -INFINITY, nan{r} = 0;")
                clauses += f" reduction(max:r{r}) reduction(+:nan{r})"
            else:
                lines.append(f"    {real} r{r} = 0;")
                clauses += f" reduction(+:r{r})"
        lines.append(f"    #pragma omp simd{clauses}")
        lines.append("    for (int64_t i = block; i < end; i++) {")
        for value, s in level.reads.items():
            text = f"p{self.slots[s]}[i]"
            lines.append(
                f"      const {'int' if value.mask else real} n{names[value]} = {text}{' != 0' if value.mask else ''};"
            )
        for node in level.elements:
            lines.append(f"      const {'int' if node.mask else real} n{names[node]} = {self.expression(node, real)};")
        for r, node in enumerate(level.reductions):
            a = [self.operand(x, real) for x in node.args]
            if node.op == "amax":
                lines.append(f"      r{r} = {a[0]} > r{r} ? {a[0]} : r{r}; nan{r} += {a[0]} != {a[0]};")
            else:
                lines.append(f"      r{r} += {a[0] if node.op == 'sum' else f'{a[0]} * {a[1]}'};")
        for s, value in level.writes:
            lines.append(f"      p{self.slots[s]}[i] = {self.operand(value, real)};")
        lines.append("    }")
        for r, node in enumerate(level.reductions):
            to = f"R[{r} * nt + t]"
            if node.op == "amax":
                lines.append(f"    if (nan{r} != 0) {to} = NAN; else {to} = MAXIMUM({to}, (double)r{r});")
            else:
                lines.append(f"    {to} += (double)r{r};")
        lines.append("  }")
        body = "\n".join(lines)
        flags = ", ".join("1" if n.op == "amax" else "0" for n in level.reductions) or "0"
        count = len(level.reductions)
        finish = "\n".join(
            f"  for (int64_t t = 0; t < nt; t++) T[{self.columns[n]} * nt + t] = R[{r} * nt + t];"
            for r, n in enumerate(level.reductions)
        )
        return f"""
static void body{k}(void **P, int64_t nt, int64_t t, const double *H, const double *T, double *R,
                    int64_t a, int64_t b) {{
{body}
}}
void sweep{k}(void **P, int64_t nt, const int64_t *numel, const double *H, double *T, double *R,
              int64_t total, int threads) {{
  static const char is_max[] = {{{flags}}};
  Job job = {{P, nt, numel, H, T, R, 0, 0, body{k}}};
  run(&job, total, threads, {count}, is_max);
{finish}
}}
"""

    def scalars(self, k: int, level: Level) -> str | None:
        """The numbers per tensor of pass ``k``."""
        nodes = [n for n in level.scalars if n.kind == "tensor"]
        if not nodes:
            return None
        lines = self._hosts(nodes, "double")
        lines.append("  for (int64_t t = 0; t < nt; t++) {")
        mine = set(nodes)
        outside = dict.fromkeys(
            x for n in nodes for x in n.args if isinstance(x, Value) and x.kind == "tensor" and x not in mine
        )
        for x in outside:
            lines.append(f"    const double n{self.ids[x]} = T[{self.columns[x]} * nt + t];")
        for n in nodes:
            if n.op == "load":
                text = f"*({self.type} *)P[{self.slots[n.attr]} * nt + t]" + (" != 0" if n.mask else "")
            elif n.op == "numel":
                text = "(double)numel[t]"
            else:
                text = self.expression(n, "double")
            lines.append(f"    const double n{self.ids[n]} = {text};")
            lines.append(f"    T[{self.columns[n]} * nt + t] = n{self.ids[n]};")
        lines.append("  }")
        body = "\n".join(lines)
        return (
            f"void scalars{k}(void **P, int64_t nt, const int64_t *numel, const double *H, double *T) {{\n{body}\n}}\n"
        )

    def commit(self) -> str | None:
        """Writes the states of one number per tensor."""
        lines = []
        for storage, value in self.plan.scalar_stores:
            if value.kind == "tensor":
                to, col = self.slots[storage], self.columns[value]
                lines.append(f"    *({self.type} *)P[{to} * nt + t] = ({self.type})T[{col} * nt + t];")
        if not lines:
            return None
        body = "\n".join(lines)
        loop = f"  for (int64_t t = 0; t < nt; t++) {{\n{body}\n  }}"
        return f"void commit(void **P, int64_t nt, const double *T) {{\n{loop}\n}}\n"

    def globals_function(self, level: Level) -> Any:
        """Numbers for all tensors are computed by the host: ``f(H)`` fills the list of host numbers."""
        nodes = [n for n in level.scalars if n.kind == "global" and n.op != "load"]
        if not nodes:
            return None
        lines = []
        for n in nodes:
            a = [
                f"H[{self.globals[x]}]"
                if isinstance(x, Value)
                else f"H[{self.plan.host_index(x)}]"
                if isinstance(x, Host)
                else f"float('{float(x)}')"
                for x in n.args
            ]
            op = n.op
            if op in BINARY or op in COMPARE:
                text = (
                    f"{_PYTHON.get(op, '_')}({a[0]}, {a[1]})"
                    if op == "div"
                    else f"{a[0]} {(BINARY | COMPARE)[op]} {a[1]}"
                )
            elif op == "where":
                text = f"{a[1]} if {a[0]} else {a[2]}"
            elif op == "fill":
                text = a[0]
            elif op == "neg":
                text = f"-{a[0]}"
            elif op == "not":
                text = f"not {a[0]}"
            elif op in _PYTHON:
                text = f"{_PYTHON[op]}({', '.join(a)})"
            else:
                raise Unsupported(op)
            lines.append(f"    H[{self.globals[n]}] = {text}")
        namespace = dict(_HELPERS)
        exec("def compute(H):\n" + "\n".join(lines), namespace)
        return namespace["compute"]

    def text(self) -> str:
        """All of it."""
        parts = [PRELUDE]
        for k, level in enumerate(self.plan.levels):
            scalars = self.scalars(k, level)
            if scalars is not None:
                parts.append(scalars)
            if level.reads or level.writes:
                parts.append(self.sweep(k, level))
        parts.append(self.commit() or "")
        return "".join(parts)


def _divide(a: float, b: float) -> float:
    return a / b if b else (math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1, b))


def _maximum(a: float, b: float) -> float:
    return a if a > b or a != a else b


def _minimum(a: float, b: float) -> float:
    return a if a < b or a != a else b


_PYTHON = {"div": "_divide", "maximum": "_maximum", "minimum": "_minimum", "sqrt": "_sqrt", "abs": "abs", "exp": "_exp",
           "log": "_log", "pow": "_pow", "sign": "_sign", "copysign": "_copysign", "isfinite": "_isfinite",
           "lerp": "_lerp", "lerp_end": "_lerp_end"}  # fmt: skip
_HELPERS: dict[str, Any] = {
    "_divide": _divide,
    "_maximum": _maximum,
    "_minimum": _minimum,
    "_sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
    "_exp": lambda x: math.exp(x) if x < 709 else math.inf,
    "_log": lambda x: math.log(x) if x > 0 else -math.inf if x == 0 else math.nan,
    "_pow": lambda a, b: float(torch.tensor(a, dtype=torch.float64) ** b),
    "_sign": lambda x: (x > 0) - (x < 0),
    "_copysign": math.copysign,
    "_isfinite": math.isfinite,
    "_lerp": lambda a, b, w: a + w * (b - a),
    "_lerp_end": lambda a, b, w: b - (1 - w) * (b - a),
}


# -- compiling ---------------------------------------------------------------------------------------------------------
@cache
def compiler() -> tuple[str, str] | None:
    """The C compiler and its version, or None where there is none (``CC`` names another)."""
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        path = shutil.which(name)
        if path is not None:
            out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if out.returncode == 0:
                return path, out.stdout.splitlines()[0]
    return None


def require(dtype: torch.dtype = torch.float32) -> tuple[str, str]:
    """The C compiler and its version.

    Raises:
        Unsupported: there is none, or this backend does not know the dtype.
    """
    if dtype not in TYPES:
        raise Unsupported(f"{dtype} is not supported")
    found = compiler()
    if found is None:
        raise Unsupported("no C compiler (cc, gcc or clang) was found")
    return found


def cache_dirs() -> list[Path]:
    """Where libraries are kept: ``TORCHZERO_CACHE``, else the user's cache, else a temporary directory.

    The last is shared with other users, so it is used only while nobody else can write there.
    """
    places = [os.environ.get("TORCHZERO_CACHE"), os.environ.get("XDG_CACHE_HOME")]
    dirs = [Path(places[0])] if places[0] else []
    home = Path(places[1]) if places[1] else Path(os.path.expanduser("~/.cache"))
    user = getattr(os, "getuid", lambda: 0)()
    return [*dirs, home / "torchzero_core", Path(tempfile.gettempdir()) / f"torchzero_core_{user}"]


@cache
def library(text: str) -> ctypes.CDLL:
    """Compile and load; the result is kept by the hash of source, flags, compiler and processor.

    Raises:
        Unsupported: no compiler, or it failed.
    """
    cc, version = require()
    key = hashlib.sha256("\0".join([text, *FLAGS, version, platform.machine(), _processor()]).encode()).hexdigest()[:32]
    for directory in cache_dirs():
        path = directory / f"{key}.so"
        try:
            if not path.exists():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory == cache_dirs()[-1] and not _private(directory):
                continue
            if not path.exists():
                _build(cc, text, path)
            return ctypes.CDLL(str(path))
        except OSError:
            continue  # a read-only home, or a file system that forbids execution
    raise Unsupported("no directory can hold the compiled code; set TORCHZERO_CACHE to one that can")


@cache
def _processor() -> str:
    """-march=native makes code for this processor, and homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return platform.processor()


def _private(directory: Path) -> bool:
    """Whether a directory is this user's and no other user can write there."""
    if not hasattr(os, "getuid"):
        return True
    status = directory.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _build(cc: str, text: str, path: Path) -> None:
    """Compile next to the target and rename: another process sees the whole library or none."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source, target = Path(scratch) / "pass.c", Path(scratch) / "pass.so"
        source.write_text(text)
        out = subprocess.run(
            [cc, *FLAGS, str(source), "-o", str(target), "-lm"], capture_output=True, text=True, check=False
        )
        if out.returncode:
            raise Unsupported(f"the C compiler failed: {out.stderr.strip()[:500]}")
        os.replace(target, path)


class CPURunner(Runner):
    """Runs one program on one bucket by compiled passes.

    Args:
        bucket: the tensors and their state.
        program: the passes.

    Raises:
        Unsupported: something in the plan has no C form.
    """

    def __init__(self, bucket: Any, program: Any) -> None:
        super().__init__(bucket, program)
        plan = self.plan
        dtype = bucket.data[0].dtype
        key = ("cpu", dtype)
        if key not in program.compiled:
            source = Source(plan, program.ids, dtype)
            lib = library(source.text())
            computes = [source.globals_function(level) for level in plan.levels]
            program.compiled[key] = source, lib, computes
        self.source, lib, self.computes = program.compiled[key]
        nt = self.nt = len(bucket.data)
        source = self.source
        self.P = (ctypes.c_void_p * max(1, len(source.slots) * nt))()
        sizes = [p.numel() for p in bucket.data]
        self.numel = (ctypes.c_int64 * nt)(*sizes)
        self.total = sum(sizes)
        self.threads = max(1, min(torch.get_num_threads(), 64, self.total // ELEMENTS_PER_THREAD))
        most = max((len(level.reductions) for level in plan.levels), default=0)
        self.T = (ctypes.c_double * max(1, len(source.columns) * nt))()
        self.R = (ctypes.c_double * max(1, most * nt * self.threads))()
        self.nhost = len(plan.hosts)
        self.H = (ctypes.c_double * max(1, self.nhost + len(source.globals)))()
        self.held: dict[int, list[Tensor]] = {}
        void, size = ctypes.c_void_p, ctypes.c_int64
        self.passes = []
        for k, level in enumerate(plan.levels):
            scalars = getattr(lib, f"scalars{k}") if any(n.kind == "tensor" for n in level.scalars) else None
            sweep = getattr(lib, f"sweep{k}") if level.reads or level.writes else None
            if scalars is not None:
                scalars.argtypes, scalars.restype = [void, size, void, void, void], None
            if sweep is not None:
                sweep.argtypes, sweep.restype = [void, size, void, void, void, void, size, ctypes.c_int], None
            self.passes.append((scalars, sweep))
        self.writes_scalars = any(v.kind == "tensor" for _, v in plan.scalar_stores)
        if self.writes_scalars:
            self.write = lib.commit
            self.write.argtypes, self.write.restype = [void, size, void], None

    def _point(self, slot: int, tensors: list[Tensor]) -> None:
        """Enter a row of pointers unless it is there already."""
        held = self.held.get(slot)
        if held is tensors or (held is not None and all(map(operator.is_, held, tensors))):
            return
        self._enter(slot, tensors)
        self.held[slot] = tensors

    def _enter(self, slot: int, tensors: list[Tensor]) -> None:
        self.P[slot * self.nt : (slot + 1) * self.nt] = [t.data_ptr() for t in tensors]

    def set_fresh(self, node: Value, tensors: list[Tensor]) -> None:
        """Take the result of an opaque call."""
        super().set_fresh(node, self.bucket.conforming(tensors))
        slot = self.source.slots.get(("fresh", node))
        if slot is not None:
            self._enter(slot, self.fresh[node])

    def begin(self, u: list[Tensor], grads: list[Tensor], out: list[Tensor]) -> None:
        """Take what this step works on."""
        bucket, program, E = self.bucket, self.program, self.E
        self.H[: self.nhost] = program.host(bucket.settings, bucket.counts)
        for storage, slot in self.source.slots.items():
            kind = storage[0]
            if kind == "fresh":
                continue
            tensors = E[storage] = self.tensors(storage, u, grads, out)
            if kind in ("u", "g"):  # new tensors at every step
                E[storage] = bucket.conforming(tensors)
                self._enter(slot, E[storage])
            else:
                self._point(slot, tensors)
        for node in program.scalar_loads:
            if node.kind == "global":
                self.H[self.source.globals[node]] = float(bucket.global_state(node.attr))

    def sweep(self, k: int) -> None:
        """Scalar work, then the elements, of pass ``k``."""
        if self.computes[k] is not None:
            self.computes[k](self.H)
        scalars, sweep = self.passes[k]
        if scalars is not None:
            scalars(self.P, self.nt, self.numel, self.H, self.T)
        if sweep is not None:
            sweep(self.P, self.nt, self.numel, self.H, self.T, self.R, self.total, self.threads)

    def partial(self, node: Value) -> float:
        """A total over this bucket."""
        start = self.source.columns[node.args[0]] * self.nt
        values = self.T[start : start + self.nt]
        return math.fsum(values) if node.op == "total" and all(map(math.isfinite, values)) else (
            sum(values) if node.op == "total" else max(values, key=lambda x: (x != x, x))
        )  # fmt: skip

    def set_total(self, node: Value, value: Any) -> None:
        """Take a total over everything."""
        self.H[self.source.globals[node]] = float(value)

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number."""
        if self.writes_scalars:
            self.write(self.P, self.nt, self.T)
        for storage, value in self.plan.scalar_stores:
            if value.kind == "global" and storage not in written:
                written.add(storage)
                self.bucket.global_state(storage).fill_(self.H[self.source.globals[value]])
        if ("p",) in self.program.trace.stores:  # a graph built before the step must refuse to run after it
            increment_version(self.bucket.data)
        self.fresh = {}
        for storage in self.source.slots:
            if storage[0] in ("u", "g"):  # gradients belong to others
                self.E.pop(storage, None)
