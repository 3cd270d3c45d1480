"""The CUDA backend: its source everywhere, its kernels in Triton's interpreter and compiler, itself on a GPU.

Triton is not needed to test the rest of the library, so what needs it is skipped without it. The interpreter has to be
chosen before Triton is imported: functions called ``interpreted_*`` are collected by a pytest of their own, which
``test_in_the_interpreter`` starts.
"""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.problems import ALL_SHAPES, SHAPES, backward, make_params, run
from tests.registry import ENTRIES
from torchzero_core.core import Slot, Transform
from torchzero_core.engine import backends as compiler
from torchzero_core.engine.backends import foreach as eager
from torchzero_core.engine.backends import triton as gpu
from torchzero_core.engine.backends.triton_build import kernels
from torchzero_core.engine.backends.triton_source import TYPES, Source
from torchzero_core.engine.numbers import real
from torchzero_core.engine.runner import Unsupported
from torchzero_core.engine.segment import Segment
from torchzero_core.lang import Kind, as_dims
from torchzero_core.lang.ops import OPERATIONS, Operation

ROOT = Path(__file__).parents[2]
CHAINS = {
    "Adam": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
    "five": lambda: [
        tz.m.ClipNorm(1.0),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(tensorwise=False),
        tz.m.WeightDecay(0.1),
        tz.m.LR(0.1),
    ],
    "amax": lambda: [tz.m.ClipNorm(1.0, ord=float("inf")), tz.m.LR(0.1)],
    "pow": lambda: [tz.m.Adam(pow=3.0), tz.m.LR(0.1)],
}
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
compiling = pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.compiles], ids=lambda e: f"{e.name}{'-' * bool(e.variant)}{e.variant}"
)


def close(a, b, ulps=64.0):
    """Compare lists of tensors up to some units of rounding."""
    for x, y in zip(a, b, strict=True):
        eps = torch.finfo(x.dtype).eps
        torch.testing.assert_close(x.detach(), y.detach(), rtol=ulps * eps, atol=ulps * eps, equal_nan=True)


def both(modules, params=make_params, steps=4, set_grads=backward):
    """The parameters after some steps, eager and compiled, and the two optimizers."""
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        ps = params()
        optimizer = tz.Modular(ps, *modules(), compile=compile)
        for _ in range(steps):
            set_grads(ps)
            optimizer.step()
        found += [ps, optimizer]
    return found[0], found[2], found[1], found[3]


# -- without Triton ----------------------------------------------------------------------------------------------------
def programs(modules, dtype=torch.float32):
    """The bucket and program of a chain, as a backend gets them."""
    found = []

    def note(bucket, program, scratch):
        found.append((bucket, program))
        raise Unsupported("noted")

    params = make_params(dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compiler.COMPILING, "cpu", types.SimpleNamespace(refusal=lambda dtype: None, runner=note))
        patch.setattr(Segment, "_warn_uncompiled", lambda self, why, **_: None)
        run(tz.Modular(params, *modules(), compile=True), params, 1)
    return found


def make_source(bucket, program, dtype):
    """The source for another dtype than that of the parameters."""
    param = torch.empty(0, dtype=dtype)
    return Source(program.plan, program.ids, dtype, lambda s: bucket.slot(s.rule, s.name).dtype_for(param))


@compiling
def test_source_is_python(entry):
    for bucket, program in programs(entry.build, torch.float64):
        for dtype in set(TYPES) - {torch.bool}:
            source = make_source(bucket, program, dtype)
            names = {node.name for node in ast.walk(ast.parse(source.text())) if isinstance(node, ast.FunctionDef)}
            for k, here in enumerate(program.plan.passes):
                whole = [n for n in here.element_reductions if n.kind is not Kind.SLICE]
                sliced = len(here.element_reductions) - len(whole)
                assert (f"finish{k}" in names) == bool(whole)
                assert (f"sweep{k}" in names) == bool(source.sweeps[k].runs)
                assert len(here.writes) <= len(source.sweeps[k].writes) <= len(here.writes) + sliced
                assert source.sweeps[k].runs or not (whole or here.writes)


