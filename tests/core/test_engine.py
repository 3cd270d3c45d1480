"""Eager and compiled runs of the same rules: equal to a few ulps, never traced or compiled twice, safely cached.

`python -m tests.core.test_engine [N]` runs N random chains and prints how far the two are apart.
"""

import contextlib
import itertools
import math
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import torch._dynamo  # torch imports it late, and it asks for a temporary directory
from hypothesis import given, settings
from hypothesis import strategies as st

import torchzero_core as tz
from tests.problems import backward, bits, buckets, make_params, run, same, segments, values
from torchzero_core.core import Module
from torchzero_core.engine import segment
from torchzero_core.engine.backends import c, c_build
from torchzero_core.engine.segment import Segment
from torchzero_core.lang import Place

ROOT = Path(__file__).parents[2]
EPS = 2.0**-52

#: Rules that stand in random chains, each in one or more forms. Constants are such that nothing cancels to zero.
BUILDERS = {
    "ClipValue": lambda: tz.m.ClipValue(0.31),
    "ClipNorm": lambda: tz.m.ClipNorm(0.7),
    "ClipNorm global": lambda: tz.m.ClipNorm(0.7, dim="global"),
    "ClipNorm dim": lambda: tz.m.ClipNorm(0.4, dim=0),
    "Normalize": lambda: tz.m.Normalize(),
    "Normalize global": lambda: tz.m.Normalize(dim="global"),
    "NormalizeByEMA": lambda: tz.m.NormalizeByEMA(beta=0.7, max_ema_growth=1.1),
    "NormalizeByEMA global": lambda: tz.m.NormalizeByEMA(beta=0.7, tensorwise=False),
    "ClipNormByEMA": lambda: tz.m.ClipNormByEMA(beta=0.7),
    "ClipNormByEMA global": lambda: tz.m.ClipNormByEMA(beta=0.7, tensorwise=False, max_ema_growth=1.2),
    "WeightDecay": lambda: tz.m.WeightDecay(0.013),
    "WeightDecay l1": lambda: tz.m.WeightDecay(0.013, ord=1),
    "Adam": lambda: tz.m.Adam(0.8, 0.97),
    "Adam amsgrad": lambda: tz.m.Adam(0.8, 0.6, amsgrad=True, alpha=1.3),
    "Adam pow": lambda: tz.m.Adam(0.8, 0.97, pow=3, debiased=False),
    "HeavyBall": lambda: tz.m.HeavyBall(0.83, dampening=0.21),
    "HeavyBall lerp": lambda: tz.m.HeavyBall(0.83, lerp=True),
    "NAG": lambda: tz.m.NAG(0.77),
    "EMA": lambda: tz.m.EMA(0.6, debiased=True),
    "RMS": lambda: [tz.m.EMASquared(0.9), tz.m.Debias2(0.9), tz.m.Sqrt()],
    "SqrtEMASquared": lambda: tz.m.SqrtEMASquared(0.9, debiased=True),
    "Debias": lambda: tz.m.Debias(beta1=0.87, beta2=0.91),
    "Sign": lambda: tz.m.Sign(),
    "Add": lambda: tz.m.Add(0.3717),
    "Add module": lambda: tz.m.Add(tz.m.EMA(0.6), alpha=0.41),
    "Mul": lambda: tz.m.Mul(0.7131),
    "Pow": lambda: tz.m.Pow(2),
    "Lion": lambda: tz.m.Lion(0.81, 0.93),
    "RMSprop": lambda: tz.m.RMSprop(0.95),
    "RMSprop inner": lambda: tz.m.RMSprop(0.95, debiased=True, init="zeros", inner=tz.m.EMA(0.9, debiased=True)),
    "RMSprop centered": lambda: tz.m.RMSprop(0.9, centered=True, init="zeros"),
    "Adagrad": lambda: tz.m.Adagrad(lr_decay=0.03),
    "Cautious": lambda: tz.m.Cautious(normalize=True, eps=1e-3),
    "AccumulateMaximum": lambda: tz.m.AccumulateMaximum(),
    "DivModules": lambda: tz.m.DivModules(
        tz.m.EMA(0.9, debiased=True), [tz.m.SqrtEMASquared(0.95, debiased=True), tz.m.Add(1e-3)]
    ),
    "GraftModules": lambda: tz.m.GraftModules(tz.m.Adam(), tz.m.EMA(0.5)),
    "Sum": lambda: tz.m.Sum(tz.m.EMA(0.5), tz.m.Identity(), 0.113),
    "Warmup": lambda: tz.m.Warmup(3),
    "StepSize": lambda: tz.m.StepSize(0.57),
}
#: Shapes and memory orders; what is not dense runs uncompiled beside the rest.
SHAPES = {
    "0-d": lambda s: values((), s),
    "empty": lambda s: values((0,), s),
    "empty 2-d": lambda s: values((2, 0), s),
    "one": lambda s: values((1,), s),
    "vector": lambda s: values((5,), s),
    "long": lambda s: values((9001,), s),
    "matrix": lambda s: values((3, 4), s),
    "4-d": lambda s: values((2, 1, 3, 2), s),
    "transposed": lambda s: values((4, 3), s).t(),
    "channels last": lambda s: values((2, 3, 2, 2), s).contiguous(memory_format=torch.channels_last),
    "strided": lambda s: torch.zeros(6, 4, dtype=torch.float64)[::2, ::2].copy_(values((3, 2), s)),
}


