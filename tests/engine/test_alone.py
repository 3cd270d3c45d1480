"""The engine by itself: rules, parameters and steps that no optimizer has made."""

import ast
import math
from pathlib import Path

import pytest
import torch

import torchzero_core
from torchzero_core.distributed import Reductions
from torchzero_core.engine import Segment, Transaction
from torchzero_core.engine.params import Params
from torchzero_core.engine.plan import make_plan
from torchzero_core.lang import Dims, Kind, Place, Slot, Trace
from torchzero_core.lang.graph import OUT, UPDATE

F64 = torch.float64
both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


class Formula:
    """A rule with its settings and a state of its own."""

    is_rule = True
    kernel_needs = {}

    def declared(self, name):
        return self.slots[name]

    def __init__(self, fn, path="Formula", slots=(), **settings):
        self.fn, self.path, self.slots, self.defaults = fn, path, dict(slots), settings
        self.children, self.kept, self.whole = {}, {}, {}
        self.settings = _Of(lambda p: self.defaults)
        self.state = _Of(self.state_of)

    def state_of(self, param):
        return self.kept.setdefault(id(param), {})

    @property
    def prefix(self):
        return ""

    @property
    def global_state(self):
        return self.whole

    def locate(self, param):
        return self.state_of(param), ""

    def check(self, params):
        """Nothing to refuse."""

    def generator(self, device):
        return torch.Generator(device).manual_seed(3)

    def rule(self, u, ctx):
        return self.fn(u, ctx)


class _Of:
    def __init__(self, find):
        self.find = find

    def __getitem__(self, param):
        return self.find(param)


class Home:
    """Where the parameters live: groups by their position."""

    settings_version = 0
    rounding = None

    def __init__(self, compile):
        self.compile, self.distributed, self.warnings = compile, Reductions(), []
        self.transaction = Transaction()

    def group_number(self, param):
        return 0

    def final_scale(self, param):
        return 1.0

    def warn_once(self, key, message):
        self.warnings.append(message)


class Step:
    """One step on given gradients."""

    grad = None  # until somebody asks for it

    def __init__(self, params, loss=math.nan):
        self.params, self.loss = params, torch.tensor(loss, dtype=F64)

    def get_grad(self):
        return [torch.full_like(p, 2.0) for p in self.params]

    def get_loss(self, backward=False):
        return self.loss

    def run_child(self, module, inputs):
        return {i: t + 1.0 for i, t in inputs.items()}


def params(*shapes):
    return Params(torch.arange(math.prod(s), dtype=F64).reshape(s) + 1.0 for s in shapes)


def run(rules, ps, us, *, compile, steps=1, moves=False, **step):
    """What some rules make of updates, and the segment."""
    home = Home(compile)
    segment = Segment(rules, home)
    for _ in range(steps):
        out = segment.run(Step(ps, **step), [u.clone() for u in us], writable=False, moves=moves)
    assert home.warnings == []
    return [t.clone() for t in out], segment


