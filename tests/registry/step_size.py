"""Entries: learning rate, weight decay, wrappers."""

from __future__ import annotations

import torch

import torchzero_core as tz
from tests.registry.entry import Entry, then_lr

#: It moves the parameters themselves, and its lr is no parameter of the constructor.
DIRECT = dict(elementwise=True, skipped=frozenset({"lr"}))

ENTRIES: list[Entry] = [
    Entry("LR", lambda m: [m], dict(lr=0.3), elementwise=True, rosenbrock=None),
    Entry("StepSize", lambda m: [m], dict(step_size=0.3), elementwise=True, skipped=frozenset({"key"})),
    Entry(
        "PolyakStepSize",
        lambda m: [m],
        closure=True,
        together=True,
        refused=frozenset({"use_grad"}),
        alternatives=dict(max=0.1),
    ),
    Entry(
        "PolyakStepSize",
        lambda m: [tz.m.EMA(0.5), m, tz.m.LR(0.5)],
        dict(parameterwise=True, use_grad=False, max=0.5),
        variant="parameterwise",
        closure=True,
        together=True,  # the loss is that of all
    ),
    Entry("Warmup", then_lr(0.3), dict(steps=10), elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2), elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2, ord=1), variant="l1", elementwise=True),
    Entry("WeightDecay", then_lr(0.3), dict(weight_decay=1e-2, ord=3), variant="l3", elementwise=True),
    Entry(
        "Wrap",
        lambda m: [m],
        make=lambda **kw: tz.m.Wrap(torch.optim.Adam, **{"lr": 0.1, **kw}),
        elementwise=True,
        compiles=False,
        syncs=True,  # torch's Adam reads its step count
        alternatives=dict(betas=(0.8, 0.9)),
        skipped=frozenset({"foreach", "fused", "capturable", "differentiable"}),  # ways to run it, not what it does
    ),
    Entry(
        "RandomStepSize",
        then_lr(0.5),
        together=True,
        repeatable=False,
        float32=None,  # other numbers are drawn for another dtype
        refused=frozenset({"low", "high", "seed"}),
        alternatives=dict(low=0.5, seed=1),
    ),
    Entry(
        "RandomStepSize",
        then_lr(0.5),
        dict(parameterwise=True, seed=0),
        variant="parameterwise",
        together=True,
        repeatable=False,
        refused=frozenset({"seed"}),
        alternatives=dict(low=0.5, seed=1),
    ),
    Entry("DirectWeightDecay", then_lr(0.3), dict(weight_decay=1e-2), **DIRECT),
    Entry("DirectWeightDecay", lambda m: [m, tz.m.Mul(0.3)], dict(weight_decay=1e-2, ord=3), variant="l3", **DIRECT),
]