def trajectory(chain, shapes, steps=5, *, compile):
    """Parameters and state after steps with given gradients, some in another memory order and some missing."""
    params = [SHAPES[s](i).requires_grad_() for i, s in enumerate(shapes)]
    modules = [BUILDERS[name]() for name in chain]
    flat = [m for part in modules for m in (part if isinstance(part, list) else [part])]
    optimizer = tz.Modular(params, *flat, tz.m.LR(0.1), compile=compile)
    for step in range(steps):
        for i, p in enumerate(params):
            gradient = 3 * values(p.shape, 17 * step + i + 0.37)
            p.grad = None if step == 2 and i == 1 else gradient if step % 2 else torch.empty_like(p).copy_(gradient)
            p.grad = p.grad if p.grad is None else p.grad.detach()
        optimizer.step()
    return params, optimizer.state_dict()["state"]


def ulps(a, b):
    """The largest difference of two tensors in units of rounding at the size of the largest element."""
    a, b = a.detach().double(), b.detach().double()
    if not a.numel():
        return 0.0
    if not torch.equal(a.isfinite(), b.isfinite()) or not torch.equal(a.isnan(), b.isnan()):
        return math.inf
    keep = a.isfinite()
    if not keep.any():
        return 0.0
    a, b = a[keep], b[keep]
    return float((a - b).abs().max() / (EPS * max(float(b.abs().max()), 2.0**-1022 / EPS)))


def compare(chain, shapes):
    """How far eager and compiled parameters are apart, and that the state has the same names and shapes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*a parameter does not fill one block of memory")
        (plain, ours), (compiled, theirs) = (trajectory(chain, shapes, compile=compiled) for compiled in (False, True))
    assert {i: {k: getattr(v, "shape", v) for k, v in s.items()} for i, s in ours.items()} == {
        i: {k: getattr(v, "shape", v) for k, v in s.items()} for i, s in theirs.items()
    }
    return max(ulps(a, b) for a, b in zip(compiled, plain, strict=True))


#: Largest difference allowed, in ulps of the largest element of each parameter after five steps.
TOLERANCE = 64


@given(
    st.lists(st.sampled_from(sorted(BUILDERS)), min_size=1, max_size=5),
    st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, max_size=5),
)
@settings(max_examples=settings.default.max_examples // 3)  # each is compiled
def test_random_chains_agree(chain, shapes):
    assert compare(chain, shapes) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:compile=True has no effect on .* slices of tensors that are not contiguous")
def test_many_random_chains_agree():
    worst, chain = statistics(200)[-1]
    assert worst <= TOLERANCE, chain


def statistics(n, seed=0):
    """Differences of n random chains with the chains, smallest first."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        chain = rng.choices(sorted(BUILDERS), k=rng.randint(1, 6))
        shapes = rng.choices(sorted(SHAPES), k=rng.randint(1, 6))
        found.append((compare(chain, shapes), f"{' > '.join(chain)} on {', '.join(shapes)}"))
    return sorted(found)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_what_is_computed_again_is_the_same(seed, monkeypatch):
    """Large sets have no workspace for what a later pass can compute from the states; the numbers do not change."""
    rng = random.Random(seed)
    chains = [rng.choices(sorted(BUILDERS), k=rng.randint(1, 6)) for _ in range(5)]
    runs = []
    for limit in (math.inf, 0):
        monkeypatch.setattr(segment, "RECOMPUTE_FROM", limit)
        runs.append([trajectory(chain, ["long", "matrix", "empty", "vector"], compile=True)[0] for chain in chains])
    for chain, kept, again in zip(chains, *runs, strict=True):
        assert max(map(ulps, again, kept)) <= TOLERANCE, chain


