"""The default backend: each pass becomes a few ``torch._foreach`` calls over pieces that fit in the cache.

Python source is generated once for each pass. Temporaries live for one piece only, so they are small and hot; an
operation works in place where its operand is no longer needed, and a state is updated where it lies.

Numbers per tensor are kept in one vector: a numpy array of doubles on the CPU, where a call of torch costs more than
the arithmetic, and a tensor on an accelerator, which the host must not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...lang.graph import Host, Value
from ..kernels import adam_update
from ..plan import Level, Plan, Storage
from ..runner import Runner

Tensors = list[Tensor]
COMMUTATIVE = {"add", "mul", "maximum", "minimum"}
IN_PLACE = {"add", "sub", "mul", "div", "lerp", "maximum", "minimum", "pow", "abs", "sqrt", "exp", "log", "sign", "neg"}
UNARY = {"abs", "sqrt", "exp", "log", "sign", "neg"}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "&", "or": "|"}
#: Binary operations whose foreach form takes one 0-d tensor for all.
TAKES_TENSOR = {"add", "mul", "div"}


#: From this size on, a call of the vector library for each tensor beats one slower call for all.
DOT_ELEMENTS = 1 << 13


def _doubles(numbers: Tensor) -> Any:
    if numbers.dtype is torch.float32:  # numpy converts it faster than torch
        return numbers.numpy().astype(np.float64)
    return numbers.double().numpy()


#: What a reduction leaves: a 0-d tensor for each tensor, and whether the number wanted is its square.
Parts = tuple[Tensors, bool]


def _sum(x: Tensors) -> Parts:
    return [t.sum() for t in x], False


def _dot(x: Tensors, y: Tensors) -> Parts:
    if x[0].device.type == "cpu" and x[0].dtype in (torch.float32, torch.float64) and x[0].numel() > DOT_ELEMENTS:
        return [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(x, y, strict=True)], False
    if x is y:  # one call for all tensors
        return list(torch._foreach_norm(x)), True
    return _sum(list(torch._foreach_mul(x, y)))


def _amax(x: Tensors) -> Parts:
    return [t.amax() if t.numel() else t.new_full((), -torch.inf) for t in x], False


def _vectors(*reductions: Parts) -> list[Tensor]:
    """The reductions of a pass, each as a vector of one number per tensor."""
    return [torch.stack(parts).square() if square else torch.stack(parts) for parts, square in reductions]


def _arrays(*reductions: Parts) -> list[Any]:
    """The same on the host, for the price of one conversion."""
    rows = _doubles(torch.stack([t for parts, _ in reductions for t in parts])).reshape(len(reductions), -1)
    return [row * row if square else row for row, (_, square) in zip(rows, reductions, strict=True)]


def _where(m: Any, a: Any, b: Any, like: Tensors) -> list[Tensor]:
    """``torch.where`` over lists, tensors and numbers."""
    n = len(like)
    m, a, b = (x if isinstance(x, (list, tuple)) else [x] * n for x in (m, a, b))
    out = []
    for c, x, y, t in zip(m, a, b, like, strict=True):
        if not isinstance(c, Tensor):
            chosen = x if c else y
            out.append(torch.full_like(t, chosen) if not isinstance(chosen, Tensor) else chosen.clone())
        elif isinstance(x, Tensor) or isinstance(y, Tensor):
            out.append(torch.where(c, x, y))
        else:
            out.append(torch.where(c, x, y).to(t.dtype if t.is_floating_point() else None))
    return out


def _copysign(a: Any, b: Any) -> list[Tensor]:
    n = len(a) if isinstance(a, (list, tuple)) else len(b)
    a, b = (x if isinstance(x, (list, tuple)) else [x] * n for x in (a, b))
    return [torch.copysign(x if isinstance(x, Tensor) else torch.full_like(y, x), y) for x, y in zip(a, b, strict=True)]


def _lerp(a: Any, b: Any, w: Any, n: int) -> list[Tensor]:
    """Any mixture of lists, 0-d tensors and numbers."""
    a, b, w = (x if isinstance(x, (list, tuple)) else [x] * n for x in (a, b, w))
    return [x + z * (y - x) for x, y, z in zip(a, b, w, strict=True)]


NAMESPACE: dict[str, Any] = {
    "torch": torch,
    "_sum": _sum,
    "_dot": _dot,
    "_amax": _amax,
    "_where": _where,
    "_copysign": _copysign,
    "_lerp": _lerp,
    **{f"{name}{suffix}": getattr(torch, f"_foreach_{name}{suffix}") for name in IN_PLACE for suffix in ("", "_")},
    "copy_": torch._foreach_copy_,
    "addcdiv": torch._foreach_addcdiv,
    "addcdiv_": torch._foreach_addcdiv_,
    "adam_update": adam_update,
}


class Writer:
    """Generates the source of one pass.

    Element values are lists ``n<i>`` of tensors. So are numbers per tensor, and a global number is a 0-d tensor, unless
    the host has the numbers: then they are lists of floats and floats. ``H`` holds host numbers.
    """

    def __init__(self, plan: Plan, ids: dict[Value, int], *, like: str, host: bool) -> None:
        self.plan, self.ids, self.like, self.host = plan, ids, like, host
        self.lines: list[str] = []

    def name(self, value: Value) -> str:
        """The variable that holds a value."""
        return f"n{self.ids[value]}"

    def operand(self, x: Any, kind: str) -> tuple[str, str]:
        """Source and letter: L a list of tensors, F one of floats, G one 0-d tensor for a list, S a number."""
        if isinstance(x, Value):
            letters = {"element": "L", "tensor": "F", "global": "S"} if self.host else {"global": "G"}
            return self.name(x), letters.get(x.kind, "L")
        if isinstance(x, Host):
            return f"H[{self.plan.host_index(x)}]", "S"
        return (
            "float('nan')" if x != x else f"float('{x}')" if x in (float("inf"), -float("inf")) else repr(float(x))
        ), "S"

    def spread(self, text: str, letter: str) -> str:
        """One number for each tensor of a list."""
        return f"[{text}] * len({self.like})" if letter not in "LF" else text

    def emit(self, node: Value, dying: Callable[[Value], bool]) -> bool:
        """Write one operation; True when it was done in place of its first operand."""
        out, op = self.name(node), "lerp" if node.op == "lerp_end" else node.op  # torch chooses the end itself
        ops = [self.operand(a, node.kind) for a in node.args]
        args, letters = [o[0] for o in ops], "".join(o[1] for o in ops)
        values = [a for a in node.args if isinstance(a, Value)]
        same = not node.mask and not any(a.mask for a in values)

        def can(i: int) -> bool:
            a = node.args[i]
            return same and op in IN_PLACE and isinstance(a, Value) and a.kind == node.kind and dying(a)

        if op in COMMUTATIVE and (letters[0] != "L" or (letters == "LL" and not can(0) and can(1))):
            args.reverse()
            letters = letters[::-1]
            reverse = True
        else:
            reverse = False
        first = node.args[-1] if reverse else node.args[0] if node.args else None
        place = bool(node.args) and letters[0] == "L" and can(len(node.args) - 1 if reverse else 0)
        if place and any(a is first for a in (node.args[:-1] if reverse else node.args[1:])):
            place = op in {"mul", "add", "sub", "div"}  # x·x in place is fine, a lerp towards itself is not
        if any(a.mask for a in values) and op in IN_PLACE:
            as_float = {"L": "[t.to({1}[0].dtype) for t in {0}]", "F": "[float(t) for t in {0}]"}
            masks = [isinstance(a, Value) and a.mask for a in (node.args if not reverse else node.args[::-1])]
            args = [
                as_float.get(letter, "{0}").format(text, self.like) if mask else text
                for text, letter, mask in zip(args, letters, masks, strict=True)
            ]
        suffix = "_" if place else ""

        if op in UNARY:
            text = f"{op}{suffix}({args[0]})"
        elif op in {"add", "sub", "mul", "div", "maximum", "minimum", "pow"}:
            if letters[0] == "L":
                if letters[1] == "G" and op not in TAKES_TENSOR:
                    args[1] = self.spread(args[1], "G")
                text = f"{op}{suffix}({args[0]}, {args[1]})"
            elif letters[0] == "G" and op != "pow":
                text = f"{op}({self.spread(args[0], 'G')}, {args[1]})"
            elif op == "sub":
                text = f"add(neg({args[1]}), {args[0]})"
            elif letters[0] == "F":
                sign = {"div": "/", "pow": "**"}[op]
                text = f"[a {sign} t for a, t in zip({args[0]}, {args[1]})]"
            elif op == "div":
                text = f"[{args[0]} / t for t in {args[1]}]"
            else:
                text = f"[{args[0]} ** t for t in {args[1]}]"
        elif op == "lerp":
            if letters in {"LLS", "LLL", "LLF"}:
                text = f"lerp{suffix}({', '.join(args)})"
            elif letters == "LLG":
                text = f"lerp{suffix}({args[0]}, {args[1]}, {self.spread(args[2], 'G')})"
            else:
                place = False
                text = f"_lerp({', '.join(args)}, len({self.like}))"
        elif op in COMPARE:
            place = False
            if all(letter in "LF" for letter in letters):
                text = f"[a {COMPARE[op]} b for a, b in zip({args[0]}, {args[1]})]"
            elif letters[0] in "LF":
                text = f"[a {COMPARE[op]} {args[1]} for a in {args[0]}]"
            else:
                text = f"[{args[0]} {COMPARE[op]} b for b in {args[1]}]"
        elif op == "not":
            text = f"[~t for t in {args[0]}]"
        elif op == "isfinite":
            text = f"[torch.isfinite(t) for t in {args[0]}]"
        elif op == "where":
            text = f"_where({', '.join(args)}, {self.like})"
        elif op == "copysign":
            text = f"_copysign({', '.join(args)})"
        elif op == "fill":
            value, letter = ops[0]
            if letter == "F":
                text = f"[torch.full_like(t, a) for t, a in zip({self.like}, {value})]"
            elif letter == "L":
                text = f"[torch.zeros_like(t) + a for t, a in zip({self.like}, {value})]"
            elif letter == "G":
                text = f"[torch.zeros_like(t) + {value} for t in {self.like}]"
            else:
                text = f"[torch.full_like(t, {value}) for t in {self.like}]"
        else:
            raise NotImplementedError(f"The foreach backend has no operation {op!r}.")
        self.lines.append(f"{out} = {text}")
        return place

    def function(self, name: str, params: str, result: str) -> Callable[..., Any]:
        """Compile the lines into a function, which keeps its source as ``source``."""
        body = "\n".join(f"    {line}" for line in self.lines)
        code = f"def {name}({params}):\n{body}\n    return {result}\n"
        namespace = {**NAMESPACE, "collect": _arrays if self.host else _vectors}
        exec(compile(code, f"<pass {name}>", "exec"), namespace)
        function = namespace[name]
        function.source = code
        return function


def element_pass(plan: Plan, level: Level, ids: dict[Value, int], *, host: bool) -> Callable[..., Any] | None:
    """The sweep of one level: ``f(E, H, T)`` with lists of pieces by storage; returns the partial reductions.

    ``E[i]`` belongs to ``plan.storages[i]``; ``T`` maps a node's id to its numbers (one per piece, or one in all),
    which are numpy's if ``host`` and else torch's.
    """
    if not (level.elements or level.reductions or level.writes):
        return None
    if not level.reads and not level.writes:
        return None
    any_storage = plan.storages[0]
    out = Writer(plan, ids, like="LIKE", host=host)
    out.lines.append("LIKE = E[0]")
    assert any_storage is not None
    storage_of: dict[Value, Storage] = dict(level.reads)
    for value, storage in level.reads.items():
        if storage[0] == "fresh":
            out.lines.append(f"{out.name(value)} = F[{ids[value]}]")
            continue
        out.lines.append(f"{out.name(value)} = E[{plan.storages.index(storage)}]")
        if value.mask:
            out.lines.append(f"{out.name(value)} = [t != 0 for t in {out.name(value)}]")
    work: list[Value] = [*level.elements, *level.reductions]
    for scalar in dict.fromkeys(a for n in work for a in n.args if isinstance(a, Value) and a.kind != "element"):
        text = ".tolist()" if host else "" if scalar.kind == "global" else ".unbind()"
        out.lines.append(f"{out.name(scalar)} = T[{ids[scalar]}]{text}")

    last: dict[Value, int] = {}
    for i, node in enumerate(work):
        for a in node.args:
            if isinstance(a, Value):
                last[a] = i
    writes: dict[Value, list[Storage]] = {}
    for storage, value in level.writes:
        writes.setdefault(value, []).append(storage)
    written = {storage for storage, _ in level.writes}
    fused, quotients = _multiply_adds(level, last, writes)
    skipped = {*fused.values(), *quotients.values()}
    placed: set[tuple[Storage, Value]] = set()
    lent: set[Value] = set()  # lists that are another value's memory by now
    later = plan.levels[plan.levels.index(level) + 1 :]
    needed_later = set(plan.opaque_inputs).union(*(other.reads for other in later))
    for i, node in enumerate(work):
        if node in skipped:
            continue
        if node.op in ("sum", "dot", "amax"):
            out.lines.append(f"{out.name(node)} = _{node.op}({', '.join(map(out.name, node.args))})")
            continue

        def free(a: Value, i: int = i) -> bool:
            return last.get(a, -1) <= i and a not in lent

        target = writes.get(node, [])

        def dying(a: Value, node: Value = node, target: list[Storage] = target) -> bool:
            """May ``node`` overwrite ``a``? A temporary yes; a state when this is its new value."""
            if not free(a) or (a in writes and storage_of.get(a) is None):
                return False
            if a in storage_of:  # its memory gets a new value in this pass, so nobody needs what it holds now
                storage = storage_of[a]
                if storage[0] == "work" and storage not in written:
                    return a not in needed_later and a not in writes
                return storage in written and a not in writes and all(s == storage for s in target)
            return True

        product = fused.get(node)
        if node.op == "adam":
            place = False
            home = next((s for s in target if s[0] in ("work", "out") and s not in level.reads.values()), None)
            like = out.name(next(a for a in node.args[1:] if isinstance(a, Value)))  # laid out as its parameter
            memory = f"[torch.empty_like(t) for t in {like}]" if home is None else f"E[{plan.storages.index(home)}]"
            args = ", ".join(out.operand(a, "element")[0] for a in node.args)
            out.lines.append(f"{out.name(node)} = adam_update({memory}, {args})")
            if home is not None:
                placed.add((home, node))
                storage_of[node] = home
        elif node.op == "written":  # by a kernel, where its first operand lay
            place, base = True, node.args[0]
            out.lines.append(f"{out.name(node)} = {out.name(base)}")
        elif product is not None:
            base = node.args[0]
            factor, scale = product.args if isinstance(product.args[0], Value) else product.args[::-1]
            sign = "-" if node.op == "sub" else ""
            place = dying(base) and factor is not base
            number = out.operand(scale, "element")[0]
            end = "_" if place else ""
            if node in quotients:
                over, under = (out.name(x) for x in factor.args)
                text = f"addcdiv{end}({out.name(base)}, {over}, {under}, value={sign}{number})"
            else:
                text = f"add{end}({out.name(base)}, {out.name(factor)}, alpha={sign}{number})"
            out.lines.append(f"{out.name(node)} = {text}")
        else:
            place = out.emit(node, dying)
            base = next((a for a in node.args if isinstance(a, Value)), None) if place else None
            if place and node.op in COMMUTATIVE:
                text = out.lines[-1].split("_(", 1)[1]
                base = next(a for a in node.args if isinstance(a, Value) and text.startswith(out.name(a) + ","))
        if place and base is not None:
            lent.add(base)
            if base in storage_of:
                placed.add((storage_of[base], node))
                storage_of[node] = storage_of[base]
        parts = [n for n in (node, product, quotients.get(node)) if n is not None]
        dead = [a for n in parts for a in n.args if isinstance(a, Value) and a not in skipped]
        for a in dict.fromkeys(dead):
            if a in lent:
                continue
            if a.kind == "element" and last.get(a, -1) <= i and a not in writes and a not in level.reads:
                out.lines.append(f"{out.name(a)} = None")
    for storage, value in level.writes:
        if (storage, value) in placed:
            continue
        out.lines.append(f"copy_(E[{plan.storages.index(storage)}], {out.name(value)})")
    result = ", ".join(out.name(r) for r in level.reductions)
    return out.function("sweep", "E, H, T, F", f"collect({result})" if result else "()")


def _multiply_adds(
    level: Level, last: dict[Value, int], writes: dict[Value, list[Storage]]
) -> tuple[dict[Value, Value], dict[Value, Value]]:
    """``a ± b·number`` and ``a ± b/c·number`` as one call, where nothing else uses the product and the quotient.

    Returns:
        The product by sum, and the quotient by sum.
    """
    uses: dict[Value, int] = {}
    for node in (*level.elements, *level.reductions):
        for a in node.args:
            if isinstance(a, Value):
                uses[a] = uses.get(a, 0) + 1
    found: dict[Value, Value] = {}
    quotients: dict[Value, Value] = {}
    inside = set(level.elements)
    for i, node in enumerate(level.elements):
        if node.op not in {"add", "sub"} or not all(isinstance(a, Value) and a.kind == "element" for a in node.args):
            continue
        a, b = node.args
        if node.op == "add" and not _scaled(b, inside, uses, writes) and _scaled(a, inside, uses, writes):
            node.args = (b, a)
            a, b = b, a
        if _scaled(b, inside, uses, writes) and not a.mask and a is not b:
            found[node] = b
            factor = next(x for x in b.args if isinstance(x, Value))
            if _quotient(factor, inside, uses, writes):
                quotients[node] = factor
            for operand in (*b.args, *(factor.args if node in quotients else ())):
                if isinstance(operand, Value):
                    last[operand] = max(last.get(operand, -1), i)
    return found, quotients


def _quotient(x: Value, inside: set[Value], uses: dict[Value, int], writes: dict[Value, list[Storage]]) -> bool:
    if x.op != "div" or x not in inside or uses[x] != 1 or x in writes:
        return False
    return all(isinstance(a, Value) and a.kind == "element" and not a.mask for a in x.args)


def _scaled(x: Value, inside: set[Value], uses: dict[Value, int], writes: dict[Value, list[Storage]]) -> bool:
    if x.op != "mul" or x not in inside or uses[x] != 1 or x in writes:
        return False
    elements = [a for a in x.args if isinstance(a, Value)]
    return len(elements) == 1 and elements[0].kind == "element" and not elements[0].mask


def scalar_pass(plan: Plan, level: Level, ids: dict[Value, int], *, host: bool) -> Callable[..., None] | None:
    """The scalar work of one level: ``f(H, T, NUMEL)`` reads and writes ``T[id]``, arrays of numpy or of torch."""
    work = [n for n in level.scalars if n.op != "load"]
    if not work:
        return None

    def text(x: Any) -> str:
        if isinstance(x, Value):
            return f"T[{ids[x]}]"
        return f"H[{plan.host_index(x)}]" if isinstance(x, Host) else f"float('{float(x)}')"

    lines = []
    for node in work:
        args = [text(a) for a in node.args]
        op = node.op
        if op in ARITHMETIC:
            out = f"{args[0]} {ARITHMETIC[op]} {args[1]}"
        elif op in COMPARE:
            out = f"{args[0]} {COMPARE[op]} {args[1]}"
        elif op in ("maximum", "minimum") and not isinstance(node.args[0], Value):
            out = f"{op}({args[1]}, {args[0]})"
        elif op in UNARY or op in ("maximum", "minimum", "isfinite", "where", "copysign"):
            out = f"{op}({', '.join(args)})"
        elif op == "not":
            out = f"~{args[0]}"
        elif op == "lerp":
            out = f"{args[0]} + {args[2]} * ({args[1]} - {args[0]})"
        elif op == "lerp_end":
            out = f"{args[1]} - (1 - {args[2]}) * ({args[1]} - {args[0]})"
        elif op == "fill":
            out = f"0 * {'NUMEL' if node.kind == 'tensor' else 'NUMEL[0]'} + {args[0]}"
        elif op == "numel":
            out = "NUMEL"
        else:
            raise NotImplementedError(f"The foreach backend has no operation {op!r} on numbers per tensor.")
        lines.append(f"T[{ids[node]}] = {out}")
    code = "def scalars(H, T, NUMEL):\n" + "\n".join(f"    {line}" for line in lines) + "\n"
    namespace = dict(HOST_SCALARS if host else DEVICE_SCALARS)
    exec(compile(code, "<scalar pass>", "exec"), namespace)
    function = namespace["scalars"]
    function.source = code
    return function


def _bound(both: Callable[..., Tensor], one: Callable[..., Tensor]) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, y: both(x, y) if isinstance(y, Tensor) else one(x, y)


def _scalar_where(mask: Tensor, a: Any, b: Any) -> Tensor:
    out = torch.where(mask, a, b)
    like = next((x for x in (a, b) if isinstance(x, Tensor)), None)
    return out if like is None else out.to(like.dtype)


def _scalar_copysign(a: Any, b: Tensor) -> Tensor:
    return torch.copysign(a if isinstance(a, Tensor) else torch.full_like(b, a), b)


ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}
SHARED = (*UNARY - {"neg"}, "isfinite")
HOST_SCALARS: dict[str, Any] = {
    **{name: getattr(np, name) for name in (*SHARED, "maximum", "minimum", "where", "copysign")},
    "neg": np.negative,
}
DEVICE_SCALARS: dict[str, Any] = {
    **{name: getattr(torch, name) for name in (*SHARED, "neg")},
    "maximum": _bound(torch.maximum, torch.clamp_min),
    "minimum": _bound(torch.minimum, torch.clamp_max),
    "where": _scalar_where,
    "copysign": _scalar_copysign,
}
#: Whether numbers per tensor are the host's on the CPU; False runs what accelerators run, for tests.
NUMBERS_ON_HOST = True
#: Pieces of about this many elements are swept at a time, so that temporaries stay in the cache.
CPU_PIECE = 1 << 17
GPU_PIECE = 1 << 26


class EagerRunner(Runner):
    """Runs one program on one bucket.

    Args:
        bucket: the tensors and their state.
        program: the passes.
    """

    def __init__(self, bucket: Any, program: Any) -> None:
        super().__init__(bucket, program)
        plan = self.plan
        data = bucket.data
        like = data[0]
        host = self.host = NUMBERS_ON_HOST and like.device.type == "cpu"
        key = ("eager", host)
        if key not in program.compiled:
            program.compiled[key] = [
                (scalar_pass(plan, level, program.ids, host=host), element_pass(plan, level, program.ids, host=host))
                for level in plan.levels
            ]
        self.passes = program.compiled[key]
        self.needs_numel = any(n.op == "numel" for level in plan.levels for n in level.scalars)
        counts = [float(p.numel()) for p in data] if self.needs_numel else [0.0] * len(data)
        self.numel = np.array(counts) if host else like.new_tensor(counts)
        self.chunks = _chunks(data, CPU_PIECE if like.device.type == "cpu" else GPU_PIECE, split=bucket.dense)
        self.whole_tensors = all(part is None for chunk in self.chunks for _, part in chunk)
        self.rows = [_rows([i for i, _ in chunk], like.device, host=host) for chunk in self.chunks]
        self.single = len(self.chunks) == 1 and self.whole_tensors
        self._views: dict[Storage, tuple[list[Tensor], list[list[Tensor]]]] = {}
        self.stateful = [s for s in plan.storages if s[0] == "state"]
        self.T: dict[int, Any] = {}
        self.vectors: dict[Storage, Tensor] = {}  # the states of one number per tensor, in this step
        self.H = ()

    def begin(self, u: list[Tensor], grads: list[Tensor], out: list[Tensor]) -> None:
        """Take what this step works on."""
        bucket, program = self.bucket, self.program
        self.H = program.host(bucket.settings, bucket.counts)
        for storage in self.plan.storages:
            self.E[storage] = self.tensors(storage, u, grads, out)
        self.T = {}
        self.fresh = {}
        for node in program.scalar_loads:
            storage = node.attr
            if storage[0] == "global":
                like = bucket.data[0]
                value = bucket.global_state(storage).to(device=like.device, dtype=like.dtype)
            else:
                value = self.vectors[storage] = bucket.vector(storage)
            self.T[program.ids[node]] = self._numbers(value)

    def _numbers(self, values: Tensor) -> Any:
        """Numbers per tensor, or one for all, as the passes want them."""
        return _doubles(values)[()] if self.host else values

    def pieces(self, storage: Storage, tensors: list[Tensor]) -> list[list[Tensor]]:
        """The tensors by chunk, cut where a chunk has only a part of one."""
        old = self._views.get(storage)
        if (
            old is not None
            and len(old[0]) == len(tensors)
            and all(a is b for a, b in zip(old[0], tensors, strict=True))
        ):
            return old[1]
        data = self.bucket.data
        views = []
        for chunk in self.chunks:
            row = []
            for i, part in chunk:
                t = tensors[i]
                if part is not None:
                    p = data[i]
                    if t.stride() != p.stride():
                        t = torch.empty_like(p, dtype=t.dtype).copy_(t)
                    t = t.as_strided((part[1] - part[0],), (1,), t.storage_offset() + part[0])
                row.append(t)
            views.append(row)
        if storage[0] not in ("u", "g", "fresh"):  # gradients are new every step; holding on to them costs memory
            self._views[storage] = (list(tensors), views)
        return views

    def sweep(self, k: int) -> None:
        """Scalar work, then the elements, of pass ``k``."""
        level = self.plan.levels[k]
        scalars, elements = self.passes[k]
        ids = self.program.ids
        if scalars is not None and self.host:
            with np.errstate(all="ignore"):  # infinities and NaNs go where they go
                scalars(self.H, self.T, self.numel)
        elif scalars is not None:
            scalars(self.H, self.T, self.numel)
        if elements is None:
            for node in level.reductions:  # nothing to read: a reduction of a constant
                raise NotImplementedError(f"{node} reduces a constant")
            return
        if self.single:
            fresh = {ids[v]: tensors for v, tensors in self.fresh.items()}
            parts = elements([self.E[s] for s in self.plan.storages], self.H, self.T, fresh)
            for node, values in zip(level.reductions, parts, strict=True):
                self.T[ids[node]] = values
            return
        used = set(level.reads.values()) | {s for s, _ in level.writes}
        views = [self.pieces(s, self.E[s]) if s in used or i == 0 else None for i, s in enumerate(self.plan.storages)]
        parted = {ids[v]: self.pieces(s, self.fresh[v]) for v, s in level.reads.items() if s[0] == "fresh"}
        wanted = [
            (ids[a], a.kind == "tensor")
            for n in (*level.elements, *level.reductions)
            for a in n.args
            if isinstance(a, Value) and a.kind != "element"
        ]
        found: list[Any] = []
        for c, rows in enumerate(self.rows):
            T = {i: self.T[i][rows] if per_tensor else self.T[i] for i, per_tensor in wanted}
            found.append(
                elements([None if v is None else v[c] for v in views], self.H, T, {i: v[c] for i, v in parted.items()})
            )
        for r, node in enumerate(level.reductions):
            self.T[ids[node]] = self._join(node.op, [parts[r] for parts in found])

    def _join(self, op: str, found: list[Any]) -> Any:
        """The numbers of each tensor from those of its pieces."""
        index = [i for chunk in self.chunks for i, _ in chunk]
        count, start = len(self.bucket.data), -np.inf if op == "amax" else 0.0
        if self.host:
            numbers = np.concatenate(found)
            if self.whole_tensors:
                return numbers
            out = np.full(count, start)
            (np.maximum if op == "amax" else np.add).at(out, index, numbers)
            return out
        values = torch.cat(found)
        if self.whole_tensors:
            return values
        at = torch.tensor(index, device=values.device)
        whole = values.new_full((count,), start)
        return whole.index_reduce_(0, at, values, "amax") if op == "amax" else whole.index_add_(0, at, values)

    def partial(self, node: Value) -> Any:
        """A total over this bucket."""
        values = self.T[self.program.ids[node.args[0]]]
        return values.sum() if node.op == "total" else values.max()

    def set_total(self, node: Value, value: Any) -> None:
        """Take a total over everything."""
        like = self.bucket.data[0]
        self.T[self.program.ids[node]] = (
            np.float64(value) if self.host else torch.as_tensor(value, dtype=like.dtype, device=like.device)
        )

    def commit(self, written: set[Storage]) -> None:
        """Write the states of one number.

        Args:
            written: the module-wide states that another bucket has written in this step; the own ones are added.
        """
        for storage, value in self.plan.scalar_stores:
            new = self.T[self.program.ids[value]]
            new = torch.from_numpy(np.asarray(new)) if self.host else new
            if storage[0] == "state":
                vector = self.vectors.get(storage)
                (self.bucket.vector(storage) if vector is None else vector).copy_(new)
            elif storage not in written:
                written.add(storage)
                self.bucket.global_state(storage).copy_(new)
        self.T, self.fresh, self.vectors = {}, {}, {}
        for storage in self.plan.storages:
            if storage[0] in ("u", "g"):
                self.E.pop(storage, None)


def _rows(indices: list[int], device: torch.device, *, host: bool) -> Any:
    """What picks a chunk's tensors out of a vector of one number per tensor."""
    first, last = indices[0], indices[-1]
    if last - first + 1 == len(indices):
        return slice(first, last + 1)
    return np.array(indices) if host else torch.tensor(indices, device=device)


def _chunks(data: list[Tensor], size: int, *, split: bool) -> list[list[tuple[int, tuple[int, int] | None]]]:
    """Groups of whole tensors, or parts of a large one, of about ``size`` elements."""
    chunks: list[list[tuple[int, tuple[int, int] | None]]] = []
    current: list[tuple[int, tuple[int, int] | None]] = []
    filled = 0
    for i, p in enumerate(data):
        n = p.numel()
        if split and n > 2 * size:
            count = -(-n // size)
            step = -(-n // count)
            chunks += [[(i, (a, min(a + step, n)))] for a in range(0, n, step)]
            continue
        if current and filled + n > size:
            chunks.append(current)
            current, filled = [], 0
        current.append((i, None))
        filled += n
    if current or not chunks:
        chunks.append(current)
    return chunks
