"""Entries: momentum."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import Entry, then_lr

ENTRIES: list[Entry] = [
    Entry("HeavyBall", then_lr(0.05), elementwise=True, rosenbrock=None),
    Entry("HeavyBall", then_lr(0.05), dict(lerp=True, dampening=0.1), variant="lerp", elementwise=True),
    Entry("NAG", then_lr(0.05), elementwise=True),
    Entry("NAG", then_lr(0.05), dict(lerp=True), variant="lerp", elementwise=True),
    Entry("EMA", then_lr(0.3), elementwise=True),
    Entry("EMA", then_lr(0.3), dict(debiased=True), variant="debiased", elementwise=True),
    Entry("EMA", then_lr(0.3), dict(ema_init="update"), variant="update", elementwise=True),
    Entry(
        "EMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Sqrt(), tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9),
        elementwise=True,
    ),
    Entry(
        "SqrtEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9, debiased=True),
        elementwise=True,
    ),
    Entry(
        "SqrtEMASquared",
        lambda m: [tz.m.DivModules(tz.m.Identity(), [m, tz.m.Add(1e-3)]), tz.m.LR(0.05)],
        dict(beta=0.9, amsgrad=True),
        variant="amsgrad",
        elementwise=True,
    ),
    Entry(
        "Debias",
        lambda m: [tz.m.EMA(0.9), m, tz.m.LR(0.1)],
        dict(beta1=0.9),
        elementwise=True,
        alternatives=dict(beta2=0.9),
    ),
    Entry("Debias2", lambda m: [tz.m.EMASquared(0.9), m, tz.m.Sqrt(), tz.m.LR(0.1)], ratio=None, elementwise=True),
    Entry("Cautious", lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)], elementwise=True),
    Entry("Cautious", lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)], dict(normalize=True), variant="normalize"),
    Entry(
        "Cautious",
        lambda m: [tz.m.HeavyBall(0.5), m, tz.m.LR(0.1)],
        dict(mode="grad"),
        variant="grad",
        elementwise=True,
    ),
    Entry("Averaging", then_lr(0.1), dict(history_size=4), elementwise=True),
    Entry("MedianAveraging", then_lr(0.1), dict(history_size=3), elementwise=True),
    Entry("MedianAveraging", then_lr(0.1), dict(history_size=4), variant="even", elementwise=True),
    Entry("MedianAveraging", then_lr(0.03), dict(history_size=17), variant="long", elementwise=True),
    Entry(
        "CoordinateMomentum",
        then_lr(0.1),
        dict(p=0.5, seed=0),
        together=True,
        repeatable=False,
        float32=None,  # other numbers are drawn for another dtype
        refused=frozenset({"seed"}),
    ),
]
