"""C source of a plan: each pass is one loop over all tensors, which are rows of a table of pointers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ...lang.graph import Dims, Kind, Number, Place, Storage, Value
from ...lang.ops import AMAX, FILL, LOAD, PYTHON, SHAPE, Role
from ..numbers import literal
from ..plan import Pass, Plan
from ..runner import Unsupported

TYPES = {torch.float32: "float", torch.float64: "double", torch.bool: "uint8_t", torch.bfloat16: "bfloat16"}

PRELUDE = """
#include <stdint.h>
#include <pthread.h>
/* glibc has these for vectors too, within a few units in the last place; without -ffast-math it does not say so. */
#if defined __x86_64__ && defined __GLIBC__ && defined __GNUC__ && !defined __clang__
#pragma omp declare simd notinbranch
extern float powf(float, float);
#pragma omp declare simd notinbranch
extern double pow(double, double);
#pragma omp declare simd notinbranch
extern float expf(float);
#pragma omp declare simd notinbranch
extern double exp(double);
#pragma omp declare simd notinbranch
extern float logf(float);
#pragma omp declare simd notinbranch
extern double log(double);
#endif
#include <math.h>
#define BLOCK 4096
/* The upper half of a float, rounded to the nearest, ties to even. */
typedef struct { uint16_t bits; } bfloat16;
typedef union { uint32_t bits; float number; } both;
typedef union { uint64_t bits; double number; } both_of_double;
static inline float WIDENED(uint16_t bits) { both x = {(uint32_t)bits << 16}; return x.number; }
static inline uint16_t NARROWED(float number) {
  both x = {.number = number};
  uint32_t rounded = (x.bits + 0x7FFF + ((x.bits >> 16) & 1)) >> 16;
  return (uint16_t)(number == number ? rounded : 0x7FC0);
}
/* NaN where either is. The choice is one instruction, which gives b where a is NaN; then all bits are set. Choosing
   twice becomes branches where several stand in a row, and keeps a loop from being vectorised. */
#define EXTREME(name, real, both, uint, than) static inline real name(real a, real b) { \\
  both m = {.number = a than b ? a : b}; m.bits |= -(uint)(a != a); return m.number; }
EXTREME(MAXIMUMf, float, both, uint32_t, >)
EXTREME(MINIMUMf, float, both, uint32_t, <)
EXTREME(MAXIMUM, double, both_of_double, uint64_t, >)
EXTREME(MINIMUM, double, both_of_double, uint64_t, <)
#define LERP(a, b, w) ((a) + (w) * ((b) - (a)))
#define LERP_END(a, b, w) ((b) - (1 - (w)) * ((b) - (a)))
#define SIGN(a) (((a) > 0) - ((a) < 0))
#define WITH_SIGN_OF(b, r) ((r) != 0 && ((r) < 0) != ((b) < 0) ? (r) + (b) : (r))
static inline float REMAINDERf(float a, float b) { float r = fmodf(a, b); return WITH_SIGN_OF(b, r); }
static inline double REMAINDER(double a, double b) { double r = fmod(a, b); return WITH_SIGN_OF(b, r); }
/* The same without a call, exact where the quotient has no more digits than the significand has: rounded it is one too
   large at most, and what is left can be represented. */
#define HAS_FEW_MULTIPLESf(a, b) ((fabsf(a) < 0x1p23f * fabsf(b)) & (fabsf(b) < INFINITY))
#define HAS_FEW_MULTIPLES(a, b) ((fabs(a) < 0x1p52 * fabs(b)) & (fabs(b) < INFINITY))
static inline float QUICK_REMAINDERf(float a, float b) {
  float x = fabsf(a), y = fabsf(b), left = fmaf(-truncf(x / y), y, x), r = copysignf(left < 0 ? left + y : left, a);
  return WITH_SIGN_OF(b, r);
}
static inline double QUICK_REMAINDER(double a, double b) {
  double x = fabs(a), y = fabs(b), left = fma(-trunc(x / y), y, x), r = copysign(left < 0 ? left + y : left, a);
  return WITH_SIGN_OF(b, r);
}
/* P: pointers by row and tensor. H: numbers of the host. T: numbers by column and tensor. R: what a thread has reduced.
   Z: numbers per slice; O: where those of a column and tensor begin; G: the shape of slices. S: what a thread has
   reduced to slices. */
