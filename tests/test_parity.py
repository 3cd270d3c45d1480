"""Whole trajectories beside implementations that are not ours, in float64."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import torchzero_core as tz
from tests.parity import apart, found
from tests.problems import backward, make_params, quadratic, rosenbrock

m = tz.m
STEPS = 60
SHAPES = [(3, 4), (2,), (2, 2, 3), ()]


@dataclass
class Pair:
    """A chain and the optimizer that it must equal.

    Attributes:
        name: of the chain.
        chain: makes the modules.
        other: makes the other optimizer from parameters.
        reference: what the other one is.
        tolerance: largest difference along the trajectory.
    """

    name: str
    chain: Any
    other: Any
    reference: str
    tolerance: float = 1e-13


class ClipThen:
    """torch's gradient clipping before an optimizer."""

    def __init__(self, params, clip, make):
        self.params, self.clip, self.optimizer = params, clip, make(params)

    def step(self):
        self.clip(self.params)
        self.optimizer.step()


def peer(name, **kwargs):
    """An optimizer of the package pytorch-optimizer."""

    def make(params):
        package = pytest.importorskip("pytorch_optimizer")
        return getattr(package, name)(params, **kwargs)

    return make


def torch_optim(name, **kwargs):
    """An optimizer of torch."""
    return lambda params: getattr(torch.optim, name)(params, **kwargs)


class Closed:
    """p ← p − lr·rule(history of gradients), with the rule in numpy."""

    def __init__(self, params, rule, lr):
        self.params, self.rule, self.lr = params, rule, lr
        self.history: list[list[np.ndarray]] = [[] for _ in params]

    def step(self):
        with torch.no_grad():
            for p, history in zip(self.params, self.history, strict=True):
                history.append(p.grad.numpy().copy())
                p -= self.lr * torch.from_numpy(np.asarray(self.rule(history)))


def closed(rule, lr=0.1):
    return lambda params: Closed(params, rule, lr)


def average(history, beta, power=1):
    """Σ (1−β) β^(t−i) gᵢ^power."""
    t = len(history)
    return sum(
        (1 - beta) * beta ** (t - 1 - i) * np.abs(g) ** power * (1 if power > 1 else np.sign(g))
        for i, g in enumerate(history)
    )


def clipped(clip, name="SGD", **kwargs):
    return lambda params: ClipThen(params, clip, torch_optim(name, **kwargs))


def clip_norm(params):
    torch.nn.utils.clip_grad_norm_(params, 0.7)


def clip_value(params):
    torch.nn.utils.clip_grad_value_(params, 0.4)


def clip_each(params):
    for p in params:
        torch.nn.utils.clip_grad_norm_([p], 0.7)


def normalize(params):
    for p in params:
        p.grad = torch.nn.functional.normalize(p.grad.flatten(), dim=0).view_as(p.grad)


def centralize(params):
    for p in params:
        if p.numel() > 1:
            p.grad -= p.grad.mean()


def adam(**kwargs):
    return torch_optim("Adam", lr=0.05, **kwargs)


def adam_pieces(*, amsgrad=False):
    return [
        m.DivModules(
            [m.EMA(0.9), m.Debias(beta1=0.9)],
            [
                m.Pow(2),
                m.EMA(0.999),
                m.AccumulateMaximum() if amsgrad else m.Identity(),
                m.Sqrt(),
                m.Debias2(beta=0.999),
                m.Add(1e-8),
            ],
        ),
        m.LR(0.05),
    ]


