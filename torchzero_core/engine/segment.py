"""Neighbouring rules, run together in as few passes over memory as their reductions allow.

A segment traces its rules once, plans the passes, and binds the plan to *buckets*: tensors of one device, dtype and
layout whose settings and step counts are the same. All of that is kept until something changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Reductions
from ..lang import Context, Host, Rule, Trace, Value
from . import backends, kernels
from .backends.foreach import EagerRunner
from .bucket import Bucket, is_dense
from .program import Mode, Program
from .surroundings import Home, Step

#: Elements from which on memory is slower than arithmetic.
RECOMPUTE_FROM = 1 << 21


class Segment:
    """A run of rules.

    Args:
        modules: the rules.
        home: where the parameters live.
        inner: whether it runs while another segment may be under way, so that it must not share its workspaces.
    """

    def __init__(self, modules: Sequence[Rule], home: Home | None, *, inner: bool = False) -> None:
        self.modules, self.home = list(modules), home
        self.space = f"@{self.modules[0].path}" if inner else ""
        self.path = self.modules[-1].path
        self.rules: list[Rule] = []
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
        self._fused: kernels.Tail | bool | None = False
        self._ran_fused = self._kernels = self._compiles = False

    def _collect(self, module: Any, *, top: bool = False) -> None:
        if top or module.is_rule:  # a rule run on another target is still a rule
            self.rules.append(module)
            for child in module.children.values():
                self._collect(child)

    def part(self, start: int, stop: int | None = None) -> Segment:
        """Some of the rules as a segment of their own."""
        out = Segment(self.modules[start:stop], self.home)
        out.names = self.names
        return out

    # -- settings and counts -----------------------------------------------------------------------------------------
    def setting_index(self, rule: int, name: str) -> int:
        """Where a rule's setting stands among the settings of a bucket."""
        return self._setting_index[rule, name]

    def read_settings(self, param: Tensor) -> list[Any]:
        """The settings of all rules for a parameter, and the group's lr at the end."""
        values = [v for rule in self.rules for v in rule.settings[param].values()]
        values = [float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for v in values]
        return [*values, 1.0 if self.home is None else self.home.final_scale(param)]

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
            if self.home is not None and lr != 1.0:
                u = u * lr
            p = trace.load(("p",), "element")
            trace.store(("p",), "element", p - u.float())
        else:
            trace.store(("u",) if mode.owned else ("out",), "element", u)
        return Program(trace, mode)

    def trace_module(self, trace: Trace, module: Any, u: Value) -> Value:
        """Put one module into the graph."""
        if id(module) not in self._rule_index:
            return Value(trace, "child", (u,), "element", attr=("child", module.path, module))
        rule = self._rule_index[id(module)]
        trace.rule = rule
        ctx = Context(trace, self, rule)
        value = kernels.kernel_value(u, ctx) if self._kernels else None
        if value is None:
            value = trace.promote(module.rule(u, ctx), "element")
        return value

    # -- binding -----------------------------------------------------------------------------------------------------
    def bind(self, params: list[Tensor]) -> None:
        """Sort the parameters into buckets."""
        for rule in self.rules:
            rule.check(params)
        groups: dict[Any, tuple[list[Tensor], list[int]]] = {}
        for i, p in enumerate(params):
            dense = is_dense(p)
            key = (
                p.device,
                p.dtype,
                dense,
                tuple(id(rule.settings[p]) for rule in self.rules),
                tuple(self.read_counts(p)),
                self.home.group_number(p) if self.home is not None else 0,
            )
            members = groups.setdefault(key, ([], []))
            members[0].append(p)
            members[1].append(i)
        self.buckets = [Bucket(self, ps, idx, dense=key[2]) for key, (ps, idx) in groups.items()]
        self._compiles = False
        if self.home is not None and self.home.compile:
            for bucket in self.buckets:
                bucket.compilable = backends.compilable(bucket)
                bucket.kernels &= not bucket.compilable
                self._compiles |= bucket.compilable
                bucket.recompute = bucket.compilable and sum(p.numel() for p in bucket.data) >= RECOMPUTE_FROM

    def unbind(self) -> None:
        """Forget the buckets: what they have read of the state is out of date."""
        self._bound = ()

    def refresh(self, params: list[Tensor]) -> None:
        """Buckets and settings as they have to be for this step."""
        home = self.home
        structure = home.version if home is not None else 0
        settings = home.settings_version if home is not None else 0
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
    def run(self, step: Step, tensors: list[Tensor], *, owned: bool, apply: bool = False) -> list[Tensor]:
        """Apply the rules to one tensor per parameter.

        Args:
            step: the step's context.
            tensors: what the first rule gets.
            owned: whether they may be overwritten.
            apply: move the parameters by the result.

        Returns:
            The results; nothing of use when the parameters were moved.
        """
        params = step.params
        if not params:
            return tensors
        self._prepare(params, owned=owned, apply=apply)
        buckets = self.buckets
        out = tensors
        if not apply and not owned:
            assert self.home is not None
            # What an inner segment returns may be kept while it runs again, so it gets memory of its own.
            out = [torch.empty_like(p) for p in params] if self.space else self.home.workspace("update", params)
        runners = []
        levels, meet = 0, False
        for bucket in buckets:
            program = bucket.program
            assert program is not None
            runner = bucket.runners.get(id(program))
            if runner is None:
                runner = bucket.runners[id(program)] = self._runner(bucket, program)
            grads = step.get_grad() if program.reads_gradient else []
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
                self._opaque(k, runners, step)
        written: set[Any] = set()
        for runner in runners:
            runner.commit(written)
        for bucket in buckets:
            bucket.count()
        return out

    def _runner(self, bucket: Bucket, program: Program) -> Any:
        if bucket.compilable:
            runner = backends.compiled_runner(bucket, program)
            if runner is not None:
                return runner
        return EagerRunner(bucket, program)

    def _totals(self, k: int, runners: Sequence[Any]) -> None:
        keys = list(dict.fromkeys(n.attr for r in runners if k < r.levels for n in r.plan.levels[k].totals))
        if not keys:
            return
        reductions = self.home.distributed if self.home is not None else Reductions()
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

    def _opaque(self, k: int, runners: Sequence[Any], step: Step) -> None:
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
            result = step.run_child(module, inputs)
            for r, node in parts.values():
                r.set_fresh(node, [result[i] for i in r.bucket.indices])

    def run_kernel(self, step: Step, update: list[Tensor], *, owned: bool) -> bool:
        """Move the parameters by one of torch's kernels, if one is at hand."""
        if self._fused is False:
            self._fused = kernels.find_tail(self)
        if not isinstance(self._fused, kernels.Tail):
            return False
        if self.home is not None and self.home.compile and step.params:
            self.refresh(step.params)
            if self._compiles:
                return False
        fits = self._fused.fits(step.params)
        if fits != self._ran_fused:  # the other way has counted steps since this one last ran
            self._ran_fused = fits
            self.unbind()
            self._fused.unbind()
        if fits:
            self._fused.run(step, update, owned=owned)
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
