"""Closures may write the next gradients, and the next loss, into the memory of the last ones."""

from __future__ import annotations

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


def _run(modules, style, shapes, *, compile=False, steps=3, order="contiguous"):
    params = []
    for k, shape in enumerate(shapes):
        value = torch.linspace(-1, 1.5, max(1, torch.Size(shape).numel()), dtype=torch.float64).view(shape) + 0.1 * k
        if len(shape) == 4 and order == "channels last":
            value = value.to(memory_format=torch.channels_last)
        params.append(nn.Parameter(value))
    optimizer = tz.Modular(params, *modules, compile=compile)
    buffers = [torch.zeros_like(p) for p in params]
    static = torch.zeros((), dtype=torch.float64)
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
        return static.copy_(loss.detach()) if style == "buffers" and False else loss

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
