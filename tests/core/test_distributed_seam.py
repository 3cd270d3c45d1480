"""What modules decide from goes through one interface; two ranks in threads show that it suffices (K11)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, quadratic, run, same
from torchzero_core.core import Reductions

SHAPES = [(3, 2), (4,), (5,), (2, 2)]
COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


class Recorder(Reductions):
    """Passes everything on and notes what it was asked."""

    def __init__(self):
        self.calls = []

    def mean_loss(self, loss):
        self.calls.append(("mean_loss", loss))
        return loss

    def mean_grads(self, grads):
        self.calls.append(("mean_grads", grads))
        return list(grads)

    def sum_scalar(self, value):
        self.calls.append(("sum_scalar", value))
        return value

    def max_scalar(self, value):
        self.calls.append(("max_scalar", value))
        return value

    def gather(self, vector):
        self.calls.append(("gather", vector))
        return vector, 0

    def names(self):
        return {name for name, _ in self.calls}


class Ranks:
    """What ranks exchange when they are threads."""

    def __init__(self, n):
        self.n, self.barrier, self.slots = n, threading.Barrier(n, timeout=30), [None] * n

    def gather(self, rank, value):
        self.slots[rank] = value
        self.barrier.wait()
        out = list(self.slots)
        self.barrier.wait()  # nobody writes again before all have read
        return out


class Shard(Reductions):
    """A rank that holds a part of the parameters: sums over the others."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank = ranks, rank

    def sum_scalar(self, value):
        return sum(self.ranks.gather(self.rank, value))

    def max_scalar(self, value):
        return torch.stack([torch.as_tensor(v) for v in self.ranks.gather(self.rank, value)]).max()

    def gather(self, vector):
        pieces = self.ranks.gather(self.rank, vector)
        return torch.cat(pieces), sum(len(piece) for piece in pieces[: self.rank])


class Replica(Reductions):
    """A rank that sees other data: means over the others."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank = ranks, rank

    def mean_loss(self, loss):
        return sum(self.ranks.gather(self.rank, loss)) / self.ranks.n

    def mean_grads(self, grads):
        return [sum(gs) / self.ranks.n for gs in zip(*self.ranks.gather(self.rank, list(grads)), strict=True)]


def in_parallel(fns):
    """Runs functions as ranks; grad mode and errors are each thread's own."""
    with ThreadPoolExecutor(len(fns)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(fn) for fn in fns]]


# -- the default -------------------------------------------------------------------------------------------------------
def test_the_default_does_nothing():
    reductions = Reductions()
    value, grads = torch.tensor(2.0), [torch.ones(2)]
    assert reductions.mean_loss(value) is value
    assert reductions.sum_scalar(value) is value
    assert reductions.max_scalar(value) is value
    assert reductions.mean_grads(grads)[0] is grads[0]
    assert reductions.gather(value) == (value, 0)
    assert type(tz.Modular(make_params(), tz.m.LR(0.1)).distributed) is Reductions


# -- who asks ----------------------------------------------------------------------------------------------------------
ASK = {
    "clip": (lambda: [tz.m.ClipNorm(0.5, dim="global"), tz.m.LR(0.1)], {"sum_scalar"}),
    "ema norm": (lambda: [tz.m.NormalizeByEMA(tensorwise=False), tz.m.LR(0.1)], {"sum_scalar"}),
    "conjugate": (lambda: [tz.m.PolakRibiere(), tz.m.LR(0.1)], {"sum_scalar"}),
    "search": (lambda: [tz.m.Backtracking()], {"sum_scalar", "mean_loss"}),
    "wolfe": (lambda: [tz.m.StrongWolfe()], {"sum_scalar", "mean_loss"}),
    "lbfgs": (lambda: [tz.m.LBFGS(), tz.m.LR(0.1)], {"sum_scalar"}),
    "bfgs": (lambda: [tz.m.BFGS(), tz.m.LR(0.1)], {"gather"}),
    "bfgs of each": (lambda: [tz.m.BFGS(concat_params=False), tz.m.LR(0.1)], set()),
    "full matrix": (lambda: [tz.m.FullMatrixAdagrad(concat_params=True), tz.m.LR(0.1)], {"gather"}),
    "newton": (lambda: [tz.m.NewtonCG(), tz.m.LR(0.1)], {"sum_scalar"}),
    "newton by autograd": (lambda: [tz.m.NewtonCG(hvp_method="autograd")], {"sum_scalar", "mean_grads"}),
    "elementwise": (lambda: [tz.m.ClipValue(1), tz.m.Adam(), tz.m.LR(0.1)], set()),
    "per tensor": (lambda: [tz.m.ClipNorm(0.5), tz.m.LR(0.1)], set()),
}


