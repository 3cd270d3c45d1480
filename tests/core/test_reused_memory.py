"""Closures may write the next gradients, and the next loss, into the memory of the last ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import torchzero_core as tz

CHAINS = {
    "NewtonCG": lambda: [tz.m.NewtonCG(tol=1e-8)],
    "NewtonCG central": lambda: [tz.m.NewtonCG(tol=1e-8, hvp_method="central")],
    "NewtonCG autograd": lambda: [tz.m.NewtonCG(tol=1e-8, hvp_method="autograd")],
    "NewtonCG, search": lambda: [tz.m.NewtonCG(), tz.m.StrongWolfe()],
    "rules, NewtonCG": lambda: [tz.m.ClipValue(5.0), tz.m.NewtonCG(), tz.m.LR(0.5)],
    "LBFGS, search": lambda: [tz.m.LBFGS(), tz.m.StrongWolfe(), tz.m.Mul(0.9)],
    "BFGS, backtracking": lambda: [tz.m.BFGS(), tz.m.Backtracking()],
    "CG, search": lambda: [tz.m.PolakRibiere(), tz.m.StrongWolfe()],
    "search alone": lambda: [tz.m.StrongWolfe()],
    "Cautious behind a search": lambda: [tz.m.HeavyBall(0.5), tz.m.StrongWolfe(), tz.m.Cautious()],
    "search, then the gradient": lambda: [tz.m.StrongWolfe(), tz.m.PolyakStepSize(max=0.5)],
    "Split": lambda: [tz.m.Split(lambda p: p.ndim > 1, tz.m.StrongWolfe(), tz.m.Mul(0.1))],
    "Split, both search": lambda: [tz.m.Split(lambda p: p.ndim > 1, tz.m.StrongWolfe(), tz.m.Backtracking())],
    "inside a projection": lambda: [
        tz.m.VectorProjection([tz.m.LBFGS(), tz.m.StrongWolfe()], project_params=True),
    ],
    "gradient target": lambda: [tz.m.ClipValue(0.5, target="grad"), tz.m.NewtonCG(), tz.m.Backtracking()],
    "closure target": lambda: [tz.m.ClipValue(2.0, target="closure"), tz.m.LBFGS(), tz.m.StrongWolfe()],
    "accumulation": lambda: [tz.m.GradientAccumulation([tz.m.LBFGS(), tz.m.StrongWolfe()], 2)],
    "SPSA for the update": lambda: [tz.m.SPSA(seed=0, target="update"), tz.m.LR(0.01)],
    "wrapped LBFGS": lambda: [tz.m.Wrap(torch.optim.LBFGS, lr=0.5, max_iter=4)],
    "Adam": lambda: [tz.m.Adam(), tz.m.LR(0.1)],
}
#: A small problem, and one with a convolution of more than 262,144 elements.
SHAPES = {"small": [(2, 2), (3,), ()], "large": [(64, 64, 9, 8), (70, 50), (5,)]}


def _run(modules, style, shapes, *, compile=False, deterministic=False, steps=3, order="contiguous"):
    params = []
    for k, shape in enumerate(shapes):
        value = torch.linspace(-1, 1.5, max(1, torch.Size(shape).numel()), dtype=torch.float64).view(shape) + 0.1 * k
        if len(shape) == 4 and order == "channels last":
            value = value.to(memory_format=torch.channels_last)
        params.append(nn.Parameter(value))
    optimizer = tz.Modular(params, *modules, compile=compile, deterministic=deterministic)
    buffers = [torch.zeros_like(p) for p in params]
    flat = torch.zeros(sum(p.numel() for p in params), dtype=torch.float64)
    if style in ("flat", "flat, scaled"):
        for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad = part.as_strided(p.shape, p.stride(), part.storage_offset())

    def evaluate():
        loss = sum(a * p.square().mean() + 0.1 * p.pow(4).mean() for a, p in zip((1, 10, 100), params, strict=True))
        return loss + 0.1 * params[0].mean() * params[1].mean()

    def closure(backward=True):
        loss = evaluate()
        if not backward:
            return loss
        if style == "buffers":
            for p, g, b in zip(params, torch.autograd.grad(loss, params), buffers, strict=True):
                p.grad = b.copy_(g)
        elif style == "flat":
            flat.zero_()
            loss.backward()
        elif style == "flat, scaled":  # as an all-reduce of one buffer works
            flat.zero_()
            (2 * loss).backward()
            flat.div_(2)
        else:
            optimizer.zero_grad(set_to_none=style == "fresh")
            loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("style", ["in place", "buffers", "flat", "flat, scaled"])
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_gradients_in_reused_memory(name, style, compile):
    right = _run(CHAINS[name](), "fresh", SHAPES["small"], compile=compile)
    found = _run(CHAINS[name](), style, SHAPES["small"], compile=compile)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("style", ["in place", "buffers", "flat", "flat, scaled"])
@pytest.mark.parametrize("name", ["LBFGS, search", "NewtonCG, search", "closure target", "Adam"])
def test_a_deterministic_closure(name, style):
    right = _run(CHAINS[name](), "fresh", SHAPES["small"], deterministic=True)
    found = _run(CHAINS[name](), style, SHAPES["small"], deterministic=True)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


#: Each style of gradients in either order, and compiled or not.
LAYOUTS = list(
    itertools.product(["in place", "buffers", "flat, scaled"], ["contiguous", "channels last"], [False, True])
)


@pytest.mark.parametrize(
    ("name", "style", "order", "compile"),
    [
        pytest.param(name, *LAYOUTS[k], marks=() if k % 5 == i else pytest.mark.slow)
        for i, name in enumerate(["rules, NewtonCG", "LBFGS, search", "Split", "closure target", "gradient target"])
        for k in range(len(LAYOUTS))
    ],
)
@pytest.mark.filterwarnings("ignore:compile=True has no effect")
def test_large_tensors_in_any_order(name, style, order, compile):
    right = _run(CHAINS[name](), "fresh", SHAPES["large"], steps=2)
    found = _run(CHAINS[name](), style, SHAPES["large"], steps=2, order=order, compile=compile)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CHAINS)
def test_gradients_that_share_memory_with_the_parameters(name):
    """The gradient of p²/2 is p: what lies there must not be written."""

    def run(style):
        params = [nn.Parameter(torch.tensor([[2.0, -1.0], [0.5, 3.0]])), nn.Parameter(torch.tensor([1.5]))]
        optimizer = tz.Modular(params, *CHAINS[name]())

        def closure(backward=True):
            loss = sum(p.square().sum() / 2 for p in params)
            if backward:
                for p in params:
                    p.grad = p.detach() if style == "shared" else p.detach().clone()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return params

    for a, b in zip(run("shared"), run("own"), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_that_the_closure_wrote_is_there_after_the_step():
    p = nn.Parameter(torch.tensor([3.0, 0.1]))
    buffer = torch.zeros(2)
    optimizer = tz.Modular([p], tz.m.ClipValue(0.5, target="closure"), tz.m.LR(1.0))

    def closure(backward=True):
        if backward:
            p.grad = buffer.copy_(p.detach())
        return p.square().sum() / 2

    for expected in ([2.5, 0.0], [2.0, 0.0]):
        optimizer.step(closure)
        assert p.grad is buffer
        assert p.tolist() == expected


@pytest.mark.parametrize("chain", [lambda: [tz.m.Adam(), tz.m.LR(0.1)], lambda: [tz.m.PolyakStepSize()]])
def test_one_evaluation_copies_nothing(chain):
    p = nn.Parameter(torch.ones(3))
    seen = []

    class Look(tz.Module):
        def step(self, var):
            seen.append(var.get_grad()[0].data_ptr() == p.grad.data_ptr())
            return var

    optimizer = tz.Modular([p], Look(), *chain())

    def closure(backward=True):
        loss = p.square().sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer.step(closure)
    assert seen == [True]