@pytest.mark.parametrize(
    ("chain", "workspaces"),
    [
        (["ClipValue", "Adam", "NormalizeByEMA", "WeightDecay"], 0),  # Adam's quotient comes from its states
        (["HeavyBall", "Normalize"], 0),  # the velocity itself
        (["Lion", "Normalize"], 1),  # whose direction comes from the state before the step
        (["Adam", "Normalize"], 0),
        (["Adam", "Sum", "ClipNorm"], 1),  # too much to do again
    ],
)
def test_what_is_worth_computing_again(chain, workspaces, monkeypatch):
    monkeypatch.setattr(segment, "RECOMPUTE_FROM", 0)
    (p,) = make_params([(50,)])
    optimizer = tz.Modular([p], *(BUILDERS[name]() for name in chain), tz.m.LR(0.1), compile=True)
    for _ in range(3):
        backward([p])
        optimizer.step()
    (bucket,) = buckets(optimizer)
    assert sum(s.place is Place.WORK for s in bucket.program.plan.storages) == workspaces


# -- no tracing, no compiling, after the start -------------------------------------------------------------------------
@pytest.fixture
def work(monkeypatch):
    """Notes every tracing of a rule and every request for a library."""
    done = {"trace": 0, "library": 0, "compiler": 0}
    trace, library, build = Segment.trace, c.library, c_build._build

    def counted(name, fn):
        def call(*args, **kwargs):
            done[name] += 1
            return fn(*args, **kwargs)

        return call

    monkeypatch.setattr(Segment, "trace", counted("trace", trace))
    monkeypatch.setattr(c, "library", counted("library", library))
    monkeypatch.setattr(c_build, "_build", counted("compiler", build))
    return done


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_a_thousand_steps_are_traced_and_compiled_once(compile, work):
    """With a schedule of the learning rate and of beta2, an added group, gradients missing now and then."""
    params = make_params([(3, 2), (4,), (1,), (5,)])
    optimizer = tz.Modular(
        params[:3],
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(max_ema_growth=1.1),
        tz.m.WeightDecay(1e-4),
        tz.m.LR(1e-1),
        compile=compile,
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=1001)
    history = []
    for step in range(1000):
        if step == 300:
            optimizer.add_param_group({"params": params[3:], "lr": 0.05, "beta2": 0.98})
        optimizer.param_groups[0]["Adam.beta2"] = 0.999 - 0.1 / (step + 1)
        backward(params)
        for i, p in enumerate(params):
            if (step * 7 + i) % 13 == 0:
                p.grad = None
        optimizer.step()
        if step < 300:
            scheduler.step()
        elif step % 10 == 0:
            for group in optimizer.param_groups:
                group["lr"] *= 0.97
        history.append(dict(work))
    (part,) = segments(optimizer)
    assert len(part.programs) <= 2
    assert history[-1]["trace"] <= 4  # once more where add_param_group rebuilds the chain
    assert history[-1]["library"] == (history[-1]["trace"] if compile else 0)
    assert history[299] == history[20]
    assert history[-1] == history[320]
    assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_no_number_among_the_settings_is_baked_in(name, work):
    """Each setting that is a float changes at every step; the graph is that of the first steps."""
    part = BUILDERS[name]()
    params = make_params()
    optimizer = tz.Modular(params, *(part if isinstance(part, list) else [part]), tz.m.LR(0.1))
    module_settings = {
        f"{m.path}.{key}": value
        for m in optimizer.unrolled_modules
        for key, value in m.defaults.items()
        if isinstance(value, float) and value and key not in ("lr",)
    }
    for step in range(12):
        for key, value in module_settings.items():
            optimizer.param_groups[0][key] = value * (1 - 1e-3 * (step + 1))
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        backward(params)
        optimizer.step()
        if step == 5:
            before = dict(work)
    assert work == before


def test_the_number_of_tensors_does_not_change_the_code(work):
    for count in (1, 7, 300):
        params = make_params([(3,)] * count)
        run(tz.Modular(params, tz.m.ClipValue(7.125), tz.m.Adam(), tz.m.LR(0.1), compile=True), params, 2)
    assert work["compiler"] <= 1  # the source is the same, so the library is


