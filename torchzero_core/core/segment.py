"""Neighbouring rules, run together in as few passes over memory as their reductions allow.

A segment traces its rules once, plans the passes, and binds the plan to *buckets*: tensors of one device, dtype and
layout whose settings and step counts are the same. All of that is kept until something changes.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import fused
from .chain import Chain, only_rules
from .distributed import Reductions
from .eager import EagerRunner
from .graph import Host, Trace, Value, host_function
from .module import Module
from .plan import Plan, Storage, make_plan
from .transform import Context, Slot, Transform, is_rule

if TYPE_CHECKING:
    from .modular import Modular
    from .var import Var


#: Elements from which on memory is slower than arithmetic.
RECOMPUTE_FROM = 1 << 21


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


class Bucket:
    """The tensors of a segment that take the same path.

    Attributes:
        params: the tensors.
        indices: their positions in the step's parameters.
        compilable: whether a compiling backend takes them.
        kernels: whether torch's kernels take them.
        recompute: whether they are too many to stay in the processor's cache between two passes.
        settings: the settings of all rules, by index.
        counts: the next step count of each rule.
        stores: for each parameter, the dict of its state and the prefix of each rule's part.
    """

    def __init__(self, segment: Segment, params: list[Tensor], indices: list[int], *, dense: bool) -> None:
        self.segment, self.params, self.indices, self.dense = segment, params, indices, dense
        self.data = [p.detach() for p in params]
        self.settings = segment.read_settings(params[0])
        located = [segment.rules[0].locate(p) for p in params] if segment.rules else []
        cut = len(segment.rules[0].prefix) if segment.rules else 0
        self.stores = [(store, prefix[: len(prefix) - cut]) for store, prefix in located]
        self.counts = segment.read_counts(params[0])
        self.runners: dict[Any, Any] = {}
        self._plain = all(p.is_contiguous() for p in self.data)
        self._places: dict[Any, list[tuple[dict[str, Any], str]]] = {}
        self._vectors: dict[Storage, tuple[Tensor, tuple[Tensor, ...]]] = {}
        self.program: Program | None = None
        self.compilable = self.recompute = False
        self.kernels = fused.takes(self.data[0], dense=dense)

    def key(self, rule: int, name: str, i: int) -> str:
        """What a rule's state is called in the dict of the i-th tensor."""
        return f"{self.stores[i][1]}{self.segment.rules[rule].prefix}{name}"

    def conforming(self, tensors: list[Tensor]) -> list[Tensor]:
        """Tensors as compiled code wants them: of the dtype and in the memory order of the parameters."""
        if self._plain:
            dtype = self.data[0].dtype
            for t in tensors:
                if t.dtype is not dtype or not t.is_contiguous():
                    break
            else:
                return tensors
        return [t if _conforms(t, p) else torch.empty_like(p).copy_(t) for t, p in zip(tensors, self.data, strict=True)]

    def states(self, storage: Storage) -> list[Tensor]:
        """The tensors of one state, made where they are missing.

        A state that was loaded, or whose parameter has since changed, is brought to the parameter's dtype, device and
        memory order: kernels and compiled code go by them.
        """
        places = self._places.get(storage)
        if places is not None:
            try:
                return [store[key] for store, key in places]
            except KeyError:
                pass
        _, rule, name = storage
        slot: Slot = self.segment.rules[rule].slots[name]
        init = slot.init
        if isinstance(init, str):
            init = float(self.settings[self.segment.setting_index(rule, init)])
        out = []
        for i, p in enumerate(self.data):
            store, key = self.stores[i][0], self.key(rule, name, i)
            value = store.get(key)
            if value is None:
                value = store[key] = p.new_full((), init) if slot.scalar else torch.full_like(p, init)
            elif slot.scalar:
                value = store[key] = value.to(device=p.device, dtype=p.dtype)
            elif value.shape != p.shape:
                raise ValueError(
                    f"The state {key!r} has shape {tuple(value.shape)} and its parameter {tuple(p.shape)}: it belongs "
                    "to another parameter. Load the state of this model, or call reset()."
                )
            elif value.device != p.device or not _conforms(value, p):
                value = store[key] = torch.empty_like(p).copy_(value)
            out.append(value)
        self._places[storage] = [(store, self.key(rule, name, i)) for i, (store, _) in enumerate(self.stores)]
        return out

    def vector(self, storage: Storage) -> Tensor:
        """The numbers of a state with one for each tensor, as a vector whose elements are the states themselves."""
        states = self.states(storage)
        vector, elements = self._vectors.get(storage, (None, ()))
        if vector is None or not all(map(operator.is_, states, elements)):
            vector = torch.stack(states)
            elements = vector.unbind()
            for (store, key), element in zip(self._places[storage], elements, strict=True):
                store[key] = element
            self._vectors[storage] = vector, elements
        return vector

    def global_state(self, storage: Storage) -> Tensor:
        """The one tensor of a module-wide state."""
        _, rule, name = storage
        module = self.segment.rules[rule]
        state = module.global_state
        if name not in state:
            init = module.slots[name].init
            if isinstance(init, str):
                init = float(self.settings[self.segment.setting_index(rule, init)])
            state[name] = self.data[0].new_full((), init)
        return state[name]

    def count(self) -> None:
        """Note that every counted rule has made one more step."""
        assert self.program is not None
        for rule in self.program.counted:
            self.count_rule(rule)

    def count_rule(self, rule: int) -> None:
        """Note that one rule has made one more step."""
        t = self.counts[rule]
        places = self._places.get(rule)
        if places is None:
            places = self._places[rule] = [
                (store, self.key(rule, "step", i)) for i, (store, _) in enumerate(self.stores)
            ]
        for store, key in places:
            store[key] = t
        self.counts[rule] = t + 1


