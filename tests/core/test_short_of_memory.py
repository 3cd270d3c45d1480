"""Memory runs out at any call of torch within a step: parameters and state are of a whole number of steps (K12)."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import torchzero_core as tz
from tests.problems import backward, bits, closure_of, make_params, same
from torchzero_core.engine import kernels
from torchzero_core.engine.backends import foreach

m = tz.m


class Short(TorchDispatchMode):
    """The n-th call that needs memory gets none, and so do the ``more`` after it."""

    def __init__(self, n, more=0):
        super().__init__()
        self.n, self.more, self.calls = n, more, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        needs = not any(a.alias_info is not None for a in (*func._schema.arguments, *func._schema.returns))
        self.calls += needs
        if needs and self.n <= self.calls <= self.n + self.more:
            raise (torch.OutOfMemoryError, RuntimeError)[self.n % 2]("no memory")
        return func(*args, **(kwargs or {}))


#: A chain, and whether it gets a closure.
CHAINS = {
    "kernel": (lambda: [m.Adam(), m.LR(0.1)], False),
    "rules": (lambda: [m.ClipNorm(1.0), m.Adam(), m.NormalizeByEMA(), m.WeightDecay(0.01), m.LR(0.1)], False),
    "numbers": (lambda: [m.ClipValueGrowth(), m.ClipNormByEMA(), m.LR(0.1)], False),
    "slices": (lambda: [m.ClipNorm(1.0, dim=-1), m.Lion(), m.LR(0.1)], False),
    "random": (lambda: [m.Dropout(0.5, seed=1), m.RMSprop(), m.LR(0.1)], False),
    "two segments": (lambda: [m.EMA(0.5), m.BFGS(), m.EMA(0.5), m.LR(0.1)], False),
    "given a closure": (lambda: [m.RMSprop(), m.LR(0.1)], True),
    "LBFGS": (lambda: [m.LBFGS(), m.StrongWolfe()], True),
    "SOAP": (lambda: [m.SOAP(), m.LR(0.1)], False),
    "Split": (lambda: [m.Split(lambda p: p.ndim > 1, m.Muon(), m.Lion()), m.LR(0.1)], False),
    "Wrap": (lambda: [m.ClipNorm(1.0), m.Wrap(torch.optim.AdamW, lr=0.1), m.EMA(0.5)], False),
    "GradientAccumulation": (lambda: [m.GradientAccumulation(m.Adam(), n=2), m.LR(0.1)], False),
    "SPSA": (lambda: [m.SPSA(seed=0), m.Adam(), m.LR(0.1)], True),
    "NewtonCG": (lambda: [m.NewtonCG(maxiter=3), m.Backtracking()], True),
    "projection": (lambda: [m.VectorProjection([m.Adam(), m.EMA(0.5)]), m.LR(0.1)], False),
}
OPTIONS = {
    "eager": {},
    "in pieces": {},
    "compiled": {"compile": True},
    "rounded": {"stochastic_rounding": 3},
}


def pair_of(name, option):
    """Two optimizers that are the same to the last bit."""
    out = []
    for _ in range(2):
        torch.manual_seed(1)
        params = make_params(dtype=torch.bfloat16 if option == "rounded" else torch.float64)
        out.append((tz.Modular(params, *CHAINS[name][0](), **OPTIONS[option]), params))
    return out


def snapshot(optimizer, params):
    """All that a step may change."""
    state = {k: v for k, v in copy.deepcopy(optimizer.state_dict())["state"].items() if v}
    return bits(params), state, optimizer.current_step


def step(optimizer, params, *, closure, mode=None):
    torch.manual_seed(optimizer.current_step)
    if not closure:
        backward(params)
    if mode is None:
        return optimizer.step(closure_of(params) if closure else None)
    with mode:
        optimizer.step(closure_of(params) if closure else None)


def check(name, option, before, n):
    """Fail at the n-th call of the step after some: undone, or done; whether there was such a call."""
    closure = CHAINS[name][1]
    (optimizer, params), (twin, others) = pair_of(name, option)
    for _ in range(before):
        step(optimizer, params, closure=closure)
        step(twin, others, closure=closure)
    start, mode, failed = snapshot(optimizer, params), Short(n), False
    try:
        step(optimizer, params, closure=closure, mode=mode)
    except RuntimeError as error:
        assert "no memory" in str(error)
        assert same(start, snapshot(optimizer, params)), n
        failed = True
    if failed:
        step(optimizer, params, closure=closure)
    step(twin, others, closure=closure)
    assert same(snapshot(optimizer, params), snapshot(twin, others)), n
    return mode.calls >= n


FEW = [
    *((name, "eager") for name in CHAINS),
    *((name, "in pieces") for name in ("kernel", "rules", "random")),
    *((name, "compiled") for name in ("rules", "slices", "Split", "projection")),
    *((name, "rounded") for name in ("kernel", "rules", "projection")),
]


@pytest.mark.filterwarnings("ignore:compile=True has no effect")
@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize(("name", "option"), FEW)
def test_memory_runs_out_once(name, option, before, stride, monkeypatch):
    if option == "in pieces":
        monkeypatch.setattr(foreach, "CPU_PIECE", 4)
        monkeypatch.setattr(kernels, "kind", lambda module: None)
    few = 3 if name in ("kernel", "rules", "numbers", "slices", "random") else stride  # where each call is another case
    n = 1
    while check(name, option, before, n):
        n += min(stride, few)
    assert n > 1 or option == "compiled"


def test_memory_that_does_not_come_back_is_said():
    """The rest of the step cannot be made, and what is written cannot be undone: the message says so."""
    params = make_params()
    optimizer = tz.Modular(params, m.RMSprop(), m.EMA(0.5), m.LR(0.1))
    for _ in range(2):
        step(optimizer, params, closure=False)
    start = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match=r"no memory.*twice while the step was being written.*last checkpoint"):
        step(optimizer, params, closure=False, mode=Short(3, more=1))
    assert not same(start, snapshot(optimizer, params))


def test_no_memory_before_anything_is_written_is_no_half_step():
    params = make_params()
    optimizer = tz.Modular(params, m.RMSprop(), m.EMA(0.5), m.LR(0.1))
    start = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match="no memory") as caught:
        step(optimizer, params, closure=False, mode=Short(1, more=10))
    assert "twice" not in str(caught.value)
    assert same(start, snapshot(optimizer, params))