def test_no_setting_is_in_the_source():
    texts = set()
    for lr in (0.1, 0.2):
        [(bucket, program)] = programs(lambda lr=lr: [tz.m.Adam(beta1=lr), tz.m.LR(lr)])
        texts.add(make_source(bucket, program, torch.float32).text())
    assert len(texts) == 1


def test_without_triton_there_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    kernels.cache_clear()
    [(bucket, program)] = programs(CHAINS["Adam"])
    assert gpu.refusal(torch.float32).startswith("the CUDA backend needs Triton")
    with pytest.raises(Unsupported, match="the CUDA backend needs Triton"):
        gpu.GPURunner(bucket, program, lambda number: [])


def test_unknown_operations_are_refused():
    [(bucket, program)] = programs(CHAINS["Adam"])
    object.__setattr__(program.plan.passes[0].elements[-1], "op", Operation("erf"))
    with pytest.raises(Unsupported, match="the CUDA backend has no operation 'erf'"):
        make_source(bucket, program, torch.float32).text()


# -- in Triton's interpreter -------------------------------------------------------------------------------------------
@needs_triton
def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-o", "python_functions=interpreted_*", "-W", "ignore"]
    out = subprocess.run(
        [*command, "-p", "no:cacheprovider"], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert out.returncode == 0, out.stdout[-5000:] + out.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", out.stdout)[-1]) > len(CHAINS)


#: What numpy calls otherwise than the GPU's library.
NUMPY = {"pow": "power", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}


def libdevice_names():
    """The functions of the GPU's library that operations are spelled with."""
    texts = [text for op in OPERATIONS.values() for text in (op.triton, op.triton_single or "")]
    return sorted({name for text in texts for name in re.findall(r"libdevice\.(\w+)", text)})


@pytest.fixture
def runners(monkeypatch):
    """Runs CPU tensors as a GPU's, in blocks so small that most tensors need several; gives the runners made."""
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
    handle = importlib.import_module("triton.runtime.interpreter").TensorHandle

    def interpreted(function):
        def call(*args):
            arrays = np.broadcast_arrays(*(a.handle.data for a in args))
            kind = max((a.type for a in args), key=lambda t: t.is_block())
            return tl.tensor(handle(function(*arrays), args[0].handle.dtype), kind)

        return call

    # The interpreter has no libdevice, which is a library of the GPU.
    functions = {name: interpreted(getattr(np, NUMPY.get(name, name))) for name in libdevice_names()}
    libdevice = types.SimpleNamespace(**functions)
    monkeypatch.setitem(sys.modules, "triton.language.extra.libdevice", libdevice)
    monkeypatch.setattr(gpu, "BLOCK", 16)
    monkeypatch.setitem(gpu.OPTIONS, "BLOCK", 16)
    monkeypatch.setattr(eager, "NUMBERS_ON_HOST", False)
    made = []

    def runner(bucket, program, scratch):
        made.append(gpu.GPURunner(bucket, program, scratch))
        return made[-1]

    monkeypatch.setitem(compiler.COMPILING, "cpu", types.SimpleNamespace(refusal=gpu.refusal, runner=runner))
    assert triton.knobs.runtime.interpret if hasattr(triton, "knobs") else os.environ["TRITON_INTERPRET"] == "1"
    with np.errstate(all="ignore"):
        yield made


@compiling
def interpreted_modules_agree_with_eager(entry, runners):
    shapes = SHAPES if entry.closure else [*ALL_SHAPES.values(), (300,)]
    plain, compiled = make_params(shapes), make_params(shapes)
    torch.manual_seed(0)
    optimizer = entry.optimizer(plain)
    run(optimizer, plain, 2)
    torch.manual_seed(0)
    fast = entry.optimizer(compiled, compile=True)
    run(fast, compiled, 2)
    assert runners
    # numpy has no fused multiply-add, and a finite difference magnifies the last bit
    close(compiled, plain, 1e4 if entry.closure else entry.ulps)
    ours, theirs = optimizer.state_dict()["state"], fast.state_dict()["state"]
    assert {k: set(v) for k, v in ours.items()} == {k: set(v) for k, v in theirs.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@chains
def interpreted_chains_agree_with_eager(chain, dtype, runners):
    shapes = [(), (0, 3), (5,), (16,), (17,), (32,), (19, 16)]  # the last has more blocks than a block has elements
    plain, fast, one, other = both(chain, lambda: make_params(shapes, dtype=dtype))
    close(fast, plain)
    states = one.state_dict()["state"], other.state_dict()["state"]
    for mine, theirs in zip(*(s.values() for s in states), strict=True):
        close(*([torch.as_tensor(v, dtype=dtype) for _, v in sorted(s.items())] for s in (theirs, mine)))
    assert len(runners) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@chains
def interpreted_half_precision_is_computed_in_float32(chain, dtype, runners):
    if dtype is torch.float16 and chain is CHAINS["pow"]:
        pytest.skip("the cube of a gradient underflows where the state is float16")
    _, fast, _, _ = both(chain, lambda: make_params([(5,), (37,)], dtype=dtype), steps=2)
    exact, _, _, _ = both(chain, lambda: make_params([(5,), (37,)], dtype=torch.float64), steps=2)
    assert all(p.dtype == dtype for p in fast)
    close(fast, [p.to(dtype) for p in exact], ulps=8)  # parameters and state are rounded at every step


def interpreted_groups_share_totals(runners):
    def params():
        p = make_params([(5,), (40,), ()])
        return [{"params": p[:1], "lr": 0.5}, {"params": p[1:]}]

    found = []
    for compile in (False, True):
        groups = params()
        ps = [p for g in groups for p in g["params"]]
        optimizer = tz.Modular(groups, *CHAINS["five"](), compile=compile)
        for _ in range(4):
            backward(ps)
            optimizer.step()
        found.append(ps)
    assert len(runners) == 2
    close(*found)


class Everything(Transform):
    """Every operation a rule has, with numbers per tensor and for all tensors among the operands."""

    slots = {"mask": Slot(mask=True), "number": Slot(1.5, scalar=True), "all": Slot(2.0, scalar=True)}

    def __init__(self, x=0.3):
        super().__init__(dict(x=x))

    def rule(self, u, ctx):
        h, s, g = ctx.settings, ctx.state, ctx.global_state
        a = u.abs() + 0.1
        v = a.sqrt() + (-a).exp() + a.log() + a.reciprocal() + a**1.7 + a**h.x + 1.1**u + u.sign() - u.neg()
        v = v.maximum(u).minimum(3.0).clamp(-2.0, h.x + 2).copysign(u) + u.copysign(-1.0)
        v = v.lerp(u, 0.2).lerp(a, h.x).lerp(u, 0.9).lerp(a, u.square())
        few = (u > 0) & ~(v.eq(u)) | (u <= -0.5)
        v = few.where(v, 2.0) + (s.mask | (u < 0)).float() + few * 2 + (1 / u).isfinite().where(u, h.x)
        s.mask = few
        norm, largest, mean = u.norm(), u.abs().amax().maximum(0.1), v.mean()
        s.number = s.number.lerp(norm, h.x).minimum(3.0) + (norm > h.x).where(1.0, mean)
        g.all = g.all.lerp(u.global_norm(), 0.25)
        total = u.abs().amax().global_max() + v.dot(u).total()
        return v / (largest + 1) + s.number * u - g.all * a + v * total - (norm > 0.5).where(u, mean) + largest * h.x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def interpreted_every_operation(dtype, runners):
    shapes = [(), (5,), (17,), (6, 7)]
    plain, fast, _, _ = both(lambda: [Everything(), tz.m.LR(0.01)], lambda: make_params(shapes, dtype=dtype), steps=3)
    close(fast, plain, ulps=256)
    assert len(runners) == 1


class WholeTable(Transform):
    """Each row of the table of operations, on elements and on numbers per tensor."""

    def __init__(self, x=0.3):
        super().__init__(dict(x=x))

    def rule(self, u, ctx):
        few = u > 0
        a = (u.abs() + 0.3) / (u.abs().amax() + 0.7)  # between 0 and 1, where every function is defined
        total = u
        for x in (a, a.amax()):
            for name, op in OPERATIONS.items():
                operands = [x, 0.5 * x, ctx.settings.x * x][: len(set(re.findall(r"\{(\d)\}", op.torch)))]
                if op.logical or name == "where":
                    operands[0] = few
                if op.logical:
                    operands = [o if o is few else few | (o > 0.6) for o in operands]
                total = total + getattr(operands[0], name)(*operands[1:]).float()
        return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def interpreted_the_table_of_operations(dtype, runners):
    shapes = [(), (5,), (17,), (6, 7)]
    plain, fast, _, _ = both(lambda: [WholeTable(), tz.m.LR(0.01)], lambda: make_params(shapes, dtype=dtype), steps=2)
    close(fast, plain, ulps=256)
    assert len(runners) == 1


# -- rings, truth values, slices, dice ---------------------------------------------------------------------------------
class History(Transform):
    """The update, unless most of the last ones were positive, and the mean of these, by two rings."""

    slots = {"past": Slot(history="n"), "signs": Slot(history=3, mask=True)}

    def __init__(self, n=3):
        super().__init__(dict(n=n))

    def rule(self, u, ctx):
        n, past, signs = int(ctx.settings.n), ctx.state.past, ctx.state.signs
        total = sum(past[k] for k in range(n))
        few = (signs[0].float() + signs[1].float() + signs[2].float()) > 1.5
        past[(ctx.step - 1) % n] = u
        signs[(ctx.step - 1) % 3] = u > 0
        return total / n + few.where(0.5, u)


def interpreted_rings(runners):
    shapes = [(), (5,), (17,), (6, 7)]
    plain, fast, one, other = both(lambda: [History(), tz.m.LR(0.1)], lambda: make_params(shapes), steps=7)
    close(fast, plain)
    [runner] = runners  # no place is another program, and none makes the others' loads narrow
    assert runner.aligned
    by_hand, past = make_params(shapes), [[torch.zeros(shape, dtype=torch.float64)] * 3 for shape in shapes]
    for _ in range(7):
        backward(by_hand)
        for p, old in zip(by_hand, past, strict=True):
            u, few = p.grad, sum((v > 0).double() for v in old) > 1.5
            p.data -= 0.1 * (sum(old) / 3 + torch.where(few, 0.5, u))
            old[:] = [*old[1:], u]
    close(fast, by_hand)
    names = ("History.past", "History.signs")
    for mine, theirs in zip(*(o.state_dict()["state"].values() for o in (one, other)), strict=True):
        assert [theirs[n].shape[0] for n in names] == [3, 3] and theirs[names[1]].dtype is torch.bool
        close([theirs[names[0]]], [mine[names[0]]])
        assert torch.equal(theirs[names[1]], mine[names[1]])


class Truth(Transform):
    """Truth values of elements, slices and tensors as state, one byte each."""

    slots = {
        "was": Slot(mask=True),
        "rows": Slot(mask=True, dims=-1),
        "number": Slot(mask=True, scalar=True),
    }

    def rule(self, u, ctx):
        s = ctx.state
        out = s.was.where(u, 0.5) + s.rows.where(2.0, u) + s.number.where(u, 0.25)
        s.was = ~s.was | (u > 0.5)
        s.rows, s.number = u.mean(-1) > 0, u.sum() > 0
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def interpreted_truth_values_are_bytes(dtype, runners):
    params = make_params([(), (5,), (6, 7)], dtype=dtype)
    optimizer = tz.Modular(params, Truth(), tz.m.LR(1.0), compile=True)
    was = [torch.zeros_like(p, dtype=torch.bool) for p in params]
    rows, number = [torch.zeros(p.shape[:-1] + (1,) * min(p.ndim, 1)).bool() for p in params], [torch.tensor(False)] * 3
    for step in range(4):
        backward(params)
        for p in params:
            p.grad *= (-1) ** step
        start = [p.detach().clone() for p in params]
        optimizer.step()
        for i, (p, old) in enumerate(zip(params, start, strict=True)):
            u = p.grad.float()
            update = torch.where(was[i], u, 0.5) + torch.where(rows[i], 2.0, u) + torch.where(number[i], u, 0.25)
            close([p], [(old.float() - update).to(dtype)], ulps=4)
            was[i], number[i] = ~was[i] | (u > 0.5), u.sum() > 0
            rows[i] = (u.mean(-1, keepdim=True) if u.ndim else u) > 0
            for name, want in (("was", was), ("rows", rows), ("number", number)):
                found = optimizer.state[p][f"Truth.{name}"]
                assert found.dtype is torch.bool and torch.equal(found, want[i])
    assert len(runners) == 1


class Sliced(Transform):
    """Reductions along dimensions, and what may be done with their results."""

    slots = {"rows": Slot(1.0, dims=-1), "columns": Slot(dims=0)}

    def __init__(self, dims=0, inverse=False):
        super().__init__(dict(dims=dims, inverse=inverse))

    def rule(self, u, ctx):
        s, h = ctx.state, ctx.settings
        dims = as_dims(h.dims)._replace(inverse=bool(h.inverse))
        mean, largest = u.mean(dims), (u * 2.0).amax(dims)
        s.rows = s.rows.lerp(u.square().mean(-1), 0.25)
        s.columns = s.columns.maximum(u.abs().amax(0))
        scale = (mean > 0).where(largest, u.abs().sum(dims))
        v = (u - mean) / (scale.abs() + 1.0) + scale.sum() * u - scale.amax()
        return v / (s.rows.sqrt() + s.columns + 1e-3) + v.mean(dims) + v.sum(-1)


DIMS = [
    dict(dims=0),
    dict(dims=-1),
    dict(dims=(1, 2)),
    dict(dims=0, inverse=True),
    dict(dims=(0, 1, 2, 3)),
    dict(dims=7),
]


SLICED_SHAPES = [(), (5,), (0, 3), (19, 16), (3, 5, 7), (2, 3, 4, 5), (40, 1, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dims", DIMS, ids=str)
def interpreted_slices(dims, dtype, runners):
    chain = lambda: [Sliced(**dims), tz.m.LR(0.01)]  # noqa: E731
    plain, fast, one, other = both(chain, lambda: make_params(SLICED_SHAPES, dtype=dtype), steps=3)
    assert len(runners) == 1
    for got, want in zip(fast, plain, strict=True):
        largest = float(want.detach().abs().max()) if want.numel() else 0.0
        close([got], [want], ulps=256 * max(1.0, largest))
    for mine, theirs in zip(*(o.state_dict()["state"].values() for o in (one, other)), strict=True):
        for name in ("Sliced.rows", "Sliced.columns"):
            close([theirs[name]], [mine[name]])


def interpreted_slices_in_half_precision(runners):
    chain = lambda: [Sliced(), tz.m.LR(0.01)]  # noqa: E731
    _, fast, _, other = both(chain, lambda: make_params(SLICED_SHAPES, dtype=torch.bfloat16), steps=1)
    exact, _, one, _ = both(chain, lambda: make_params(SLICED_SHAPES, dtype=torch.float64), steps=1)
    for got, want in zip(fast, exact, strict=True):
        assert got.numel() == 0 or (got - want).abs().max() < 2.0**-6 * want.abs().max()
    for mine, theirs in zip(*(o.state_dict()["state"].values() for o in (one, other)), strict=True):
        for name in ("Sliced.rows", "Sliced.columns"):
            assert theirs[name].dtype is torch.float32
            torch.testing.assert_close(theirs[name].double(), mine[name], rtol=2.0**-6, atol=1e-3)


class Centered(Transform):
    """Less the mean of slices, whose operand lies in memory already."""

    def __init__(self, dims=(0,)):
        super().__init__(dict(dims=dims))

    def rule(self, u, ctx):
        return u - u.mean(ctx.settings.dims)


@pytest.mark.parametrize(
    ("dims", "transpose", "why"),
    [((0, 2), False, "the dimensions of slices do not follow one another"), ((0,), True, "not contiguous")],
)
def interpreted_slices_that_are_no_run_are_refused(dims, transpose, why, runners):
    def params():
        [p] = make_params([(4, 3, 5)])
        return [p.detach().transpose(0, 2).requires_grad_() if transpose else p]

    p, other = params(), params()
    optimizer = tz.Modular(p, Centered(dims), tz.m.LR(1.0), compile=True)
    backward(p), backward(other)
    want = other[0] - (other[0].grad - other[0].grad.mean(dims, keepdim=True))
    with pytest.warns(UserWarning, match=why):
        optimizer.step()
    close(p, [want])
    assert not runners


def interpreted_slices_of_what_lies_in_memory_need_no_workspace(runners):
    plain, fast, _, _ = both(lambda: [Centered(), tz.m.LR(0.1)], lambda: make_params([(5, 6)]))
    close(fast, plain)
    assert not runners[0].source.scratch and not runners[0].source.sweeps[0].runs


class Dice(Transform):
    """Random values of each kind."""

    def rule(self, u, ctx):
        keep = ctx.random("bernoulli", 0.5)
        return (
            u * keep + ctx.random("normal", 0.0, 0.1, per="tensor") * u.norm() + ctx.random("uniform", 1, 2, per="all")
        )


def interpreted_random_values(runners):
    params = lambda: make_params([(5,), (40,), ()])  # noqa: E731
    plain, fast, _, _ = both(lambda: [Dice(), tz.m.LR(0.1)], params, steps=3)
    close(fast, plain)
    assert len(runners) == 1
    start = params()
    assert all((a - b).abs().max() > 0 for a, b in zip(fast, start, strict=True))


class Exchange(Transform):
    """States that take one another's old values."""

    slots = {
        **{name: Slot(float(i)) for i, name in enumerate("ab")},
        **{name: Slot(float(i), scalar=True) for i, name in enumerate("xy")},
        **{name: Slot(float(i), dims=0) for i, name in enumerate("rs")},
    }

    def rule(self, u, ctx):
        s = ctx.state
        s.a, s.b = s.b, s.a
        s.x, s.y = s.y, s.x
        s.r, s.s = s.s, s.r
        return u * 1.0


def interpreted_states_are_exchanged(runners):
    [p] = make_params([(3, 4)])
    optimizer = tz.Modular([p], Exchange(), compile=True)
    for step in range(3):
        backward([p])
        optimizer.step()
        state = optimizer.state_dict()["state"][0]
        for first, second in ("ab", "xy", "rs"):
            assert set(state[f"Exchange.{first}"].flatten().tolist()) == {(step + 1) % 2}
            assert set(state[f"Exchange.{second}"].flatten().tolist()) == {step % 2}
    assert len(runners) == 1


def interpreted_memory_that_moved_is_found(runners):
    plain, fast = make_params([(5,), (20,)]), make_params([(5,), (20,)])
    found = []
    for ps, compile in ((plain, False), (fast, True)):
        optimizer = tz.Modular(ps, *CHAINS["Adam"](), compile=compile)
        for step in range(4):
            backward(ps)
            optimizer.step()
            if step == 1:  # the same tensor objects in other memory
                for state in optimizer.state.values():
                    for value in state.values():
                        if isinstance(value, torch.Tensor):
                            value.data = value.data.clone()
        found.append(optimizer)
    close(fast, plain)
    assert len(runners) == 1


def interpreted_infinities_and_nans_travel(runners):
    def spoilt(ps):
        backward(ps)
        ps[0].grad[3] = torch.nan
        ps[1].grad[30] = torch.inf

    for chain in CHAINS.values():
        plain, fast, _, _ = both(chain, lambda: make_params([(5,), (40,)]), steps=2, set_grads=spoilt)
        close(fast, plain)
        assert plain[0].isnan().any()


def interpreted_memory_layouts(runners):
    def params():
        p = make_params([(2, 3, 4, 5)])[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        return [p, make_params([(7, 6)])[0].detach().t().requires_grad_()]

    def grads(ps):
        backward(ps)
        for p in ps:  # one in another layout, one that begins at an odd address
            p.grad = p.grad.contiguous()
        flat = torch.empty(43, dtype=torch.float64)[1:].view(7, 6).t()
        ps[1].grad = flat.copy_(ps[1].grad)

    plain, fast, _, _ = both(CHAINS["five"], params, set_grads=grads)
    close(fast, plain)
    assert not any(r.aligned for r in runners)


class Opaque(Transform):
    """Calls a function of whole tensors."""

    def rule(self, u, ctx):
        v = ctx.call(lambda us, k: [k * t.flip(0) if t.ndim else k * t for t in us], u * 2, 3.0)
        return v * v.norm()


class Transposing(tz.Module):
    """Returns updates that do not lie in memory like the parameters."""

    def step(self, var):
        var.update = [torch.empty_strided(t.shape, t.stride()[::-1]).to(t.dtype).copy_(t) for t in var.get_update()]
        return var


def interpreted_opaque_calls(runners):
    chain = lambda: [tz.m.Adam(), Opaque(), tz.m.ClipNorm(1.0), tz.m.LR(0.1)]  # noqa: E731
    plain, fast, _, _ = both(chain, lambda: make_params([(5,), (20, 3), ()]))
    close(fast, plain)
    chain = lambda: [Transposing(), tz.m.Mul(2.0), Transposing(), tz.m.LR(0.1)]  # noqa: E731
    plain, fast, _, _ = both(chain, lambda: make_params([(4, 4)]))
    close(fast, plain)


def interpreted_nothing_compiles_twice(runners):
    params = make_params([(5,), (20,)])
    optimizer = tz.Modular(params, *CHAINS["Adam"](), compile=True)
    for i in range(30):
        optimizer.param_groups[0].update(lr=0.1 / (i + 1), beta1=0.8 + 0.001 * i)
        backward(params)
        optimizer.step()
        if i == 1:
            misses = kernels.cache_info().misses
    assert kernels.cache_info().misses == misses
    assert len(runners) == 1


def interpreted_the_table_goes_to_the_device_when_it_changed(runners, monkeypatch):
    uploads = []
    upload = gpu.GPURunner._upload
    monkeypatch.setattr(gpu.GPURunner, "_upload", lambda self: (uploads.append(1), upload(self)))
    params = make_params([(5,), (20,)])
    optimizer = tz.Modular(params, tz.m.Lion(), tz.m.LR(0.1), compile=True)
    backward(params)
    for lr, expected in ((0.1, 1), (0.1, 1), (0.2, 2), (0.2, 2)):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        assert len(uploads) == expected
    for p in params:
        p.grad = p.grad.clone()
    optimizer.step()
    assert len(uploads) == 3


def interpreted_a_graph_from_before_the_step_refuses_to_run(runners):
    p = make_params([(5,)])[0]
    optimizer = tz.Modular([p], *CHAINS["Adam"](), compile=True)
    loss = (p**2).sum()
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- in Triton's compiler, which needs no GPU --------------------------------------------------------------------------
def to_gpu_code(text, source, real, capability):
    """Compile all kernels for a kind of GPU; their machine-independent code."""
    triton = importlib.import_module("triton")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    loaded = kernels(text)
    names = {torch.float32: "*fp32", torch.float64: "*fp64"}
    table = {"P": "*i64", "H": "*fp64", "TENSOR": "*i32", "INDEX": "*i32", "NUMEL": "*i64", "FIRST": "*i32"}
    found = {}
    for name, kernel in loaded.items():
        if not re.fullmatch(r"(sweep|finish)\d+", name):
            continue
        masks = {f"s{source.ids[v]}" for sweep in source.sweeps for v in sweep.numbers if v.mask}
        signature = {a: table.get(a, "i32" if a in ("nt", "nb") else names[real]) for a in kernel.arg_names}
        signature.update(dict.fromkeys(masks & set(signature), "*i1"))
        constants = {a: v for a, v in {"ALIGNED": True, "BLOCK": gpu.BLOCK}.items() if a in signature}
        signature.update(dict.fromkeys(constants, "constexpr"))
        ast_source = triton.compiler.ASTSource(
            kernel, signature, constexprs={(kernel.arg_names.index(a),): v for a, v in constants.items()}
        )
        found[name] = triton.compile(ast_source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
    return found


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chain", [*CHAINS.values(), lambda: [Everything(), tz.m.LR(0.1)]], ids=[*CHAINS, "everything"])
def test_kernels_compile(chain, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels.cache_clear()
    for bucket, program in programs(chain):
        source = make_source(bucket, program, dtype)
        found = to_gpu_code(source.text(), source, real(dtype), 90)
        assert all(".target sm_90" in text for text in found.values())
        sweep = found["sweep0"]
        assert re.search(r"ld\.global\.v[24]\.b", sweep), "full blocks are read with the widest loads"
        assert "fma.rn.f32" not in sweep or "libdevice" in source.text()


NEW = {
    "operations": (WholeTable, (torch.float32, torch.float64)),
    "rings": (History, (torch.float32,)),
    "truth values": (Truth, (torch.float32, torch.bfloat16)),
    "slices": (lambda: Sliced((1, 2)), (torch.float32, torch.float64, torch.bfloat16)),
    "dice": (Dice, (torch.float32,)),
}


@needs_triton
@pytest.mark.parametrize(("rule", "dtype"), [(r, d) for r, ds in NEW.values() for d in ds])
def test_kernels_of_new_rules_compile(rule, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels.cache_clear()
    for bucket, program in programs(lambda: [rule(), tz.m.LR(0.1)]):
        source = make_source(bucket, program, dtype)
        found = to_gpu_code(source.text(), source, real(dtype), 90)
        assert any(name.startswith("sweep") for name in found)
        for text in found.values():
            assert "div.full" not in text, "a division that is not rounded correctly"


# -- on a GPU ----------------------------------------------------------------------------------------------------------
def cuda_params(shapes=SHAPES, dtype=torch.float32):
    return [p.detach().cuda().requires_grad_() for p in make_params(shapes, dtype=dtype)]


@pytest.mark.gpu
@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.compiles and not e.closure], ids=lambda e: e.name)
def test_modules_agree_on_cuda(entry):
    for shapes in (SHAPES, [*ALL_SHAPES.values(), (1024,), (70, 1025)]):
        plain, compiled = cuda_params(shapes, torch.float64), cuda_params(shapes, torch.float64)
        run(entry.optimizer(plain), plain, 5)
        run(entry.optimizer(compiled, compile=True), compiled, 5)
        close(compiled, plain, entry.ulps)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@chains
def test_chains_agree_on_cuda(chain, dtype):
    shapes = [(), (0, 3), (5,), (1024,), (1025,), (3000, 1000)]
    plain, fast, _, _ = both(chain, lambda: cuda_params(shapes, dtype))
    close(fast, plain)


@pytest.mark.gpu
@chains
def test_compiled_repeats_bit_for_bit_on_cuda(chain):
    _, first, _, _ = both(chain, lambda: cuda_params([(3000, 1000), (77,)]))
    _, second, _, _ = both(chain, lambda: cuda_params([(3000, 1000), (77,)]))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
@chains
def test_steps_do_not_wait_for_the_gpu(chain, compile):
    params = cuda_params([(5,), (2000, 30)])
    optimizer = tz.Modular(params, *chain(), compile=compile)
    for _ in range(3):  # what is made once may wait
        backward(params)
        optimizer.step()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(3):
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            backward(params)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
def test_a_model_trains_on_cuda():
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).cuda()
    optimizer = tz.Modular(model, *CHAINS["Adam"](), compile=True)
    optimizer.param_groups[0]["lr"] = 0.01
    x = torch.randn(64, 8, device="cuda")
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(x).squeeze() - x.sum(1).sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < 0.2 * losses[0]