class Segment:
    """A run of rules.

    Args:
        modules: the rules.
        modular: the optimizer.
        inner: whether it runs while another segment may be under way, so that it must not share its workspaces.
    """

    needs_gradient = True

    def __init__(self, modules: Sequence[Module], modular: Modular | None, *, inner: bool = False) -> None:
        self.modules, self.modular = list(modules), modular
        self.space = f"@{self.modules[0].path}" if inner else ""
        self.apply = False
        self.path = self.modules[-1].path
        self.rules: list[Transform] = []
        for module in self.modules:
            self._collect(module, top=True)
        self._rule_index = {id(r): i for i, r in enumerate(self.rules)}
        self._setting_index: dict[tuple[int, str], int] = {}
        for i, rule in enumerate(self.rules):
            for name in rule.defaults:
                self._setting_index[i, name] = len(self._setting_index)
        self.programs: list[Program] = []
        self._bound: tuple[Any, ...] = ()
        self.buckets: list[Bucket] = []
        self.names = ", ".join(m.path for m in self.modules)
        self._fused: fused.Tail | bool | None = False
        self._ran_fused = self._kernels = self._compiles = False

    def _collect(self, module: Module, *, top: bool = False) -> None:
        if isinstance(module, Chain):
            for child in module.children.values() if only_rules(module) else ():
                self._collect(child)
        elif is_rule(module) or (top and isinstance(module, Transform)):  # a rule run on another target is still a rule
            self.rules.append(module)  # type: ignore[arg-type]
            for child in module.children.values():
                self._collect(child)

    # -- settings and counts -----------------------------------------------------------------------------------------
    def setting_index(self, rule: int, name: str) -> int:
        """Where a rule's setting stands among the settings of a bucket."""
        return self._setting_index[rule, name]

    def read_settings(self, param: Tensor) -> list[Any]:
        """The settings of all rules for a parameter, and the group's lr at the end."""
        values = [v for rule in self.rules for v in rule.settings[param].values()]
        values = [float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for v in values]
        modular = self.modular
        lr = 1.0
        if modular is not None and modular.lr_scales_update:
            lr = modular.param_groups[modular.group_index(modular.host_param(param))]["lr"]
        return [*values, float(lr)]

    def read_counts(self, param: Tensor) -> list[int]:
        """The step each rule makes next with a parameter."""
        return [int(rule.state[param].get("step", 0)) + 1 for rule in self.rules]

    # -- tracing -----------------------------------------------------------------------------------------------------
    def trace(self, settings: Sequence[Any], counts: Sequence[int], mode: Mode) -> Program:
        """Run the rules on symbols."""
        trace = Trace(settings, counts)
        self._kernels = mode.kernels
        u = trace.load(("u",), "element")
        for module in self.modules:
            u = self.trace_module(trace, module, u)
        if mode.apply:
            lr = Host(f"S[{len(settings) - 1}]", trace)
            if self.modular is not None and self.modular.lr_scales_update and lr != 1.0:
                u = u * lr
            p = trace.load(("p",), "element")
            trace.store(("p",), "element", p - u.float())
        else:
            trace.store(("u",) if mode.owned else ("out",), "element", u)
        return Program(trace, mode)

    def trace_module(self, trace: Trace, module: Module, u: Value) -> Value:
        """Put one module into the graph."""
        if isinstance(module, Chain) and only_rules(module):
            for child in module.children.values():
                u = self.trace_module(trace, child, u)
            return u
        if id(module) not in self._rule_index:
            return Value(trace, "child", (u,), "element", attr=("child", module.path, module))
        rule = self._rule_index[id(module)]
        trace.rule = rule
        ctx = Context(trace, self, rule)
        value = fused.kernel_value(u, ctx) if self._kernels else None
        if value is None:
            value = trace.promote(module.rule(u, ctx), "element")  # type: ignore[attr-defined]
        return value

    # -- binding -----------------------------------------------------------------------------------------------------
    def bind(self, params: list[Tensor]) -> None:
        """Sort the parameters into buckets."""
        for rule in self.rules:
            rule.check(params)
        groups: dict[Any, tuple[list[Tensor], list[int]]] = {}
        for i, p in enumerate(params):
            dense = _is_dense(p)
            modular = self.modular
            key = (
                p.device,
                p.dtype,
                dense,
                tuple(id(rule.settings[p]) for rule in self.rules),
                tuple(self.read_counts(p)),
                modular.group_index(modular.host_param(p)) if modular is not None and modular.lr_scales_update else 0,
            )
            members = groups.setdefault(key, ([], []))
            members[0].append(p)
            members[1].append(i)
        self.buckets = [Bucket(self, ps, idx, dense=key[2]) for key, (ps, idx) in groups.items()]
        self._compiles = False
        if self.modular is not None and self.modular.compile:
            from .compiler import compilable

            for bucket in self.buckets:
                bucket.compilable = compilable(bucket)
                bucket.kernels &= not bucket.compilable
                self._compiles |= bucket.compilable
                bucket.recompute = bucket.compilable and sum(p.numel() for p in bucket.data) >= RECOMPUTE_FROM

    def unbind(self) -> None:
        """Forget the buckets: what they have read of the state is out of date."""
        self._bound = ()

    def refresh(self, params: list[Tensor]) -> None:
        """Buckets and settings as they have to be for this step."""
        modular = self.modular
        structure = modular.version if modular is not None else 0
        settings = modular.settings_version if modular is not None else 0
        if not self._bound or self._bound[0] is not params or self._bound[1] != structure:
            self.bind(params)
        elif self._bound[2] != settings:
            for bucket in self.buckets:
                bucket.settings = self.read_settings(bucket.params[0])
        self._bound = (params, structure, settings)

    def _prepare(self, params: list[Tensor], *, owned: bool, apply: bool) -> None:
        """Buckets, settings and programs as they have to be for this step."""
        self.refresh(params)
        for bucket in self.buckets:
            program, mode = bucket.program, Mode(owned, apply, bucket.kernels, bucket.recompute)
            if program is None or program.mode != mode or not program.holds(bucket.settings, bucket.counts):
                bucket.program = self._program(bucket, mode)
        if len(self.buckets) > 1:
            self._agree()

    def _program(self, bucket: Bucket, mode: Mode) -> Program:
        for program in self.programs:
            if program.mode == mode and program.holds(bucket.settings, bucket.counts):
                return program
        program = self.trace(bucket.settings, bucket.counts, mode)
        self.programs.append(program)
        return program

    def _agree(self) -> None:
        """Let all buckets take a total at the end of the same pass."""
        while True:
            levels: dict[Any, int] = {}
            programs = [b.program for b in self.buckets if b.program is not None]
            for program in programs:
                for key, level in program.plan.total_levels.items():
                    levels[key] = max(level, levels.get(key, 0))
            late = [
                b
                for b in self.buckets
                if b.program is not None and any(levels[k] != v for k, v in b.program.plan.total_levels.items())
            ]
            if not late:
                return
            for bucket in late:
                assert bucket.program is not None
                bucket.program = bucket.program.levelled(levels)

    # -- running -----------------------------------------------------------------------------------------------------
    def step(self, var: Var) -> Var:
        """Run on the step's update; moves the parameters too when this ends the chain."""
        update = var.peek_update()
        if self.apply and not var.skip_update:  # else a module before has moved the parameters itself
            if not self._run_fused(var, update):
                self.run(var, update, owned=var.owned, apply=True)
            var.skip_update = True
        else:
            out = self.run(var, update, owned=var.owned)
            owned = var.owned or out is not update
            var.update = out
            var.owned = owned
        return var

    def run(self, var: Var, tensors: list[Tensor], *, owned: bool, apply: bool = False) -> list[Tensor]:
        """Apply the rules to one tensor per parameter.

        Args:
            var: the step's context.
            tensors: what the first rule gets.
            owned: whether they may be overwritten.
            apply: move the parameters by the result.

        Returns:
            The results; nothing of use when the parameters were moved.
        """
        params = var.params
        if not params:
            return tensors
        self._prepare(params, owned=owned, apply=apply)
        buckets = self.buckets
        out = tensors
        if not apply and not owned:
            assert self.modular is not None
            # What an inner segment returns may be kept while it runs again, so it gets memory of its own.
            out = [torch.empty_like(p) for p in params] if self.space else self.modular.workspace("update", params)
        runners = []
        levels, meet = 0, False
        for bucket in buckets:
            program = bucket.program
            assert program is not None
            runner = bucket.runners.get(id(program))
            if runner is None:
                runner = bucket.runners[id(program)] = self._runner(bucket, program)
            grads = var.get_grad() if program.reads_gradient else []
            if len(buckets) == 1:
                runner.begin(tensors, grads, out)
            else:
                runner.begin(*([x[i] for i in bucket.indices] if x else x for x in (tensors, grads, out)))
            runners.append(runner)
            levels, meet = max(levels, runner.levels), meet or program.meets
        for k in range(levels):
            for runner in runners:
                if k < runner.levels:
                    runner.sweep(k)
            if meet:
                self._totals(k, runners)
                self._opaque(k, runners, var)
        written: set[Any] = set()
        for runner in runners:
            runner.commit(written)
        for bucket in buckets:
            bucket.count()
        return out

    def _runner(self, bucket: Bucket, program: Program) -> Any:
        if bucket.compilable:
            from .compiler import compiled_runner

            runner = compiled_runner(bucket, program)
            if runner is not None:
                return runner
        return EagerRunner(bucket, program)

    def _totals(self, k: int, runners: Sequence[Any]) -> None:
        keys = list(dict.fromkeys(n.attr for r in runners if k < r.levels for n in r.plan.levels[k].totals))
        if not keys:
            return
        reductions = self.modular.distributed if self.modular is not None else Reductions()
        for key in keys:
            parts, op = [], ""
            for r in runners:
                for node in r.plan.levels[k].totals if k < r.levels else ():
                    if node.attr == key:
                        parts.append(r.partial(node))
                        op = node.op
            value = _combine(op, parts, reductions)
            for r in runners:
                for node in r.plan.levels[k].totals if k < r.levels else ():
                    if node.attr == key:
                        r.set_total(node, value)

    def _opaque(self, k: int, runners: Sequence[Any], var: Var) -> None:
        if not any(r.plan.levels[k].opaque for r in runners if k < r.levels):
            return
        children: dict[Any, dict[int, tuple[Any, Value]]] = {}
        for j, r in enumerate(runners):
            for node in r.plan.levels[k].opaque if k < r.levels else ():
                if node.op == "apply":
                    r.call(node)
                else:
                    children.setdefault(node.attr, {})[j] = (r, node)
        for (_, _, module), parts in children.items():
            inputs: dict[int, Tensor] = {}
            for r, node in parts.values():
                inputs.update(zip(r.bucket.indices, r.whole(node.args[0]), strict=True))
            order = sorted(inputs)
            if len(order) == len(var.params):
                inner = var.clone([inputs[i].clone() for i in order])
            else:
                inner = var.clone([inputs[i].clone() for i in order], params=[var.params[i] for i in order])
                if var.grad is not None:
                    inner.grad = [var.grad[i] for i in order]
            if not var.stop:  # one before it has ended the step, and the result is not used
                inner = module.step(inner)
            result = dict(zip(order, inner.peek_update(), strict=True))
            if len(order) == len(var.params):
                var.take(inner)
            for r, node in parts.values():
                r.set_fresh(node, [result[i] for i in r.bucket.indices])

    def _run_fused(self, var: Var, update: list[Tensor]) -> bool:
        if self._fused is False:
            self._fused = fused.find_tail(self)
        if not isinstance(self._fused, fused.Tail):
            return False
        if self.modular is not None and self.modular.compile and var.params:
            self.refresh(var.params)
            if self._compiles:
                return False
        fits = self._fused.fits(var.params)
        if fits != self._ran_fused:  # the other way has counted steps since this one last ran
            self._ran_fused = fits
            self.unbind()
            self._fused.unbind()
        if fits:
            self._fused.run(var, update)
        return fits


def _combine(op: str, parts: list[Any], reductions: Reductions) -> Any:
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if not tensors:
        value: Any = sum(parts) if op == "total" else max(parts)
        if type(reductions) is Reductions:
            return value
        tensors = [torch.tensor(value, dtype=torch.float64)]
        parts = tensors
    like = tensors[0]
    parts = [torch.as_tensor(p, dtype=like.dtype, device=like.device) for p in parts]
    value = parts[0]
    for other in parts[1:]:
        value = value + other if op == "total" else torch.maximum(value, other)
    return reductions.sum_scalar(value) if op == "total" else reductions.max_scalar(value)


def _conforms(t: Tensor, p: Tensor) -> bool:
    return t.dtype is p.dtype and ((t.is_contiguous() and p.is_contiguous()) or t.stride() == p.stride())


def _is_dense(p: Tensor) -> bool:
    """Whether the elements fill one block of memory, in whatever order."""
    if p.layout is not torch.strided or type(p) not in (Tensor, torch.nn.Parameter):
        return False
    return p.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(p)