typedef struct Job Job;
struct Job {
  void **P; int64_t nt; const int64_t *numel; const double *H; double *T; double *R;
  double *Z; const int64_t *O; const int64_t *G; double *S;
  int64_t begin, end;
  void (*body)(const Job *, int64_t, int64_t, int64_t);
};
#define AT(column) j->O[(column) * (nt + 1) + t]
#define COUNT(column) (j->O[(column) * (nt + 1) + t + 1] - AT(column))
#define FIRST(column) j->O[(column) * (nt + 1)]
#define ALL(column) (j->O[(column) * (nt + 1) + nt] - FIRST(column))
static void *work(void *arg) {
  Job *j = arg;
  int64_t offset = 0;
  for (int64_t t = 0; t < j->nt && offset < j->end; t++) {
    int64_t n = j->numel[t], a = j->begin - offset, b = j->end - offset;
    offset += n;
    if (a < 0) a = 0;
    if (b > n) b = n;
    if (a < b) j->body(j, t, a, b);
  }
  return 0;
}
static void start(double *x, int64_t n, int is_max) { for (int64_t i = 0; i < n; i++) x[i] = is_max ? -INFINITY : 0; }
static void join(double *to, const double *x, int64_t n, int is_max) {
  for (int64_t i = 0; i < n; i++) to[i] = is_max ? MAXIMUM(to[i], x[i]) : to[i] + x[i];
}
static void run(Job *job, int64_t total, int threads, int64_t reductions, const char *is_max, int64_t lists,
                const char *z_max, const int64_t *sizes) {
  Job jobs[64];
  pthread_t ids[64];
  char started[64];
  int64_t share = (total / threads + 63) / 64 * 64, size = reductions * job->nt, all = 0;
  for (int64_t z = 0; z < lists; z++) all += sizes[z];
  for (int k = 0; k < threads; k++) {
    jobs[k] = *job;
    jobs[k].begin = k * share;
    jobs[k].end = k == threads - 1 ? total : (k + 1) * share < total ? (k + 1) * share : total;
    jobs[k].R = job->R + k * size;
    jobs[k].S = job->S + k * all;
    for (int64_t r = 0; r < reductions; r++) start(jobs[k].R + r * job->nt, job->nt, is_max[r]);
    for (int64_t z = 0, at = 0; z < lists; at += sizes[z++]) start(jobs[k].S + at, sizes[z], z_max[z]);
  }
  for (int k = 1; k < threads; k++) started[k] = pthread_create(&ids[k], 0, work, &jobs[k]) == 0;
  work(&jobs[0]);
  for (int k = 1; k < threads; k++) {
    if (started[k]) pthread_join(ids[k], 0); else work(&jobs[k]);
    for (int64_t r = 0; r < reductions; r++) join(job->R + r * job->nt, jobs[k].R + r * job->nt, job->nt, is_max[r]);
    for (int64_t z = 0, at = 0; z < lists; at += sizes[z++]) join(job->S + at, jobs[k].S + at, sizes[z], z_max[z]);
  }
}
"""


class Source:
    """The C source of a plan for one dtype.

    Args:
        plan: the passes.
        ids: the number of each value, from which its name in the source is made.
        dtype: the dtype of the parameters.
        state_dtype: that of a state.

    Attributes:
        rows: of the table of pointers.
        columns: of the numbers per tensor.
        globals: where the numbers for all stand after those of the host.
        lists: of the numbers per slice.
        shapes: the ways to cut tensors into slices.

    Raises:
        Unsupported: something in the plan has no C form.
    """

    def __init__(
        self, plan: Plan, ids: dict[Value, int], dtype: torch.dtype, state_dtype: Callable[[Storage], torch.dtype]
    ) -> None:
        self.plan, self.ids, self.dtype, self.state_dtype = plan, ids, dtype, state_dtype
        self.type = TYPES[dtype]
        self.rows: dict[Storage, int] = dict(plan.storages)
        self.columns: dict[Value, int] = {}
        self.globals: dict[Value, int] = {}
        self.lists: dict[Value, int] = {}
        self.shapes: dict[Dims, int] = {}
        for here in plan.passes:
            for n in (*here.numbers, *here.slices, *here.reductions, *here.totals, *here.opaque):
                self._enter(n)
            for storage in here.reads.values():
                self.rows.setdefault(storage, len(self.rows))  # what opaque calls return
        for storage, value in plan.number_stores:
            if value.kind is not Kind.GLOBAL:
                self.rows.setdefault(storage, len(self.rows))

    def _enter(self, n: Value) -> None:
        if n.kind is Kind.TENSOR:
            self.columns.setdefault(n, len(self.columns))
        elif n.kind is Kind.GLOBAL:
            self.globals.setdefault(n, len(self.plan.hosts) + len(self.globals))
        elif n.kind is Kind.SLICE and n.dims is not None:
            self.lists.setdefault(n, len(self.lists))
            self.shapes.setdefault(n.dims, len(self.shapes))
        if n.op is LOAD and n.kind in (Kind.TENSOR, Kind.SLICE):
            self.rows.setdefault(n.attr, len(self.rows))

    # -- words -------------------------------------------------------------------------------------------------------
    def type_of(self, storage: Storage) -> str:
        """The C type of what a row points to."""
        dtype = self.state_dtype(storage) if storage.place is Place.STATE else self.dtype
        if dtype not in TYPES:
            raise Unsupported(f"a state of {dtype} is not supported")
        return TYPES[dtype]

    def _half(self, storage: Storage) -> bool:
        return self.type_of(storage) == "bfloat16"

    def shape_of(self, x: Value) -> int:
        """The number of the shape of a value per slice."""
        assert x.dims is not None
        return self.shapes[x.dims]

    def operand(self, x: Any, real: str) -> str:
        """The C name or literal of an operand."""
        if isinstance(x, Value):
            return f"h{self.globals[x]}" if x.kind is Kind.GLOBAL else f"n{self.ids[x]}"
        if isinstance(x, Number):
            return f"h{self.plan.hosts[x]}"
        x = float(x)
        word = repr(x) if np.isfinite(x) else "NAN" if np.isnan(x) else "INFINITY" if x > 0 else "-INFINITY"
        return f"(({real}){word})"

    def expression(self, node: Value, real: str, spelled: str = "") -> str:
        """The C expression of a pointwise operation.

        Args:
            node: the operation.
            real: the type of what it is worked out in.
            spelled: a spelling other than that of all cases.
        """
        spelled = spelled or node.op.c
        if not spelled:
            raise Unsupported(f"{node.op} has no C form")
        return spelled.format(*(self.operand(a, real) for a in node.args), f="f" if real == "float" else "")

    def _hosts(self, nodes: Iterable[Value], real: str) -> list[str]:
        used: dict[int, bool] = {}
        for n in nodes:
            for x in n.args:
                if isinstance(x, Number):
                    used[self.plan.hosts[x]] = False
                elif isinstance(x, Value) and x.kind is Kind.GLOBAL:
                    used[self.globals[x]] = x.mask
        return [
            f"  const {'int' if mask else real} h{i} = ({real})j->H[{i}]{' != 0' if mask else ''};"
            for i, mask in used.items()
        ]

    def _declare(self, x: Value, real: str, text: str) -> str:
        return f"const {'int' if x.mask else real} n{self.ids[x]} = {text}{' != 0' if x.mask else ''};"

    def _tensors(self, nodes: Iterable[Value], real: str, besides: Sequence[Value] = ()) -> list[str]:
        """Numbers per tensor that nodes use, besides those that are declared anyway."""
        used = dict.fromkeys(x for n in nodes for x in n.inputs if x.kind is Kind.TENSOR and x not in set(besides))
        return [f"  {self._declare(x, real, f'({real})j->T[{self.columns[x]} * nt + t]')}" for x in used]

    # -- elements ----------------------------------------------------------------------------------------------------
    def sweep(self, k: int, here: Pass) -> str:
        """The loop over the elements of a pass."""
        whole = [n for n in here.element_reductions if n.kind is Kind.TENSOR]
        sliced = [n for n in here.element_reductions if n.kind is Kind.SLICE]
        nodes = [*here.elements, *here.element_reductions]
        lines = ["  const int64_t nt = j->nt;", *self._hosts(nodes, self.type)]
        for s in dict.fromkeys([*here.reads.values(), *(s for s, _ in here.writes)]):
            lines.append(f"  {self.type_of(s)} *p{self.rows[s]} = j->P[{self.rows[s]} * nt + t];")
        lines += self._tensors(nodes, self.type)
        lines += self._runs(here, nodes, whole, sliced)
        flags, z_flags = (", ".join(str(int(n.op is AMAX)) for n in ns) or "0" for ns in (whole, sliced))
        sizes = ", ".join(f"ALL({self.lists[n]})" for n in sliced) or "0"
        finish = [
            f"  for (int64_t t = 0; t < nt; t++) j->T[{self.columns[n]} * nt + t] = j->R[{r} * nt + t];"
            for r, n in enumerate(whole)
        ]
        for z, n in enumerate(sliced):
            finish.append(
                f"  for (int64_t i = 0; i < sizes[{z}]; i++) j->Z[FIRST({self.lists[n]}) + i] = j->S[from + i];"
            )
            finish.append(f"  from += sizes[{z}];")
        text, end = "\n".join(lines), "\n".join(finish)
        return f"""