@COMPILE
@pytest.mark.parametrize("name", ASK)
@pytest.mark.filterwarnings("ignore:compile=True has no effect on")
def test_what_is_asked(name, compile):
    modules, expected = ASK[name]
    params, plain = make_params(), make_params()
    optimizer = tz.Modular(params, *modules(), compile=compile)
    optimizer.distributed = recorder = Recorder()
    run(optimizer, params, 3)
    assert recorder.names() == expected
    run(tz.Modular(plain, *modules(), compile=compile), plain, 3)
    assert same(bits(params), bits(plain))


@COMPILE
def test_the_global_norm_is_summed_as_squares(compile):
    params = make_params()
    optimizer = tz.Modular(params, tz.m.ClipNorm(0.5, dim="global"), tz.m.LR(0.1), compile=compile)
    optimizer.distributed = recorder = Recorder()
    backward(params)
    optimizer.step()
    squares = sum(float(p.grad.square().sum()) for p in params)
    assert float(recorder.calls[0][1]) == pytest.approx(squares, rel=1e-14)
    assert len(recorder.calls) == 1


def test_a_search_sees_the_mean_of_the_loss():
    params = make_params()
    optimizer = tz.Modular(params, tz.m.Backtracking())

    class Constant(Reductions):
        def mean_loss(self, loss):
            return torch.full_like(loss, 5.0)  # the ranks' mean does not go down

    optimizer.distributed = Constant()
    before = bits(params)
    optimizer.step(closure_of(params))
    assert same(bits(params), before)
    assert optimizer.last_step.status != "ok"


# -- shards ------------------------------------------------------------------------------------------------------------
SHARDED = {
    "clip": lambda: [tz.m.ClipNorm(0.5, dim="global"), tz.m.Adam(), tz.m.LR(0.1)],
    "normalize": lambda: [tz.m.Normalize(dim="global"), tz.m.LR(0.1)],
    "five": lambda: [
        tz.m.ClipValue(10),
        tz.m.Adam(),
        tz.m.NormalizeByEMA(tensorwise=False, max_ema_growth=1.1),
        tz.m.WeightDecay(1e-2),
        tz.m.LR(0.1),
    ],
    "clip by EMA": lambda: [tz.m.ClipNormByEMA(tensorwise=False), tz.m.LR(0.1)],
    "conjugate": lambda: [tz.m.PolakRibiere(), tz.m.LR(0.1)],
    "cautious": lambda: [tz.m.Adam(), tz.m.Cautious(normalize=True), tz.m.LR(0.1)],
}


@COMPILE
@pytest.mark.parametrize("name", SHARDED)
def test_two_halves_of_the_parameters_are_the_whole(name, compile):
    """Each rank has two of the four tensors: with sums over ranks the steps are those of one process."""
    modules, steps = SHARDED[name], 6
    whole = make_params(SHAPES)
    optimizer = tz.Modular(whole, *modules(), compile=compile)
    for _ in range(steps):
        backward(whole)
        optimizer.step()

    ranks = Ranks(2)
    parts = [make_params(SHAPES)[:2], make_params(SHAPES)[2:]]

    def rank(k):
        own = tz.Modular(parts[k], *modules(), compile=compile)
        own.distributed = Shard(ranks, k)
        for _ in range(steps):
            for i, p in enumerate(parts[k]):
                p.grad = None
                a = torch.linspace(0.5, 2.0, p.numel(), dtype=p.dtype).view(p.shape)
                (0.5 * (a * (p - (2 * k + i + 1.0)).square()).sum()).backward()
            own.step()

    in_parallel([lambda k=k: rank(k) for k in range(2)])
    for a, b in zip([*parts[0], *parts[1]], whole, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-13)


def shard_loss(params, first=0):
    """Not quadratic, and a sum over the tensors, as a loss over shards is."""
    total = 0.0
    for i, p in enumerate(params, first):
        a = torch.linspace(0.5, 2.0, p.numel(), dtype=p.dtype).view(p.shape)
        total = total + (0.5 * a * (p - (i + 1.0)).square() + torch.log(torch.cosh(p - 1))).sum()
    return total