def test_compiled_steps_keep_up_with_new_gradients_and_states():
    """Pointers are those of the present tensors: gradients are new at every step, a state may be exchanged."""
    ours, theirs = make_params(), make_params()
    pair = [
        tz.Modular(ps, tz.m.ClipValue(7), tz.m.Adam(), tz.m.LR(0.1), compile=c)
        for ps, c in ((ours, True), (theirs, False))
    ]
    for step in range(6):
        for optimizer, ps in zip(pair, (ours, theirs), strict=True):
            backward(ps)
            if step == 3:
                for p in ps:
                    optimizer.state[p]["Adam.exp_avg"] = optimizer.state[p]["Adam.exp_avg"] * 0.5
            optimizer.step()
    assert max(ulps(a, b) for a, b in zip(ours, theirs, strict=True)) < 16


def test_threads_make_no_difference():
    """Large tensors are shared among threads; sums are added up in the same order every time."""
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            params = [values((300_001,), 0).requires_grad_(), values((40_000,), 1).requires_grad_()]
            optimizer = tz.Modular(
                params, tz.m.ClipNorm(1, dim="global"), tz.m.Adam(), tz.m.NormalizeByEMA(), tz.m.LR(0.1), compile=True
            )
            run(optimizer, params, 2)
            results.append(bits(params))
    finally:
        torch.set_num_threads(before)
    assert same(results[1], results[2])
    assert max(ulps(a, b) for a, b in zip(results[0], results[1], strict=True)) < 16


# -- the cache of libraries --------------------------------------------------------------------------------------------
@contextlib.contextmanager
def as_a_new_process():
    """Forgets which compiler and which libraries were found, before and after."""
    caches = (c_build.compiler, c.library)
    for cached in caches:
        cached.cache_clear()
    try:
        yield
    finally:
        for cached in caches:
            cached.cache_clear()


@pytest.fixture
def compiles(monkeypatch):
    """Counts runs of the compiler."""
    calls, build = [], c_build._build
    monkeypatch.setattr(c_build, "_build", lambda cc, text, path: calls.append(path) or build(cc, text, path))
    return calls


def train(factor, steps=2):
    """A chain whose source no other test has; what its parameters become."""
    params = make_params()
    with as_a_new_process():
        modules = [tz.m.ClipValue(3), tz.m.EMA(0.5), Odd(factor), tz.m.LR(0.1)]
        run(tz.Modular(params, *modules, compile=True), params, steps)
    return bits(params)


