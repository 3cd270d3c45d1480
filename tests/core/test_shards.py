"""Parameters that are spread over ranks move as they would on one."""

import itertools
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import torchzero_core as tz
from tests.problems import values
from torchzero_core.core import Slot, Transform
from torchzero_core.distributed import Shards
from torchzero_core.engine.backends import c_build

SHAPES = [(5, 3), (4, 4), (6,), (1, 3), (2, 7)]
MATRICES = [s for s in SHAPES if len(s) == 2]


class Trust(Transform):
    """A number per tensor and one in all that are kept, and sums of slices added up again."""

    size = Slot(scalar=True)
    largest = Slot(dims=0)

    def rule(self, u, ctx):
        s = ctx.state
        s.size = 0.5 * s.size + u.norm() / ctx.params.norm(1).maximum(1e-3)
        s.largest = s.largest.maximum(u.abs().amax(0))
        rows = u.square().sum(1).sqrt().sum()
        return u * s.size / (s.largest + 1) / (1 + rows + u.mean(0).amax() + u.amax().global_max())


class Mixed(Transform):
    """An opaque function of whole tensors with states of several kinds."""

    rows = Slot(shape=lambda p: (p.shape[0], p.shape[0]), init=torch.nn.init.eye_)
    average = Slot()

    def rule(self, u, ctx):
        def mix(us, gs, rows, average):
            for u, r, a in zip(us, rows, average, strict=True):
                r.addmm_(u, u.mT, beta=0.9)
                a.lerp_(u.flip(0), 0.3)
            return [r @ a + 0.1 * g for r, a, g in zip(rows, average, gs, strict=True)]

        return ctx.call(mix, u, ctx.grads, state=("rows", "average"))


class Recent(Transform):
    """A ring of the last updates."""

    old = Slot(history=2)

    def rule(self, u, ctx):
        before = ctx.state.old[(ctx.step + 1) % 2]
        ctx.state.old[ctx.step % 2] = u
        return before + u


class Reverse(tz.core.Module):
    """A module that is no rule."""

    def step(self, var):
        var.update = [-2.0 * u for u in var.get_update()]
        return var


class Noise(Transform):
    def rule(self, u, ctx):
        return u + ctx.random("normal", 0.0, 1.0) * ctx.random("uniform", 0.0, 1.0, per="tensor")


m = tz.m
CHAINS = {
    "Adam": lambda: [m.Adam(), m.LR(0.1)],
    "AdamW": lambda: [m.Adam(), m.WeightDecay(0.1), m.LR(0.1)],
    "Adam, global norm": lambda: [m.ClipNorm(0.5, dim="global"), m.Adam(), m.Normalize(), m.LR(0.1)],
    "Lion": lambda: [m.Lion(), m.WeightDecay(0.1, ord=1), m.LR(0.1)],
    "RMSprop": lambda: [m.RMSprop(), m.LR(0.1)],
    "tensors": lambda: [m.ClipNorm(0.5), m.Normalize(ord=1), m.Centralize(), m.LR(0.1)],
    "columns": lambda: [m.ClipNorm(0.5, dim=0), m.Normalize(dim=0, min_size=2), m.LR(0.1)],
    "rows": lambda: [m.ClipNorm(0.5, dim=1, ord=float("inf")), m.Normalize(dim=-1), m.LR(0.1)],
    "inverse": lambda: [m.Centralize(dim=0, inverse_dims=True), m.Normalize(dim=[0, 1]), m.LR(0.1)],
    "EMA": lambda: [m.NormalizeByEMA(), m.ClipNorm(0.1, dim="global", ord=float("inf"))],
    "EMA, global": lambda: [m.NormalizeByEMA(tensorwise=False), m.LR(0.1)],
    "numbers": lambda: [Trust(), m.LR(0.1)],
    "ring": lambda: [Recent(), m.LR(0.1)],
    "child": lambda: [m.Adam(), Reverse(), m.ClipNorm(0.5), Reverse()],
    "noise": lambda: [Noise(), m.Adam(), m.LR(0.1)],
    "params": lambda: [m.Normalize(target="params_direct"), m.Centralize(target="grad"), m.LR(0.1)],
    "Muon": lambda: [m.Muon(method="svd"), m.LR(0.1)],
    "opaque": lambda: [Mixed(), m.ClipNorm(1.0), m.LR(0.1)],
    "SOAP": lambda: [m.SOAP(precond_freq=2), m.LR(0.1)],
    "Shampoo": lambda: [m.Shampoo(update_freq=2, inner=m.EMA(0.9)), m.ClipNorm(1.0), m.LR(0.1)],
    "one matrix": lambda: [m.FullMatrixAdagrad(concat_params=True), m.LR(0.1)],
}
#: Chains that need every parameter in one piece.
REFUSED = {
    "LBFGS": lambda: [m.LBFGS(), m.StrongWolfe()],
    "Newton": lambda: [m.Newton(), m.LR(1.0)],
    "FDM": lambda: [m.FDM(), m.LR(0.1)],
    "SPSA": lambda: [m.SPSA(), m.LR(0.1)],
    "Backtracking": lambda: [m.Backtracking()],
    "VectorProjection": lambda: [m.VectorProjection([m.Adam()]), m.LR(0.1)],
    "MatrixMomentum": lambda: [m.MatrixMomentum(), m.LR(0.1)],
    "TrustCG": lambda: [m.TrustCG()],
}