VECTOR_METHODS = {
    "lbfgs": lambda: [tz.m.LBFGS(), tz.m.LR(0.3)],
    "lbfgs with resets": lambda: [tz.m.LBFGS(tol=0.05, tol_reset=True), tz.m.LR(0.3)],
    "damped lbfgs": lambda: [tz.m.LBFGS(damping=True, params_beta=0.5, z_beta=0.5, inner=tz.m.EMA(0.5)), tz.m.LR(0.3)],
    "bfgs": lambda: [tz.m.BFGS(), tz.m.LR(0.3)],
    "bfgs with all": lambda: [
        tz.m.BFGS(reset_interval="auto", beta=0.3, scale_second=True, inner=tz.m.EMA(0.5)),
        tz.m.LR(0.3),
    ],
    "full matrix": lambda: [tz.m.FullMatrixAdagrad(concat_params=True, inner=tz.m.EMA(0.5)), tz.m.LR(0.3)],
    # far from exact, so that every sum matters: the length of differences, the tolerance, the sign of a warm start
    "newton": lambda: [tz.m.NewtonCG(h=0.5, maxiter=3), tz.m.LR(0.5)],
    "newton from the last solution": lambda: [tz.m.NewtonCG(h=0.5, maxiter=1, warm_start=True), tz.m.LR(1.3)],
    "newton by central differences": lambda: [tz.m.NewtonCG(h=0.5, hvp_method="central"), tz.m.LR(0.5)],
    "newton by autograd": lambda: [tz.m.NewtonCG(hvp_method="autograd"), tz.m.LR(0.85)],
    "newton to the end": lambda: [tz.m.NewtonCG(tol=0.0, hvp_method="autograd", forcing=False), tz.m.LR(0.1)],
}


@pytest.mark.parametrize("name", VECTOR_METHODS)
def test_a_vector_in_two_shards_is_the_whole(name):
    """What sees all parameters as one vector: sums over ranks, or a gathered vector, give the steps of one process."""
    steps = 22
    whole = make_params(SHAPES)
    run(tz.Modular(whole, *VECTOR_METHODS[name]()), whole, steps, shard_loss)

    ranks = Ranks(2)
    parts = [make_params(SHAPES)[:2], make_params(SHAPES)[2:]]

    def rank(k):
        own = tz.Modular(parts[k], *VECTOR_METHODS[name]())
        own.distributed = Shard(ranks, k)
        run(own, parts[k], steps, lambda params: shard_loss(params, 2 * k))

    in_parallel([lambda k=k: rank(k) for k in range(2)])
    for a, b in zip([*parts[0], *parts[1]], whole, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-9)


def test_without_the_sums_the_halves_differ():
    """The test above is about something."""
    whole, half = make_params(SHAPES), make_params(SHAPES)[:2]
    backward(whole)
    backward(half)
    tz.Modular(whole, *SHARDED["clip"]()).step()
    tz.Modular(half, *SHARDED["clip"]()).step()
    optimizer = tz.Modular(half, tz.m.ClipNorm(0.5, dim="global"))
    backward(half)
    before = bits(half)
    optimizer.step()
    norm = torch.stack([(a - b).detach().norm() for a, b in zip(half, before, strict=True)]).norm()
    assert norm.item() == pytest.approx(0.5)


# -- replicas ----------------------------------------------------------------------------------------------------------
def shifted(shift):
    return lambda params: quadratic([p - shift for p in params])


REPLICATED = {
    "backtracking": lambda: [tz.m.Backtracking(init=4.0)],
    "lbfgs and wolfe": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()],
    "adam and backtracking": lambda: [tz.m.Adam(), tz.m.Backtracking(init=4.0)],
}


@pytest.mark.parametrize("name", REPLICATED)
def test_replicas_with_different_data_stay_identical(name):
    """As under DDP: gradients of backward are averaged by it, losses by the seam; ranks agree to the last bit."""
    ranks, shifts = Ranks(2), (0.0, 0.7)
    copies = [make_params(), make_params()]
    whole = make_params()

    def mean_loss(ps):
        return sum(shifted(s)(ps) for s in shifts) / 2

    optimizer = tz.Modular(whole, *REPLICATED[name]())
    expected = run(optimizer, whole, 5, mean_loss)

    def rank(k):
        params = copies[k]
        own = tz.Modular(params, *REPLICATED[name]())
        own.distributed = Replica(ranks, k)
        inner = closure_of(params, shifted(shifts[k]))

        def closure(backward=True):
            loss = inner(backward)
            if backward:  # what DDP does
                means = own.distributed.mean_grads([p.grad for p in params])
                for p, g in zip(params, means, strict=True):
                    p.grad = g
            return loss

        losses = [float(own.step(closure)) for _ in range(5)]
        return losses, own.last_step.evaluations, own.last_step.step_size

    first, second = in_parallel([lambda k=k: rank(k) for k in range(2)])
    assert same(bits(copies[0]), bits(copies[1]))
    assert first[1:] == second[1:]
    assert [(a + b) / 2 for a, b in zip(first[0], second[0], strict=True)] == pytest.approx(expected, rel=1e-9)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(copies[0], whole, strict=True)) < 1e-9


def test_it_is_copied_with_the_optimizer():
    import copy

    optimizer = tz.Modular(make_params(), tz.m.LR(0.1))
    optimizer.distributed = Recorder()
    assert type(copy.deepcopy(optimizer).distributed) is Recorder
