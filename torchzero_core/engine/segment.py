"""Neighbouring rules, run together in as few passes over memory as their reductions allow.

A segment traces its rules once, plans the passes, and binds the plan to *buckets*: tensors of one device, dtype and
layout whose settings and step counts are the same. Programs belong to the segment, buckets to the list of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import local, placed
from ..lang.graph import OUT, PARAM, UPDATE, Kind, Trace, Value
from ..lang.number import Host
from ..lang.ops import CHILD, Symbol, is_number
from ..lang.rule import Call, Context, Rule
from . import backends, kernels
from .bucket import Bucket, is_dense
from .meetings import add_up, meet
from .params import Params
from .program import Mode, Program
from .runner import Runner
from .surroundings import Home, Step
from .transaction import Transaction

#: Elements from which on memory is slower than arithmetic.
RECOMPUTE_FROM = 1 << 21
#: Programs that a segment keeps for each bucket.
PROGRAMS = 16


class Binding:
    """What a segment has worked out for one list of parameters.

    Attributes:
        buckets: the parameters by the path they take.
        runners: what runs each program on a bucket.
        facts: what is known of all of them together: the number of elements, and the next step of each rule.
        alike: parameters of groups that share buckets because they set the same, one of each group.
        settings_version: of the settings that the buckets have.
        spread: whether some of the parameters are spread over ranks.
        simple: whether there is one bucket, and this rank has all of it.
        ways: how it last ran: whether the update might be overwritten, whether the parameters were moved.
        turn: which of the segment's bindings it is; step counts are out of date in all but the latest.
    """

    def __init__(
        self, buckets: list[Bucket], facts: list[float], alike: list[list[Tensor]], settings_version: int, turn: int
    ) -> None:
        self.buckets, self.facts, self.settings_version, self.turn = buckets, facts, settings_version, turn
        self.alike = alike
        self.runners: dict[Bucket, dict[Program, Runner]] = {bucket: {} for bucket in buckets}
        self.spread = any(bucket.shards is not None for bucket in buckets)
        self.simple = len(buckets) == 1 and not self.spread
        self.ways = (False, False)


def _run_rule(module: Any, u: Value, ctx: Context) -> Any:
    """The result of a rule; what it raises says whose it is."""
    try:
        return module.rule(u, ctx)
    except (TypeError, AttributeError, RuntimeError, ValueError) as error:
        text = str(error)
        if type(error).__module__ == "builtins" and len(error.args) == 1 and not text.startswith("The rule of"):
            foreign = any(word in text for word in ("'Value'", "'Number'", "Value.", "Number.", "type Value"))
            hint = " A rule computes with symbols and numbers only: u.sqrt(), mask.where(a, b)." if foreign else ""
            error.args = (f"The rule of {module.path}: {text}{hint}",)
        raise


class Segment:
    """A run of rules.

    Args:
        modules: the rules.
        home: where the parameters live.
        inner: whether it runs while another segment may be under way, so that it must not share its workspaces.

    Attributes:
        rules: the rules and those among their children, by index.
        programs: what was traced, the latest used last.
    """

    def __init__(self, modules: Sequence[Rule], home: Home | None, *, inner: bool = False) -> None:
        self.modules, self.home = list(modules), home
        self._transaction = Transaction() if home is None else home.transaction
        self.scratch_key = f"@{self.modules[0].path}" if inner else ""
        self.path = self.modules[-1].path
        self.names = ", ".join(m.path for m in self.modules)
        self.rules: list[Rule] = []
        for module in self.modules:
            self._collect(module, top=True)
        self._rule_index = {id(r): i for i, r in enumerate(self.rules)}
        pairs = [(i, name) for i, rule in enumerate(self.rules) for name in rule.defaults]
        self._setting_index = {pair: k for k, pair in enumerate(pairs)}
        self._tail = kernels.find_tail(self.modules)
        self._kernels = False
        self._turn = 0
        self.programs: list[Program] = []

    def _collect(self, module: Any, *, top: bool = False) -> None:
        if top or module.is_rule:  # a rule run on another target is still a rule
            self.rules.append(module)
            for child in module.children.values():
                self._collect(child)

    # -- settings and counts -----------------------------------------------------------------------------------------
    def setting_index(self, rule: int, name: str) -> int:
        """Where a rule's setting stands among the settings of a bucket."""
        return self._setting_index[rule, name]

    def _read_settings(self, param: Tensor) -> list[Any]:
        """The settings of all rules for a parameter, and the group's lr at the end."""
        values = [v for rule in self.rules for v in rule.settings[param].values()]
        values = [float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for v in values]
        return [*values, 1.0 if self.home is None else self.home.final_scale(param)]

    def _read_counts(self, param: Tensor) -> list[int]:
        """The step each rule makes next with a parameter."""
        return [_count(rule.state[param].get("step", 0), rule) + 1 for rule in self.rules]

    # -- tracing -----------------------------------------------------------------------------------------------------
    def trace(self, settings: Sequence[Any], counts: Sequence[int], facts: Sequence[float], mode: Mode) -> Program:
        """Run the rules on symbols."""
        trace = Trace(settings, counts, facts)
        self._kernels = mode.kernels and not mode.narrow
        u = trace.load(UPDATE, Kind.ELEMENT)
        modules, tail = self.modules, len(self.modules) - len(self._tail)
        scale: Any = 1.0
        if mode.moves and self.home is not None:
            lr = trace.given(f"S[{len(settings) - 1}]", "lr", settings[-1])
            scale = lr if lr != 1.0 else 1.0
        for i, module in enumerate(modules):
            if i == tail and mode.kernels and mode.moves and self._trace_tail(trace, u, scale):
                return Program(trace.graph(), mode)
            u = self.trace_module(trace, module, u)
        if mode.moves:
            p = trace.load(PARAM, Kind.ELEMENT)
            trace.store(PARAM, Kind.ELEMENT, p - (u.float() if isinstance(scale, float) else u * scale))
        else:
            trace.store(UPDATE if mode.writable else OUT, Kind.ELEMENT, u)
        return Program(trace.graph(), mode)

    def _trace_tail(self, trace: Trace, u: Value, scale: Any) -> bool:
        rules = [self._rule_index[id(m)] for m in self.modules[-len(self._tail) :]]
        contexts = {kind: Context(trace, self, rule) for kind, rule in zip(self._tail, rules, strict=True)}
        trace.rule = rules[0]
        return kernels.trace_tail(trace, u, contexts, scale)

    def trace_module(self, trace: Trace, module: Any, u: Value) -> Value:
        """Put one module into the graph."""
        if id(module) not in self._rule_index:
            return Value(trace, CHILD, (u.float(),), Kind.ELEMENT, attr=Call((-1, id(module)), module))
        trace.rule = rule = self._rule_index[id(module)]
        ctx = Context(trace, self, rule)
        value = kernels.adam_value(u, ctx) if self._kernels else None
        if value is None:
            value = _run_rule(module, u, ctx)
            if not isinstance(value, Symbol) and not is_number(value):
                raise TypeError(
                    f"The rule of {module.path} returned {value!r}; it must return the new update, computed from u "
                    "with the operations of values (u.sqrt() and not torch.sqrt(u)), or by ctx.call."
                )
        return trace.promote(value, Kind.ELEMENT)

    # -- binding -----------------------------------------------------------------------------------------------------
    def bind(self, params: Params) -> Binding:
        """Sort the parameters into buckets."""
        for rule in self.rules:
            rule.check(params)
        home = self.home
        groups: dict[Any, tuple[list[Tensor], list[int]]] = {}
        kinds: dict[Any, tuple[Any, Tensor]] = {}  # parameters of groups that set the same
        for i, p in enumerate(params):
            kind = tuple(id(rule.settings[p]) for rule in self.rules), home.group_number(p) if home is not None else 0
            if kind not in kinds:
                kinds[kind] = _hashable(self._read_settings(p), kind), p
            key = (
                p.device,
                p.dtype,
                is_dense(local(p.detach())),
                getattr(p, "device_mesh", None),
                getattr(p, "placements", None),
                kinds[kind][0],
                tuple(self._read_counts(p)),
            )
            members = groups.setdefault(key, ([], []))
            members[0].append(p)
            members[1].append(i)
        buckets = [
            Bucket(self.rules, self._setting_index, ps, at, self._read_settings(ps[0]), self._read_counts(ps[0]))
            for ps, at in groups.values()
        ]
        for bucket in buckets:
            self._choose_backend(bucket)
        firsts: dict[Any, list[Tensor]] = {}
        for values, p in kinds.values():
            firsts.setdefault(values, []).append(p)
        numel = float(sum(p.numel() for p in params))
        steps = [float(_count(rule.global_state.get("step", 0), rule)) + 1 for rule in self.rules]
        self._turn += 1
        version = home.settings_version if home is not None else 0
        alike = [ps for ps in firsts.values() if len(ps) > 1]
        return Binding(buckets, [numel, *steps], alike, version, self._turn)

    def _choose_backend(self, bucket: Bucket) -> None:
        dtype = bucket.data[0].dtype
        slots = [(rule, name) for rule in self.rules for name in rule.slots]
        as_asked = any(rule.declared(name).asked not in (None, dtype) for rule, name in slots)
        rounding = None if self.home is None else self.home.rounding
        bucket.rounding = rounding if rounding is not None and rounding.takes(dtype) else None
        bucket.kernels = (
            kernels.supports(bucket.data[0], self._tail, dense=bucket.dense)
            and not as_asked
            and bucket.rounding is None
        )
        if self.home is not None and self.home.compile:
            refusal = backends.refusal(bucket) or (
                None if bucket.rounding is None else "there is no compiled form of stochastic rounding"
            )
            bucket.compilable = refusal is None
            bucket.kernels &= not bucket.compilable
            bucket.recompute = bucket.compilable and sum(p.numel() for p in bucket.data) >= RECOMPUTE_FROM
            if refusal is not None:
                self._warn_uncompiled(refusal, once=True)

    def _warn_uncompiled(self, why: str, *, once: bool) -> None:
        """Say why rules run uncompiled; once for all of them where it has nothing to do with the rules."""
        assert self.home is not None
        self.home.warn_once(
            f"compile:{why}" if once else f"compile:{self.names}:{why}",
            f"compile=True has no effect on {self.names}: {why}. It runs uncompiled.",
        )

    def _bound(self, params: Params) -> Binding:
        """Buckets and settings as they have to be for this step."""
        binding: Binding | None = params.derived.get(self)
        version = self.home.settings_version if self.home is not None else 0
        if (
            binding is None
            or binding.turn != self._turn
            or not self._counts_hold(binding)
            or (binding.settings_version != version and not self._still_alike(binding))
        ):
            binding = params.derived[self] = self.bind(params)
        elif binding.settings_version != version:
            for bucket in binding.buckets:
                bucket.settings = self._read_settings(bucket.params[0])
            binding.settings_version = version
        return binding

    def _still_alike(self, binding: Binding) -> bool:
        """Whether groups that set the same still do."""
        for params in binding.alike:
            first = self._read_settings(params[0])
            if any(self._read_settings(p) != first for p in params[1:]):
                return False
        return True

    def _counts_hold(self, binding: Binding) -> bool:
        """Whether the steps that buckets have counted are those that the state says: anybody may edit the state."""
        for bucket in binding.buckets:
            if not bucket.counts_hold():
                return False
            for i in () if bucket.program is None else bucket.program.graph.counted_whole:
                rule = self.rules[i]
                if _count(rule.global_state.get("step", 0), rule) != binding.facts[i + 1] - 1:
                    return False
        return True

    def _prepare(self, binding: Binding, *, writable: bool, moves: bool) -> None:
        """Let every bucket have the program of this step."""
        buckets, facts = binding.buckets, binding.facts
        again = binding.ways == (writable, moves)
        binding.ways = (writable, moves)
        for bucket in buckets:
            host = (bucket.settings, bucket.counts, facts)
            hosts = None
            if again and bucket.program is not None:
                known = bucket.checked is bucket.settings
                hosts = bucket.program.again(*host) if known else bucket.program.evaluate(*host)
            if hosts is None:
                narrow = bucket.data[0].dtype in (torch.bfloat16, torch.float16)
                mode = Mode(writable, moves, bucket.kernels, bucket.recompute, narrow)
                bucket.program, hosts = self._program(binding, bucket, host, mode)
            bucket.hosts, bucket.checked = hosts, bucket.settings
        if len(buckets) > 1:
            self._check_uniform(buckets)
            self._agree(buckets, facts)

    def _program(self, binding: Binding, bucket: Bucket, host: Host, mode: Mode) -> tuple[Program, tuple[Any, ...]]:
        """A program that holds, with its host numbers."""
        programs = self.programs
        for program in reversed(programs):
            hosts = program.evaluate(*host) if program.mode == mode else None
            if hosts is not None:
                programs.remove(program)
                programs.append(program)
                return program, hosts
        program = self.trace(*host, mode)
        if len(programs) >= PROGRAMS * len(binding.buckets):
            self._warn_of_guard(programs[-1], program)
            for gone in programs.pop(0).family():
                for runners in binding.runners.values():
                    runners.pop(gone, None)
        programs.append(program)
        hosts = program.evaluate(*host)
        assert hosts is not None
        return program, hosts

    def _warn_of_guard(self, last: Program, new: Program) -> None:
        guard = last.broken(new)
        if guard is not None and self.home is not None:
            self.home.warn_once(
                f"programs:{self.names}",
                f"{self.names} is traced anew again and again, because a rule looks at the value of {guard.number!r}, "
                "which changes from step to step. Compute with it instead of calling float(), int() or bool() on it.",
            )

    def _check_uniform(self, buckets: Sequence[Bucket]) -> None:
        """Refuse settings that a rule needs for all parameters together where groups differ in them."""
        for rule, name in {pair for b in buckets if b.program is not None for pair in b.program.graph.uniform}:
            values = [b.settings[self._setting_index[rule, name]] for b in buckets]
            other = next((v for v in values if v != values[0]), values[0])
            if other != values[0]:
                raise ValueError(
                    f"{self.rules[rule].path} takes one {name} for all parameters, but the parameter groups set "
                    f"{name}={values[0]!r} and {name}={other!r}; give every group the same value."
                )

    def _agree(self, buckets: Sequence[Bucket], facts: Sequence[float]) -> None:
        """Let all buckets take a total at the end of the same pass."""
        while True:
            passes: dict[Any, int] = {}
            programs = [(b, b.program) for b in buckets if b.program is not None]
            for _, program in programs:
                for key, k in program.plan.meetings.items():
                    passes[key] = max(k, passes.get(key, 0))
            early = [(b, p) for b, p in programs if any(passes[key] != k for key, k in p.plan.meetings.items())]
            if not early:
                return
            for bucket, program in early:
                bucket.program = program.aligned(passes)
                bucket.hosts = bucket.program.evaluate(bucket.settings, bucket.counts, facts) or ()

    # -- running -----------------------------------------------------------------------------------------------------
    def run(self, step: Step, tensors: list[Tensor], *, writable: bool, moves: bool = False) -> list[Tensor]:
        """Apply the rules to one tensor per parameter.

        Args:
            step: the step's context.
            tensors: what the first rule gets.
            writable: whether they may be overwritten.
            moves: move the parameters by the result.

        Returns:
            The results; nothing of use when the parameters were moved.
        """
        params = step.params
        if not params:
            return tensors
        binding = self._bound(params)
        if binding.spread:
            tensors = placed(tensors, params)
        self._prepare(binding, writable=writable, moves=moves)
        if step.grad is None and any(b.program is not None and b.program.reads_gradient for b in binding.buckets):
            step.get_grad()
            if step.params is not params:  # those without a gradient take no part in the step any more
                of = dict(zip(map(id, params), tensors, strict=True))
                return self.run(step, [of[id(p)] for p in step.params], writable=writable, moves=moves)
        out = tensors
        if not moves and not writable:
            # What an inner segment returns may be kept while it runs again, so it gets memory of its own.
            out = [torch.empty_like(p) for p in params] if self.scratch_key else params.scratch("update")
        runners = [self._begin(step, params, bucket, binding, tensors, out) for bucket in binding.buckets]
        if self._transaction.active:
            self._enter(runners, moves=moves)
        if len(runners) == 1:
            self._run_alone(step, runners[0])
        else:
            self._run_together(step, runners)
        self._commit(binding, runners)
        return out

    def repeat(self, params: Params, grads: list[Tensor], alike: object) -> bool:
        """Move the parameters as in the step before, if nothing but numbers has changed in this segment since then.

        Args:
            params: the parameters.
            grads: what the first rule gets.
            alike: the same object as long as the gradients' layouts and dtypes stay the same.

        Returns:
            Whether that was done; otherwise nothing was.
        """
        binding: Binding | None = params.derived.get(self)
        if binding is None or not binding.simple or binding.ways != (False, True) or binding.turn != self._turn:
            return False
        bucket = binding.buckets[0]
        program = bucket.program
        if self.home is None or binding.settings_version != self.home.settings_version or program is None:
            return False
        if program.foreign or program.random or program.reads_loss or not self._counts_hold(binding):
            return False
        hosts = program.again(bucket.settings, bucket.counts, binding.facts)
        if hosts is None:
            return False
        runner = binding.runners[bucket][program]
        bucket.hosts = hosts
        runner.begin((grads, grads, []), None, alike)
        self._transaction.seal()
        self._run_alone(None, runner)
        self._commit(binding, [runner])
        return True

    def _run_alone(self, step: Step | None, runner: Runner) -> None:
        """All passes of the only bucket."""
        program = runner.program
        for k in range(len(program.meets)):
            runner.sweep(k)
            if runner.bucket.shards is not None:
                add_up(k, runner)
            if program.calls[k]:
                runner.run_calls(k)
            if program.meets[k]:
                meet(k, [runner], step, self)

    def _enter(self, runners: Sequence[Runner], *, moves: bool) -> None:
        """Note down what is about to be written, unless it is the last of the step and nothing in it may fail."""
        transaction = self._transaction
        if moves and not transaction.thorough and not any(r.program.foreign for r in runners):
            for runner in runners:
                runner.make_numbers()  # for want of memory it fails now, and not when the parameters have moved
            transaction.seal()
            return
        for runner in runners:
            transaction.keep(runner.written())

    def _run_together(self, step: Step, runners: Sequence[Runner]) -> None:
        """Pass by pass."""
        for k in range(max(len(r.plan.passes) for r in runners)):
            present = [r for r in runners if k < len(r.plan.passes)]
            for runner in present:
                runner.sweep(k)
                if runner.bucket.shards is not None:
                    add_up(k, runner)
                if runner.program.calls[k]:
                    runner.run_calls(k)
            if any(r.program.meets[k] for r in present):
                meet(k, present, step, self)

    def _begin(
        self, step: Step, params: Params, bucket: Bucket, binding: Binding, tensors: list[Tensor], out: list[Tensor]
    ) -> Runner:
        program = bucket.program
        assert program is not None
        runners = binding.runners[bucket]
        runner = runners.get(program)
        if runner is None:
            runner = runners[program] = self._runner(params, bucket, program, whole=len(binding.buckets) == 1)
        grads = step.get_grad() if program.reads_gradient else []
        loss = step.loss
        if loss is None and program.reads_loss:
            loss = step.get_loss(program.loss_with_gradients)
        if loss is not None and program.reads_loss and self.home is not None:
            loss = self.home.distributed.mean_loss(loss)
        if len(binding.buckets) > 1:
            tensors, grads, out = ([x[i] for i in bucket.indices] if x else x for x in (tensors, grads, out))
        if bucket.shards is not None:
            grads = placed(grads, bucket.params) if grads else []
            tensors, grads, out = (list(map(local, x)) for x in (tensors, grads, out))
        runner.begin((tensors, grads, out), loss)
        return runner

    def _runner(self, params: Params, bucket: Bucket, program: Program, *, whole: bool) -> Runner:
        def scratch(number: int) -> list[Tensor]:
            found = params.scratch(f"work{number}{self.scratch_key}")
            found = found if whole else [found[i] for i in bucket.indices]
            return found if bucket.shards is None else list(map(local, found))

        if bucket.compilable:
            try:
                return backends.compiled(bucket, program, scratch)
            except backends.Unsupported as error:
                self._warn_uncompiled(str(error), once=isinstance(error, backends.Unavailable))
        return backends.ForeachRunner(bucket, program, scratch)

    def _commit(self, binding: Binding, runners: Sequence[Runner]) -> None:
        written: set[Any] = set()
        counted: set[int] = set()
        for runner in runners:
            runner.commit(written)
            runner.bucket.count()
            if runner.program.graph.counted_whole:
                counted.update(runner.program.graph.counted_whole)
        for rule in counted:
            self.rules[rule].global_state["step"] = int(binding.facts[rule + 1])
            binding.facts[rule + 1] += 1


def _count(value: Any, rule: Rule) -> int:
    """How many steps a rule has made, as its state says: anybody may have written there.

    Raises:
        ValueError: it is no whole number from 0 on.
    """
    if type(value) is int and value >= 0:
        return value
    single = not isinstance(value, Tensor) or value.numel() == 1
    try:
        count = int(value) if single else -1
        if count >= 0 and count == value:
            return count
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"The state '{rule.path}.step' is {value!r} where there must be the number of steps that have been made; set "
        "it, or call reset()."
    )


def _hashable(settings: list[Any], otherwise: Any) -> Any:
    """The values of settings as a key; something else where one has no hash."""
    key = tuple(settings)
    try:
        hash(key)
    except TypeError:
        return otherwise
    return key
