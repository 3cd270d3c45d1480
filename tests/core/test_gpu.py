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

    def note(bucket, program):
        found.append((bucket, program))

    params = make_params(dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "compiled_runner", note)
        patch.setattr(tz.Modular, "_warn_uncompiled", lambda self: None)
        run(tz.Modular(params, *modules(), compile=True), params, 1)
    return found


@compiling
def test_source_is_python(entry):
    for _, program in programs(entry.build, torch.float64):
        for dtype in gpu.TYPES:
            source = gpu.Source(program.plan, program.ids, dtype)
            names = {node.name for node in ast.walk(ast.parse(source.text())) if isinstance(node, ast.FunctionDef)}
            for k, level in enumerate(program.plan.levels):
                assert (f"finish{k}" in names) == bool(level.reductions)
                assert (f"sweep{k}" in names) == bool(level.reductions or level.writes)


def test_no_setting_is_in_the_source():
    texts = set()
    for lr in (0.1, 0.2):
        [(_, program)] = programs(lambda lr=lr: [tz.m.Adam(beta1=lr), tz.m.LR(lr)])
        texts.add(gpu.Source(program.plan, program.ids, torch.float32).text())
    assert len(texts) == 1


def test_without_triton_there_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    gpu.kernels.cache_clear()
    [(bucket, program)] = programs(CHAINS["Adam"])
    with pytest.raises(gpu.Unsupported, match="the CUDA backend needs Triton"):
        gpu.GPURunner(bucket, program)


def test_unknown_operations_are_refused():
    [(_, program)] = programs(CHAINS["Adam"])
    program.plan.levels[0].elements[-1].op = "erf"
    with pytest.raises(gpu.Unsupported, match="the CUDA backend has no operation 'erf'"):
        gpu.Source(program.plan, program.ids, torch.float32).text()


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
    functions = {name: interpreted(getattr(np, name)) for name in ("exp", "log", "copysign")}
    libdevice = types.SimpleNamespace(**functions, pow=interpreted(np.power))
    monkeypatch.setitem(sys.modules, "triton.language.extra.libdevice", libdevice)
    monkeypatch.setattr(gpu, "BLOCK", 16)
    monkeypatch.setitem(gpu.OPTIONS, "BLOCK", 16)
    monkeypatch.setattr(eager, "NUMBERS_ON_HOST", False)
    made = []

    def runner(bucket, program):
        made.append(gpu.GPURunner(bucket, program))
        return made[-1]

    monkeypatch.setattr(compiler, "compiled_runner", runner)
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
        v = ctx.apply(lambda us, k: [k * t.flip(0) if t.ndim else k * t for t in us], u * 2, 3.0)
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
            misses = gpu.kernels.cache_info().misses
    assert gpu.kernels.cache_info().misses == misses
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
def to_gpu_code(text, plan, source, real, capability):
    """Compile all kernels for a kind of GPU; their machine-independent code."""
    triton = importlib.import_module("triton")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    loaded = gpu.kernels(text)
    names = {torch.float32: "*fp32", torch.float64: "*fp64"}
    table = {"P": "*i64", "H": "*fp64", "TENSOR": "*i32", "INDEX": "*i32", "NUMEL": "*i64", "FIRST": "*i32"}
    found = {}
    for name, kernel in loaded.items():
        if not re.fullmatch(r"(sweep|finish)\d+", name):
            continue
        masks = {f"s{source.ids[v]}" for level in plan.levels for v in source.numbers(level) if v.mask}
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
    gpu.kernels.cache_clear()
    for _, program in programs(chain):
        source = gpu.Source(program.plan, program.ids, dtype)
        real = torch.float64 if dtype == torch.float64 else torch.float32
        found = to_gpu_code(source.text(), program.plan, source, real, 90)
        assert all(".target sm_90" in text for text in found.values())
        sweep = found["sweep0"]
        assert re.search(r"ld\.global\.v[24]\.b", sweep), "full blocks are read with the widest loads"
        assert "fma.rn.f32" not in sweep or "libdevice" in source.text()


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