def gradients(params, step):
    return [torch.sin(3 * p + step) for p in params]


def whole(t):
    return t.detach().full_tensor() if hasattr(t, "full_tensor") else t.detach().clone()


def make(name, spread, *, compile, start=None):
    """Parameters, here or spread over ranks, and their optimizer."""
    shapes = MATRICES if name in ("Muon", "opaque") else SHAPES
    start = [values(s, i) for i, s in enumerate(shapes)] if start is None else start
    params = [torch.nn.Parameter(spread(t)) for t in start]
    return params, tz.Modular(params, *CHAINS[name](), compile=compile)


def walk(params, optimizer, steps, spread):
    """The parameters after some steps, in one piece."""
    for step in steps:
        for p, g in zip(params, gradients([whole(p) for p in params], step), strict=True):
            p.grad = spread(g)
        optimizer.step()
    return [whole(p) for p in params]


def compare(rank, ranks):
    """On one rank: every chain against the run without ranks; the differences are printed."""
    from torch.distributed.tensor import Replicate, Shard, init_device_mesh

    line = init_device_mesh("cpu", (ranks,))
    ways = {
        "rows": (line, lambda ndim: [Shard(0)]),
        "columns": (line, lambda ndim: [Shard(ndim - 1)]),
        "copies": (line, lambda ndim: [Replicate()]),
        "rows, gradients in copies": (line, lambda ndim: [Shard(0)]),
    }
    if ranks == 4:
        square = init_device_mesh("cpu", (2, 2))
        ways["blocks"] = square, lambda ndim: [Shard(0), Shard(1) if ndim > 1 else Replicate()]
        ways["copies of rows"] = square, lambda ndim: [Replicate(), Shard(0)]
    numbers_of_parts(rank, ranks, Shards(line, [Shard(0)]))
    refusals(partial(spread_by, line, lambda ndim: [Shard(0)]))
    messages(partial(spread_by, line, lambda ndim: [Shard(0)]))
    turns = itertools.count()
    for name in CHAINS:
        torch.manual_seed(0)
        expected = walk(*make(name, torch.clone, compile=False), range(4), torch.clone)
        for way, (mesh, placements) in ways.items():
            if "gradients" in way and name not in ("Adam", "columns", "child", "opaque"):
                continue
            spread = partial(spread_by, mesh, placements)
            grads = partial(spread_by, mesh, lambda ndim: [Replicate()]) if "gradients" in way else spread
            # two ranks are tested often, and have each chain compiled in some of the ways
            for compile in (False, True) if ranks > 2 else (next(turns) % 2 == 1,):
                torch.manual_seed(0)
                found = walk(*make(name, spread, compile=compile), range(4), grads)
                check(found, expected, name, way, compile, rank)
    spread = partial(spread_by, line, lambda ndim: [Shard(0)])
    other = partial(spread_by, line, lambda ndim: [Shard(ndim - 1)])
    for name in ("Adam", "EMA", "numbers", "ring", "opaque"):
        expected = walk(*make(name, torch.clone, compile=False), range(4), torch.clone)
        for first, then in ((spread, torch.clone), (torch.clone, spread), (spread, other)):
            params, optimizer = make(name, first, compile=False)
            start = walk(params, optimizer, range(2), first)
            params, resumed = make(name, then, compile=False, start=start)
            resumed.load_state_dict(optimizer.state_dict())
            check(walk(params, resumed, range(2, 4), then), expected, name, "resumed", rank)