class Odd(tz.Transform):
    """Multiplies by a number that becomes part of the source."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def rule(self, u, ctx):
        return u * self.factor


def test_a_library_is_compiled_once_and_found_again(tmp_path, monkeypatch, compiles):
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "cache"))
    first = train(1.0625)
    assert len(compiles) >= 1
    cold = len(compiles)
    assert same(train(1.0625), first)
    assert len(compiles) == cold  # warm
    kept = sorted((tmp_path / "cache").iterdir())
    assert [p.suffix for p in kept] == [".so"] * cold  # no scratch is left
    train(1.1875)
    assert len(compiles) > cold  # another source


def test_the_compiler_is_part_of_the_key(tmp_path, monkeypatch, compiles):
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path))
    train(1.3125)
    cold = len(compiles)
    real = c_build.compiler()
    monkeypatch.setattr(c_build, "FLAGS", [*c_build.FLAGS, "-DOTHER"])
    train(1.3125)
    assert len(compiles) == 2 * cold
    script = tmp_path / "othercc"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "other 1.0" && exit 0\nexec {real[0]} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    train(1.3125)
    assert len(compiles) == 3 * cold


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch, compiles):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "file" / "cache"))  # not even root can write there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    train(1.4375)
    assert {p.parent for p in compiles} - {tmp_path / "file" / "cache"} == {tmp_path / "home" / "torchzero_core"}
    cold = len(compiles)
    train(1.4375)
    assert len(compiles) == cold
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    train(1.4375)
    assert list((tmp_path / "temp").glob("torchzero_core_*/*.so"))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes everywhere")
def test_a_read_only_home(tmp_path, monkeypatch, compiles):
    (tmp_path / "home").mkdir(mode=0o500)
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    train(1.5625)
    assert list((tmp_path / "other").rglob("*.so"))


def test_a_broken_library_is_not_used(tmp_path, monkeypatch, compiles):
    """Half a file, or one for another machine, in the first directory."""
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    first = train(1.6875)
    for path in list(compiles):
        path.unlink()  # the file that is loaded stays as it is
        path.write_bytes(b"not a library")
    assert same(train(1.6875), first)


def _uncompiled(make, **kwargs):
    """Runs eager and with compile=True; the warnings of the second."""
    params, compiled = make_params(**kwargs), make_params(**kwargs)
    run(tz.Modular(params, *make()), params, 4)
    with as_a_new_process(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = tz.Modular(compiled[:2], *make(), compile=True)
        optimizer.add_param_group({"params": compiled[2:]})
        run(optimizer, compiled, 4)
    assert all(torch.allclose(p, q, rtol=0, atol=1e-12) for p, q in zip(params, compiled, strict=True))
    assert all(w.category is UserWarning for w in caught)
    return [str(w.message) for w in caught]


def test_without_a_compiler_it_runs_eager_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "/no/such/compiler")
    said = _uncompiled(lambda: [tz.m.ClipValue(0.5), tz.m.Adam(), tz.m.LR(0.1)])
    assert len(said) == 1
    assert "compile=True has no effect on ClipValue, Adam, LR: no C compiler" in said[0]


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    script = tmp_path / "cc"
    version = '[ "$1" = --version ] && echo "broken 1.0" && exit 0'
    script.write_text(f'#!/bin/sh\n{version}\necho "out of spirit" >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("TORCHZERO_CACHE", str(tmp_path / "cache"))
    said = _uncompiled(lambda: [tz.m.ClipValue(0.5), tz.m.LR(0.1)])
    assert len(said) == 1
    assert "ClipValue, LR: the C compiler failed: out of spirit" in said[0]


def test_nowhere_to_keep_the_library(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("TORCHZERO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    said = _uncompiled(lambda: [tz.m.ClipValue(0.5), tz.m.LR(0.1)])
    assert len(said) == 1
    assert "set TORCHZERO_CACHE to one that can" in said[0]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the rights of POSIX")
@pytest.mark.parametrize(("mode", "used"), [(0o700, True), (0o777, False)])
def test_what_another_user_could_have_written_is_not_loaded(mode, used, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("TORCHZERO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared = tmp_path / f"torchzero_core_{os.getuid()}"
    shared.mkdir()
    shared.chmod(mode)
    assert (_uncompiled(lambda: [tz.m.ClipValue(0.5), tz.m.LR(0.1)]) == []) is used
    assert bool(list(shared.glob("*.so"))) is used


def test_a_dtype_that_cannot_be_compiled_is_named():
    said = _uncompiled(lambda: [tz.m.ClipValue(0.5), tz.m.Lion(), tz.m.LR(0.1)], dtype=torch.bfloat16)
    assert len(said) == 1
    assert "ClipValue, Lion, LR: torch.bfloat16 is not supported" in said[0]


class Halve(Module):
    """No rule."""

    def step(self, var):
        torch._foreach_mul_(var.get_update(), 0.5)
        return var


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: [Halve(), tz.m.Adam(), tz.m.LR(0.1)], "Halve"),
        (lambda: [tz.m.LBFGS(), tz.m.Backtracking()], "LBFGS"),
    ],
)
def test_a_module_that_cannot_be_compiled_is_named(make, name):
    said = _uncompiled(make)
    assert len(said) == 1
    assert name in said[0]
    assert "Adam" not in said[0].split(":")[0]


CONCURRENT = """
import sys, time, torch
import torchzero_core as tz
p = torch.linspace(-1, 1, 50).requires_grad_()
optimizer = tz.Modular([p], tz.m.ClipValue(3), tz.m.EMA(0.5), tz.m.LR(0.1), compile=True)
time.sleep(max(0, float(sys.argv[1]) - time.time()))
for _ in range(2):
    p.grad = 2 * p.detach()
    optimizer.step()
print(p.tolist())
"""


def test_processes_that_compile_the_same_at_once(tmp_path):
    import time

    env = {**os.environ, "TORCHZERO_CACHE": str(tmp_path)}
    start = str(time.time() + 5)
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CONCURRENT, start],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [job.communicate(timeout=100) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert results[0][0]
    assert {p.suffix for p in tmp_path.iterdir()} == {".so"}


def main(n):
    """Print how far eager and compiled runs of random chains are apart."""
    torch.set_num_threads(1)
    found = statistics(n)
    differences = [d for d, _ in found]
    for share in (0.5, 0.9, 0.99, 1.0):
        print(f"{share:4.0%} of {n} chains: at most {differences[min(n - 1, int(share * n))]:.2f} ulps")
    print("largest:")
    for d, chain in itertools.islice(reversed(found), 5):
        print(f"  {d:.2f}  {chain}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
