"""Random chains and trees of modules: whatever is combined keeps the contract.

A chain run in another way (compiled, watched, without a closure, resumed, copied) has to make the same steps. Where
rounding may differ, the other run starts each step from the state of the first: some chains are chaotic.
"""

import copy
import io
import random
import warnings

import pytest
import torch

import torchzero_core as tz

m = tz.m
F64 = torch.float64

LEAVES = [
    lambda: m.ClipValue(0.3),
    lambda: m.Adam(),
    lambda: m.EMA(0.9, debiased=True),
    lambda: m.Sign(),
    lambda: m.Normalize(),
    lambda: m.ClipNorm(1.0, dim="global"),
    lambda: m.NormalizeByEMA(tensorwise=False),
    lambda: m.Cautious(normalize=True),
    lambda: m.WeightDecay(0.1),
    lambda: m.NAG(0.9),
    lambda: m.RMSprop(0.9),
    lambda: m.Muon(method="svd"),
    lambda: m.Lion(),
    lambda: m.Warmup(start_lr=0.1, steps=4),
    lambda: m.Centralize(),
    lambda: m.AccumulateMaximum(0.1),
    lambda: m.Debias(0.9, 0.99),
    lambda: m.Clone(),
    lambda: m.Grad(),
    lambda: m.StepSize(0.5),
    lambda: m.Wrap(torch.optim.SGD, lr=0.1, momentum=0.5),
    lambda: m.LBFGS(),
    lambda: m.BFGS(),
    lambda: m.PolakRibiere(),
]
#: Modules with one or two children; the second argument is a target.
NODES = [
    lambda a, b, t: m.Add(a(), alpha=0.5),
    lambda a, b, t: m.Mul(a()),
    lambda a, b, t: m.Sum(a(), b()),
    lambda a, b, t: m.GraftModules(a(), b()),
    lambda a, b, t: m.Split(is_matrix, a(), b()),
    lambda a, b, t: m.GradientAccumulation(a(), 2),
    lambda a, b, t: m.RMSprop(0.9, inner=a()),
    lambda a, b, t: m.Adagrad(inner=a()),
    lambda a, b, t: m.LBFGS(inner=a()),
    lambda a, b, t: m.VectorProjection(a()),
    lambda a, b, t: m.ClipValue(0.5, target=t),
]
TARGETS = ["update", "grad", "closure", "params_direct", "params_difference", "update_difference"]
TAILS = [lambda: [m.LR(0.01)], list, lambda: [m.Backtracking()], lambda: [m.StrongWolfe()]]


def is_matrix(p):
    return p.ndim > 1


def tree(rnd, depth):
    """A function that builds a random module, the same at each call."""
    if depth == 0 or rnd.random() < 0.4:
        return rnd.choice(LEAVES)
    node, target = rnd.choice(NODES), rnd.choice(TARGETS)
    a, b = ([tree(rnd, depth - 1) for _ in range(rnd.choice([1, 1, 2]))] for _ in range(2))
    return lambda: node(lambda: [build() for build in a], lambda: [build() for build in b], target)


class Case:
    """A random chain on three parameters, with groups, missing gradients and a deterministic closure now and then."""

    def __init__(self, seed):
        rnd = random.Random(seed)
        self.parts = [tree(rnd, 2) for _ in range(rnd.randint(1, 3))]
        self.tail = rnd.choice(TAILS)
        self.grouped, self.missing = rnd.random() < 0.4, rnd.random() < 0.3
        self.deterministic = not self.missing and rnd.random() < 0.3

    def build(self, **options):
        generator = torch.Generator().manual_seed(0)
        shapes = ((3, 4), (5,), ())
        params = [torch.randn(s, generator=generator, dtype=F64).requires_grad_() for s in shapes]
        groups = [{"params": params[:1], "lr": 0.02}, {"params": params[1:]}] if self.grouped else params
        modules = [*(part() for part in self.parts), *self.tail()]
        return params, tz.Modular(groups, *modules, deterministic=self.deterministic, **options)

    def closure(self, params, optimizer):
        used = params[:2] if self.missing and optimizer.current_step % 3 == 1 else params

        def closure(backward=True):
            loss = sum((i + 1) * ((p - 0.3) ** 2).sum() + 0.1 * (p**4).sum() for i, p in enumerate(used))
            if backward:
                optimizer.zero_grad()
                loss.backward()
            return loss

        return closure

    def step(self, params, optimizer):
        optimizer.step(self.closure(params, optimizer))


def take_over(case, of, to):
    """Put one run where another one is."""
    (source, first), (params, optimizer) = of, to
    with torch.no_grad():
        torch._foreach_copy_(params, source)
    for p, q in zip(params, source, strict=True):
        p.grad = None if q.grad is None else q.grad.clone()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))


def finite(params):
    return all(bool((p.detach().abs() < 1e6).all()) for p in params)


def check(seed):
    case = Case(seed)
    try:
        run = case.build()
    except ValueError as error:  # settings of one group inside a projection of all
        assert "takes one" in str(error)
        return
    others = {"compiled": case.build(compile=True), "watched": case.build()}
    others["watched"][1].watch(lambda path, update: None)
    if not run[1].requires_closure and not case.deterministic:
        others["plain"] = case.build()
    resumed = None
    for i in range(6):
        before = [p.detach().clone() for p in run[0]]
        if i == 3:
            resumed = case.build()
            take_over(case, run, resumed)
            copied = copy.deepcopy(run)
        for other in others.values():
            take_over(case, run, other)
        try:
            case.step(*run)
        except ValueError as error:
            assert "takes one" in str(error)
            return
        if not finite(run[0]):
            return
        for name, (params, optimizer) in others.items():
            if name == "plain":
                case.closure(params, optimizer)()
                optimizer.step()
            else:
                case.step(params, optimizer)
            for p, q, b in zip(params, run[0], before, strict=True):
                size = 1 + b.abs().max()  # a step is a difference of numbers of this size
                assert float((p - q).detach().abs().max()) <= 1e-7 * size, f"{name}, step {i}"
        if resumed is not None:
            case.step(*resumed)
            case.step(*copied)
            assert all(map(torch.equal, run[0], resumed[0])), f"resumed, step {i}"
            assert all(map(torch.equal, run[0], copied[0])), f"copied, step {i}"


@pytest.mark.filterwarnings("ignore:.*compile=True has no effect")
@pytest.mark.filterwarnings("ignore:.*is for weights of two or more dimensions")
@pytest.mark.parametrize("seed", [*range(35), *(pytest.param(n, marks=pytest.mark.slow) for n in range(35, 100))])
def test_random_trees(seed):
    check(seed)


@pytest.mark.slow
def test_many_random_trees():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(1000, 2000):
            check(seed)