def test_the_engine_imports_nothing_of_an_optimizer():
    root = Path(torchzero_core.__file__).parent / "engine"
    names = [
        node.module or ""
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert names and not [n for n in names if n.split(".")[0] in ("core", "modules", "linalg")]


@both
def test_rules_follow_one_another_in_one_program(compile):
    rules = [Formula(lambda u, c: u * c.settings.a, "A", a=3.0), Formula(lambda u, c: u + c.params - c.grads, "B")]
    ps = params((2, 3), (4,))
    us = [torch.ones(2, 3, dtype=F64), torch.full((4,), -1.0, dtype=F64)]
    out, segment = run(rules, ps, us, compile=compile, steps=3)
    assert all(torch.equal(o, 3 * u + p - 2) for o, u, p in zip(out, us, ps, strict=True))
    assert len(segment.programs) == 1 and len(segment.programs[0].plan.passes) == 1
    rules[0].defaults["a"] = 5.0  # a number is no part of the program
    segment.home.settings_version += 1
    again = segment.run(Step(ps), us, writable=False)
    assert all(torch.equal(o, 5 * u + p - 2) for o, u, p in zip(again, us, ps, strict=True))
    assert len(segment.programs) == 1


@both
def test_state_lies_where_the_rule_says(compile):
    def average(u, ctx):
        ctx.state.m = ctx.state.m.lerp(u, 0.5)
        return ctx.state.m / (1 - 0.5**ctx.step)

    rule = Formula(average, slots={"m": Slot()})
    ps, us = params((3,)), [torch.tensor([1.0, 2.0, 4.0], dtype=F64)]
    out, segment = run([rule], ps, us, compile=compile, steps=4)
    torch.testing.assert_close(out[0], us[0], rtol=1e-15, atol=0)
    state = rule.state_of(ps[0])
    assert state["step"] == 4
    torch.testing.assert_close(state["m"], us[0] * (1 - 0.5**4), rtol=1e-15, atol=0)
    state["m"].zero_()
    state["step"] = 0  # others may write there between two steps
    ps.derived.clear()
    (out,) = segment.run(Step(ps), us, writable=False)
    torch.testing.assert_close(out, us[0], rtol=1e-15, atol=0)


@both
def test_totals_go_over_buckets_and_ranks(compile):
    """float32 and float64 parameters are two buckets, which meet at a total; the other rank adds 7."""

    class Two(Reductions):
        def sum_scalar(self, value):
            return value + 7.0

    home = Home(compile)
    home.distributed = Two()
    ps = Params([torch.ones(3, dtype=F64), torch.ones(2)])
    segment = Segment([Formula(lambda u, c: u / u.global_sum())], home)
    out = segment.run(Step(ps), [torch.ones(3, dtype=F64), torch.full((2,), 5.0)], writable=False)
    torch.testing.assert_close(out[0], torch.full((3,), 1 / 20, dtype=F64), rtol=1e-15, atol=0)
    torch.testing.assert_close(out[1], torch.full((2,), 0.25), rtol=1e-7, atol=0)


@both
@pytest.mark.parametrize("dims", [0, 1, (0, 1), -1, Dims((0,), inverse=True)], ids=str)
def test_numbers_per_slice(dims, compile):
    along = {0: [0], 1: [1], (0, 1): [0, 1], -1: [1]}.get(dims if not isinstance(dims, Dims) else 1)
    us = [torch.arange(12.0, dtype=F64).reshape(3, 4) - 4.5]
    ps = params((3, 4))
    out, _ = run([Formula(lambda u, c: u - u.mean(dims) + u.amax(dims))], ps, us, compile=compile)
    u = us[0]
    torch.testing.assert_close(out[0], u - u.mean(along, keepdim=True) + u.amax(along, keepdim=True))


@both
def test_modules_that_are_no_rules_come_back_to_the_step(compile):
    rule = Formula(lambda u, c: 2 * c.child("other", u))
    rule.children["other"] = type("Other", (), {"is_rule": False, "path": "Other", "children": {}})()
    out, _ = run([rule], params((2,), (3,)), [torch.ones(2, dtype=F64), torch.zeros(3, dtype=F64)], compile=compile)
    assert [t.tolist() for t in out] == [[4.0] * 2, [2.0] * 3]


@both
def test_it_moves_parameters(compile):
    ps = params((2,))
    run([Formula(lambda u, c: u * c.loss)], ps, [torch.ones(2, dtype=F64)], compile=compile, moves=True, loss=0.5)
    assert ps[0].tolist() == [0.5, 1.5]


@both
def test_programs_are_bounded_and_the_guard_is_named(compile):
    rule = Formula(lambda u, c: u * float(c.settings.a), a=0.0)
    home, ps = Home(compile), params((2,))
    segment = Segment([rule], home)
    for i in range(40):
        rule.defaults["a"] = float(i)
        home.settings_version += 1
        (out,) = segment.run(Step(ps), [torch.ones(2, dtype=F64)], writable=False)
        assert out.tolist() == [float(i)] * 2
    assert len(segment.programs) <= 16
    assert len(home.warnings) >= 1 and all("Formula.a" in w for w in home.warnings)


def test_a_plan_cuts_at_reductions_and_keeps_what_is_needed():
    trace = Trace([], [], [0.0])
    u = trace.load(UPDATE, Kind.ELEMENT)
    doubled = (u * 2.0).exp()
    trace.store(OUT, Kind.ELEMENT, doubled / doubled.norm())
    plan = make_plan(trace.graph())
    assert [len(p.reductions) for p in plan.passes] == [1, 0]
    assert [s.place for s in plan.storages].count(Place.WORK) == 1
    again = make_plan(trace.graph(), recompute=True)  # an exponential is not computed twice
    assert [s.place for s in again.storages].count(Place.WORK) == 1
    with pytest.raises(AttributeError, match="does not change"):
        doubled.op = None


def test_what_ran_a_program_that_is_gone_is_gone_in_every_bucket():
    rule = Formula(lambda u, c: u * float(c.settings.a) / u.global_sum(), a=0.0)
    home = Home(False)
    ps = Params([torch.ones(3, dtype=F64), torch.ones(2)])
    segment = Segment([rule], home)
    for i in range(80):
        rule.defaults["a"] = float(i)
        home.settings_version += 1
        segment.run(Step(ps), [torch.ones(3, dtype=F64), torch.ones(2)], writable=False)
    kept = ps.derived[segment].runners.values()
    assert len(segment.programs) <= 32
    assert all(set(runners) <= {p for program in segment.programs for p in program.family()} for runners in kept)