def numbers_of_parts(rank, ranks, shards):
    """Infinities and NaN are not lost, and what is not cut stays."""
    largest = [torch.tensor([float("nan") if rank == 0 else 1.0, -float("inf"), rank]), torch.tensor(float(rank))]
    shards.reduce(largest, [(0,), ()], largest=True)
    expected = torch.tensor([float("nan"), -float("inf"), ranks - 1])
    torch.testing.assert_close(largest[0], expected, equal_nan=True)
    assert largest[1] == rank
    sums = torch.tensor([rank, float("inf") if rank == 0 else -float("inf")])
    shards.reduce([sums], [(0,)])
    torch.testing.assert_close(sums, torch.tensor([ranks * (ranks - 1) / 2, float("nan")]), equal_nan=True)


def refusals(spread):
    """What cannot work on parts says so, and changes nothing."""
    for name, chain in REFUSED.items():
        params = [torch.nn.Parameter(spread(values(s, i))) for i, s in enumerate(SHAPES)]
        optimizer = tz.Modular(params, *chain())

        def closure(backward=True, params=params):
            loss = sum(p.square().sum() for p in params).full_tensor()
            if backward:
                for p in params:
                    p.grad = None
                loss.backward()
            return loss

        with pytest.raises(NotImplementedError, match=rf"{name}.* needs each parameter in one piece, and parameter 0"):
            optimizer.step(closure)
        check([whole(p) for p in params], [values(s, i) for i, s in enumerate(SHAPES)], name)
        assert not any(optimizer.state.values()), name


def messages(spread):
    """The sums of a pass are one message, whatever their number, and so are the maxima."""
    sent, send = [], dist.all_reduce

    def counting(values, op=dist.ReduceOp.SUM, group=None):
        sent.append(op)
        send(values, op, group=group)

    dist.all_reduce = counting
    try:
        for name, compile in (("tensors", False), ("tensors", True), ("EMA", False), ("Adam", False)):
            walk(*make(name, spread, compile=compile), range(1), spread)
    finally:
        dist.all_reduce = send
    # ClipNorm, Normalize and Centralize; NormalizeByEMA and ClipNorm
    assert sent == [*[dist.ReduceOp.SUM] * 3 * 2, dist.ReduceOp.SUM, dist.ReduceOp.MAX]


def spread_by(mesh, placements, t):
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(t, mesh, placements(t.ndim))


def check(found, expected, *where):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda text: f"{where}: {text}")


def spawn(ranks, folder):
    """Run this file once for each rank; the output of all that failed."""
    root = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.core.test_shards"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(folder / "meeting")],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [text for text, process in zip(outputs, processes, strict=True) if process.returncode]


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_parameters_that_are_spread_move_as_whole_ones(ranks, tmp_path):
    assert spawn(ranks, tmp_path) == []


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_summands_of_parameters_are_refused():
    from torch.distributed.tensor import Partial, Shard

    with pytest.raises(ValueError, match="hold summands of a parameter"):
        Shards(None, [Shard(0), Partial()])


if __name__ == "__main__":
    rank, ranks = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    if c_build.refusal() is None:  # then all rules are compiled
        warnings.filterwarnings("error", "compile=True has no effect on (?!Reverse|SOAP|Shampoo|FullMatrix)")
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=ranks)
    compare(rank, ranks)
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # torch may abort when the interpreter takes down the threads of a process group