static void body{k}(const Job *j, int64_t t, int64_t a, int64_t b) {{
{text}
}}
void sweep{k}(Job *j, int64_t total, int threads) {{
  static const char is_max[] = {{{flags}}}, z_max[] = {{{z_flags}}};
  const int64_t nt = j->nt, sizes[] = {{{sizes}}};
  int64_t from = 0;
  j->body = body{k};
  run(j, total, threads, {len(whole)}, is_max, {len(sliced)}, z_max, sizes);
{end}
}}
"""

    def _runs(self, here: Pass, nodes: Sequence[Value], whole: list[Value], sliced: list[Value]) -> list[str]:
        """The loop over blocks, each within one slice or one row of slices."""
        used = [x for x in dict.fromkeys(x for n in nodes for x in n.inputs) if x.kind is Kind.SLICE]
        shapes = list(dict.fromkeys(x.dims for x in (*used, *sliced) if x.dims is not None))
        lines = ["  for (int64_t block = a, end; block < b; block = end) {"]
        lines.append("    end = block + BLOCK < b ? block + BLOCK : b;")
        for dims in shapes:
            d = self.shapes[dims]
            lines.append(
                f"    const int64_t m{d} = j->G[{2 * d} * nt + t], i{d} = j->G[{2 * d + 1} * nt + t];\n"
                f"    const int64_t row{d} = block / i{d};\n"
                f"    const int64_t at{d} = row{d} / m{d} * i{d} + block % i{d};\n"
                f"    {{ const int64_t stop = i{d} == 1 ? (block / m{d} + 1) * m{d} : (row{d} + 1) * i{d}; "
                f"if (stop < end) end = stop; }}"
            )
        for x in used:
            lines.append(f"    const double *z{self.ids[x]} = j->Z + AT({self.lists[x]}) + at{self.shape_of(x)};")
        earlier = "0"
        for s in sliced:
            at = f"AT({self.lists[s]}) - FIRST({self.lists[s]}) + at{self.shape_of(s)}"
            lines.append(f"    double *s{self.ids[s]} = j->S + {earlier} + {at};")
            earlier += f" + ALL({self.lists[s]})"
        for r, node in enumerate(whole):
            lines.append(f"    {self.type} r{r} = {'-INFINITY, nan' + str(r) + ' = 0' if node.op is AMAX else '0'};")
        for along in itertools.product((True, False), repeat=len(shapes)):
            steps = dict(zip(shapes, along, strict=True))
            tests = " && ".join(f"i{self.shapes[d]} {'==' if same else '!='} 1" for d, same in steps.items())
            lines.append(f"    {f'if ({tests}) ' if shapes else ''}{{")
            lines += self._loop(here, used, whole, sliced, steps)
            lines.append("    }")
        for r, node in enumerate(whole):
            to = f"j->R[{r} * nt + t]"
            if node.op is AMAX:
                lines.append(f"    if (nan{r} != 0) {to} = NAN; else {to} = MAXIMUM({to}, (double)r{r});")
            else:
                lines.append(f"    {to} += (double)r{r};")
        return [*lines, "  }"]

    def _loop(
        self, here: Pass, used: list[Value], whole: list[Value], sliced: list[Value], same: dict[Dims, bool]
    ) -> list[str]:
        """The loop over the elements of a block.

        Args:
            here: the pass.
            used: the numbers per slice that it uses.
            whole: the reductions of whole tensors.
            sliced: the reductions of slices.
            same: whether the block lies in one slice of each shape, or each of its elements in the next one.
        """
        ids, real = self.ids, self.type
        lines: list[str] = []
        fetch: list[str] = []
        body: list[str] = []
        end: list[str] = []
        clauses = ""
        for x in used:
            hoisted = x.dims is not None and same[x.dims]
            text = f"({real})z{ids[x]}[{'0' if hoisted else 'i - block'}]"
            (lines if hoisted else fetch).append(self._declare(x, real, text))
        for r, node in enumerate(whole):
            clauses += f" reduction(max:r{r}) reduction(+:nan{r})" if node.op is AMAX else f" reduction(+:r{r})"
        for value, storage in here.reads.items():
            place = f"p{self.rows[storage]}[i]"
            fetch.append(self._declare(value, real, f"WIDENED({place}.bits)" if self._half(storage) else place))
        for r, node in enumerate(whole):
            a = self.expression(node, real)
            if node.op is AMAX:
                body.append(f"r{r} = {a} > r{r} ? {a} : r{r}; nan{r} += {a} != {a};")
            else:
                body.append(f"r{r} += {a};")
        for node in sliced:
            a, s = self.expression(node, real), f"s{ids[node]}"
            hoisted = node.dims is not None and same[node.dims]
            if node.op is AMAX:
                to = f"{s}[{'0' if hoisted else 'i - block'}]"
                body.append(f"{to} = MAXIMUM({to}, (double){a});")
            elif hoisted:
                lines.append(f"{real} x{ids[node]} = 0;")
                clauses += f" reduction(+:x{ids[node]})"
                body.append(f"x{ids[node]} += {a};")
                end.append(f"{s}[0] += (double)x{ids[node]};")
            else:
                body.append(f"{s}[i - block] += (double){a};")
        for storage, value in here.writes:
            place, new = f"p{self.rows[storage]}[i]", self.operand(value, real)
            body.append(f"{place}.bits = NARROWED({new});" if self._half(storage) else f"{place} = {new};")
        head = [] if any(n.op is AMAX for n in sliced) else [f"#pragma omp simd{clauses}"]
        return [f"      {x}" for x in (*lines, *self._loops(here, head, fetch, body), *end)]

    def _loops(self, here: Pass, head: list[str], fetch: list[str], body: list[str]) -> list[str]:
        """The loop, and where an operation has a quicker form for most values, a look at whether the block has others.

        Args:
            here: the pass.
            head: what stands before the loop.
            fetch: what it begins with.
            body: what it ends with.
        """
        over = "for (int64_t i = block; i < end; i++) {"
        every, quick = (
            [
                f"const {'int' if n.mask else self.type} n{self.ids[n]} = "
                f"{self.expression(n, self.type, n.op.c_quick if quickly else '')};"
                for n in here.elements
            ]
            for quickly in (False, True)
        )
        plain = [*head, over, *fetch, *every, *body, "}"]
        tests = [f"quick &= {self.expression(n, self.type, n.op.c_quick_if)};" for n in here.elements if n.op.c_quick]
        if not tests:
            return plain
        look = ["int quick = 1;", "#pragma omp simd reduction(&:quick)", over, *fetch, *quick, *tests, "}"]
        return [*look, "if (quick) {", *head, over, *fetch, *quick, *body, "}", "} else {", *plain, "}"]

    # -- numbers -----------------------------------------------------------------------------------------------------
    def numbers(self, k: int, here: Pass) -> str:
        """The numbers per tensor of a pass."""
        nodes = [
            n for n in here.numbers if n.kind is Kind.TENSOR and n.op is not SHAPE and n.op.role is not Role.OPAQUE
        ]
        if not nodes:
            return ""
        lines = self._tensors(nodes, "double", besides=nodes)
        for n in nodes:
            memory = n.op is LOAD and f"*({self.type_of(n.attr)} *)j->P[{self.rows[n.attr]} * nt + t]"
            text = memory or self.expression(n, "double")
            lines.append(f"  {self._declare(n, 'double', f'({text})')}")
            lines.append(f"  j->T[{self.columns[n]} * nt + t] = n{self.ids[n]};")
        return self._over_tensors(f"numbers{k}", nodes, lines)

    def slices(self, k: int, here: Pass) -> str:
        """The numbers per slice of a pass."""
        parts = []
        for i, n in enumerate(here.slices):
            column = self.lists[n]
            lines = [*self._tensors([n], "double"), f"  double *z = j->Z + AT({column});"]
            fetch, text = "", "p[i]"
            if n.op is LOAD:
                lines.append(f"  {self.type_of(n.attr)} *p = j->P[{self.rows[n.attr]} * nt + t];")
            else:
                inner = [x for x in dict.fromkeys(n.inputs) if x.kind is Kind.SLICE]
                lines += [f"  const double *z{self.ids[x]} = j->Z + AT({self.lists[x]});" for x in inner]
                fetch = " ".join(self._declare(x, "double", f"z{self.ids[x]}[i]") for x in inner)
                text = self.expression(n, "double")
            lines.append(f"  for (int64_t i = 0; i < COUNT({column}); i++) {{ {fetch} z[i] = {text}; }}")
            parts.append(self._over_tensors(f"slices{k}_{i}", [n], lines, static=True))
        if parts:
            calls = " ".join(f"slices{k}_{i}(j);" for i in range(len(here.slices)))
            parts.append(f"void slices{k}(Job *j) {{ {calls} }}\n")
        return "".join(parts)

    def folds(self, k: int, here: Pass) -> str:
        """The reductions of numbers per slice."""
        lines = []
        for n in here.folds:
            x = " * ".join(f"j->Z[AT({self.lists[y]}) + i]" for y in n.inputs)
            more = f"r = MAXIMUM(r, {x})" if n.op is AMAX else f"r += {x}"
            lines.append(f"  {{ double r = {'-INFINITY' if n.op is AMAX else '0'};")
            lines.append(f"    for (int64_t i = 0; i < COUNT({self.lists[n.inputs[0]]}); i++) {more};")
            lines.append(f"    j->T[{self.columns[n]} * nt + t] = r; }}")
        return self._over_tensors(f"folds{k}", [], lines) if lines else ""

    def commit(self) -> str:
        """Writes the states of one number per tensor or slice."""
        lines = []
        for storage, value in self.plan.number_stores:
            if value.kind is Kind.GLOBAL:
                continue
            lines.append(f"  {{ {self.type_of(storage)} *p = j->P[{self.rows[storage]} * nt + t];")
            if value.kind is Kind.TENSOR:
                lines.append(f"    *p = j->T[{self.columns[value]} * nt + t]; }}")
            else:
                column = self.lists[value]
                lines.append(f"    for (int64_t i = 0; i < COUNT({column}); i++) p[i] = j->Z[AT({column}) + i]; }}")
        return self._over_tensors("commit", [], lines) if lines else ""

    def _over_tensors(self, name: str, nodes: Sequence[Value], lines: list[str], *, static: bool = False) -> str:
        hosts, body = "\n".join(self._hosts(nodes, "double")), "\n".join(lines)
        return (
            f"{'static ' if static else ''}void {name}(Job *j) {{\n  const int64_t nt = j->nt;\n{hosts}\n"
            f"  for (int64_t t = 0; t < nt; t++) {{\n{body}\n  }}\n}}\n"
        )

    def text(self) -> str:
        """All of it."""
        parts = [PRELUDE]
        for k, here in enumerate(self.plan.passes):
            parts += [self.numbers(k, here), self.slices(k, here), self.folds(k, here)]
            if here.sweeps:
                parts.append(self.sweep(k, here))
        return "".join([*parts, self.commit()])

    def write_globals(self, here: Pass) -> Callable[[Any], None] | None:
        """Numbers for all tensors are computed by the host: ``f(H)`` fills the list of host numbers."""
        nodes = [n for n in here.numbers if n.kind is Kind.GLOBAL and n.op is not LOAD and n.op.role is not Role.OPAQUE]
        if not nodes:
            return None
        code = ""
        for kind in ("python", "numpy"):
            code += f"def {kind}(H):\n"
            for n in nodes:
                args = [self._global(a, kind) for a in n.args]
                text = args[0] if n.op is FILL else getattr(n.op, kind).format(*args)
                code += f"    H[{self.globals[n]}] = {text}\n"
        space = dict(PYTHON)
        exec(code, space)
        quick, exact = space["python"], space["numpy"]

        def compute(H: Any) -> None:
            try:
                quick(H)
            except (ArithmeticError, ValueError):  # an infinity or no number at all
                with np.errstate(all="ignore"):
                    exact(H)

        return compute

    def _global(self, x: Any, kind: str) -> str:
        if not isinstance(x, (Value, Number)):
            return literal(x)
        text = f"H[{self.globals[x] if isinstance(x, Value) else self.plan.hosts[x]}]"
        text = text if kind == "python" else f"np.float64({text})"
        return f"({text} != 0)" if isinstance(x, Value) and x.mask else text