PAIRS = [
    Pair("LR", lambda: [m.LR(0.1)], torch_optim("SGD", lr=0.1), "torch SGD"),
    Pair("HeavyBall", lambda: [m.HeavyBall(0.9), m.LR(0.05)], torch_optim("SGD", lr=0.05, momentum=0.9), "torch SGD"),
    Pair(
        "HeavyBall, dampening",
        lambda: [m.HeavyBall(0.8, dampening=0.3), m.LR(0.05)],
        torch_optim("SGD", lr=0.05, momentum=0.8, dampening=0.3),
        "torch SGD",
    ),
    Pair(
        "NAG", lambda: [m.NAG(0.9), m.LR(0.05)], torch_optim("SGD", lr=0.05, momentum=0.9, nesterov=True), "torch SGD"
    ),
    Pair(
        "WeightDecay, NAG",
        lambda: [m.WeightDecay(0.1), m.NAG(0.9), m.LR(0.05)],
        torch_optim("SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        "torch SGD",
    ),
    Pair("Adam", lambda: [m.Adam(), m.LR(0.05)], adam(), "torch Adam"),
    Pair(
        "Adam, betas, eps",
        lambda: [m.Adam(0.7, 0.95, 1e-3), m.LR(0.05)],
        adam(betas=(0.7, 0.95), eps=1e-3),
        "torch Adam",
    ),
    Pair("Adam, amsgrad", lambda: [m.Adam(amsgrad=True), m.LR(0.05)], adam(amsgrad=True), "torch Adam"),
    Pair(
        "WeightDecay, Adam",
        lambda: [m.WeightDecay(0.1), m.Adam(), m.LR(0.05)],
        adam(weight_decay=0.1),
        "torch Adam",
    ),
    Pair(
        "Adam, WeightDecay",
        lambda: [m.Adam(), m.WeightDecay(0.1), m.LR(0.05)],
        torch_optim("AdamW", lr=0.05, weight_decay=0.1),
        "torch AdamW",
    ),
    Pair(
        "RMSprop of an average",
        lambda: [m.RMSprop(0.999, debiased=True, init="zeros", inner=m.EMA(0.9, debiased=True)), m.LR(0.05)],
        adam(),
        "torch Adam",
    ),
    Pair(
        "RMSprop of an average, Debias",
        lambda: [
            m.RMSprop(0.999, debiased=True, init="zeros", inner=m.EMA(0.9)),
            m.Debias(beta1=0.9),
            m.LR(0.05),
        ],
        adam(),
        "torch Adam",
    ),
    Pair(
        "EMA / SqrtEMASquared",
        lambda: [
            m.DivModules(m.EMA(0.9, debiased=True), [m.SqrtEMASquared(0.999, debiased=True), m.Add(1e-8)]),
            m.LR(0.05),
        ],
        adam(),
        "torch Adam",
    ),
    Pair(  # eps stands inside the bias correction here
        "EMA, Debias / EMASquared, Sqrt",
        lambda: [
            m.DivModules([m.EMA(0.9), m.Debias(beta1=0.9, beta2=0.999)], [m.EMASquared(0.999), m.Sqrt(), m.Add(1e-8)]),
            m.LR(0.05),
        ],
        adam(),
        "torch Adam",
        tolerance=1e-5,
    ),
    Pair("Adam of low-level modules", adam_pieces, adam(), "torch Adam"),
    Pair("the same, amsgrad", lambda: adam_pieces(amsgrad=True), adam(amsgrad=True), "torch Adam"),
    Pair(
        "RMSprop",
        lambda: [m.RMSprop(0.9, init="zeros"), m.LR(0.02)],
        torch_optim("RMSprop", lr=0.02, alpha=0.9),
        "torch RMSprop",
    ),
    Pair(
        "RMSprop, centered",
        lambda: [m.RMSprop(0.9, 1e-3, centered=True, init="zeros"), m.LR(0.01)],
        torch_optim("RMSprop", lr=0.01, alpha=0.9, eps=1e-3, centered=True),
        "torch RMSprop",
    ),
    Pair(
        "RMSprop, HeavyBall",
        lambda: [m.RMSprop(0.9, init="zeros"), m.HeavyBall(0.8), m.LR(0.01)],
        torch_optim("RMSprop", lr=0.01, alpha=0.9, momentum=0.8),
        "torch RMSprop",
    ),
    Pair("Adagrad", lambda: [m.Adagrad(), m.LR(0.3)], torch_optim("Adagrad", lr=0.3), "torch Adagrad"),
    Pair(
        "Adagrad, decay, start",
        lambda: [m.Adagrad(lr_decay=0.05, initial_accumulator_value=0.2, eps=1e-4), m.LR(0.3)],
        torch_optim("Adagrad", lr=0.3, lr_decay=0.05, initial_accumulator_value=0.2, eps=1e-4),
        "torch Adagrad",
    ),
    Pair("Rprop", lambda: [m.Rprop(alpha=0.1, backtrack=False)], torch_optim("Rprop", lr=0.1), "torch Rprop"),
    Pair(
        "Rprop, other factors",
        lambda: [m.Rprop(nplus=1.3, nminus=0.4, lb=1e-3, ub=0.2, backtrack=False, alpha=0.5)],
        torch_optim("Rprop", lr=0.5, etas=(0.4, 1.3), step_sizes=(1e-3, 0.2)),
        "torch Rprop",
    ),
    Pair(
        "Lion",
        lambda: [m.Lion(0.9, 0.99), m.LR(0.01)],
        peer("Lion", lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
        "pytorch-optimizer Lion",
    ),
    Pair(
        "ClipNorm, all tensors",
        lambda: [m.ClipNorm(0.7, dim="global"), m.LR(0.1)],
        clipped(clip_norm, lr=0.1),
        "torch clip_grad_norm_",
        tolerance=1e-5,  # torch divides by ‖u‖ + 1e-6
    ),
    Pair("ClipNorm", lambda: [m.ClipNorm(0.7), m.LR(0.1)], clipped(clip_each, lr=0.1), "torch clip_grad_norm_", 1e-5),
    Pair("ClipValue", lambda: [m.ClipValue(0.4), m.LR(0.1)], clipped(clip_value, lr=0.1), "torch clip_grad_value_"),
    Pair("Normalize", lambda: [m.Normalize(), m.LR(0.1)], clipped(normalize, lr=0.1), "torch normalize"),
    Pair("Centralize", lambda: [m.Centralize(), m.LR(0.1)], clipped(centralize, lr=0.1), "closed form"),
    Pair("EMA", lambda: [m.EMA(0.8), m.LR(0.1)], closed(lambda h: average(h, 0.8)), "closed form"),
    Pair(
        "EMA, debiased",
        lambda: [m.EMA(0.8, debiased=True), m.LR(0.1)],
        closed(lambda h: average(h, 0.8) / (1 - 0.8 ** len(h))),
        "closed form",
    ),
    Pair(
        "SqrtEMASquared, pow 3",  # larger steps let rounding grow threefold a step
        lambda: [m.DivModules(m.Identity(), [m.SqrtEMASquared(0.9, debiased=True, pow=3), m.Add(1e-3)]), m.LR(0.02)],
        closed(
            lambda h: h[-1] / ((average(h, 0.9, 3) / (1 - 0.9 ** len(h))) ** (1 / 3) + 1e-3), 0.02
        ),  # larger steps grow rounding threefold a step
        "closed form",
    ),
    Pair(
        "Cautious",
        lambda: [m.EMA(0.8), m.Cautious(normalize=True), m.LR(0.1)],
        closed(
            lambda h: (
                average(h, 0.8) * (average(h, 0.8) * h[-1] > 0) / np.maximum(np.mean(average(h, 0.8) * h[-1] > 0), 1e-6)
            )
        ),
        "closed form",
    ),
    Pair(
        "Warmup",
        lambda: [m.Warmup(0.1, 1, 20), m.LR(0.1)],
        closed(lambda h: h[-1] * (0.1 + 0.9 * min((len(h) - 1) / 20, 1))),
        "closed form",
    ),
    Pair("StepSize", lambda: [m.StepSize(0.1)], torch_optim("SGD", lr=0.1), "torch SGD"),
    Pair("Sign", lambda: [m.Sign(), m.LR(0.01)], closed(lambda h: np.sign(h[-1]), 0.01), "closed form"),
    Pair("Wrap(Adam)", lambda: [m.Wrap(torch.optim.Adam, lr=0.05)], adam(), "torch Adam", 0),
    Pair(
        "Wrap(Adamax)", lambda: [m.Wrap(torch.optim.Adamax, lr=0.05)], torch_optim("Adamax", lr=0.05), "torch Adamax", 0
    ),
    Pair(
        "Wrap(SGD), LR",
        lambda: [m.Wrap(torch.optim.SGD, lr=1.0, momentum=0.9), m.StepSize(0.05)],
        torch_optim("SGD", lr=0.05, momentum=0.9),
        "torch SGD",
    ),
    Pair(
        "GradientAccumulation",
        lambda: [m.GradientAccumulation([m.Adam(), m.LR(0.05)], n=3)],
        lambda params: Every(params, 3, adam()),
        "torch Adam on mean gradients",
    ),
    Pair(
        "Split",
        lambda: [m.Split(lambda p: p.ndim > 1, m.Adam(), m.HeavyBall(0.9)), m.LR(0.05)],
        lambda params: Two(
            torch.optim.Adam([p for p in params if p.ndim > 1], lr=0.05),
            torch.optim.SGD([p for p in params if p.ndim <= 1], lr=0.05, momentum=0.9),
        ),
        "torch Adam and SGD",
    ),
]


class Every:
    """Averages n gradients for each step of an optimizer."""

    def __init__(self, params, n, make):
        self.params, self.n, self.optimizer, self.seen = params, n, make(params), []

    def step(self):
        self.seen.append([p.grad.clone() for p in self.params])
        if len(self.seen) == self.n:
            for p, *grads in zip(self.params, *self.seen, strict=True):
                p.grad = sum(grads) / self.n
            self.optimizer.step()
            self.seen = []


class Two:
    """Two optimizers."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()


def loss(params):
    return quadratic(params) + rosenbrock([params[1]]) / 100


def difference(pair, *, compile=False):
    """The largest difference of the two trajectories."""
    ours, theirs = make_params(SHAPES), make_params(SHAPES)
    optimizer, other = tz.Modular(ours, *pair.chain(), compile=compile), pair.other(theirs)
    worst = 0.0
    for _ in range(STEPS):
        backward(ours, loss)
        optimizer.step()
        backward(theirs, loss)
        other.step()
        worst = max([worst, *map(apart, ours, theirs)])
    return found(worst, pair.name, pair.reference)


@pytest.mark.parity
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_trajectory_equals(pair):
    assert difference(pair) <= pair.tolerance


@pytest.mark.parity
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_compiled_trajectory_equals(pair):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on")
        assert difference(pair, compile=True) <= max(pair.tolerance, 1e-13)


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_muon_follows_torch(adjust):
    """The same method; torch rounds the products to bfloat16, so the comparison is in that precision."""
    shape = (6, 10)
    ours, theirs = make_params([shape]), make_params([shape])
    mine = tz.Modular(ours, m.Muon(0.9, adjust_lr=adjust is not None, ns_dtype="bfloat16"), m.LR(0.01))
    other = torch.optim.Muon(theirs, lr=0.01, momentum=0.9, weight_decay=0.0, adjust_lr_fn=adjust)
    for _ in range(10):
        backward(ours)
        mine.step()
        backward(theirs)
        other.step()
    scale = 0.01 * 10 * (0.2 * 10**0.5 if adjust else 1)
    assert (ours[0] - theirs[0]).detach().abs().max() < 0.01 * scale
