"""Entries: ops."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import ALL, Entry, is_matrix, then_lr

ENTRIES: list[Entry] = [
    Entry("Add", then_lr(0.3), dict(other=1e-3), elementwise=True),
    Entry("Add", then_lr(0.3), lambda: dict(other=tz.m.EMA(0.5), alpha=0.5), variant="module", elementwise=True),
    Entry("Sub", then_lr(0.3), dict(other=1e-3), elementwise=True),
    Entry("Sub", then_lr(0.3), lambda: dict(other=tz.m.EMA(0.5), alpha=0.5), variant="module", elementwise=True),
    Entry("Mul", then_lr(0.3), dict(other=0.5), elementwise=True),
    Entry(
        "Mul",
        lambda m: [tz.m.Clone(), m, tz.m.LR(0.02)],
        lambda: dict(other=tz.m.Sign()),
        variant="module",
        elementwise=True,
        ratio=None,
    ),
    Entry("Div", then_lr(0.3), dict(other=2.0), elementwise=True),
    Entry("Pow", lambda m: [tz.m.ClipValue(2), m, tz.m.LR(0.02)], dict(exponent=3), elementwise=True),
    Entry("Sqrt", lambda m: [tz.m.Pow(2), m, tz.m.LR(0.1)], elementwise=True, ratio=None),
    Entry("Sign", then_lr(0.05), elementwise=True, float32=None),
    Entry("Clone", then_lr(0.3), elementwise=True),
    Entry("Identity", then_lr(0.3), elementwise=True),
    Entry("Grad", lambda m: [tz.m.Adam(), m, tz.m.LR(0.3)], elementwise=True),
    Entry("AccumulateMaximum", then_lr(0.01), elementwise=True, ratio=None),
    Entry(
        "DivModules",
        then_lr(0.1),
        make=lambda **kw: tz.m.DivModules(
            tz.m.EMA(0.9, debiased=True), [tz.m.SqrtEMASquared(0.999, debiased=True), tz.m.Add(1e-8)], **kw
        ),
        elementwise=True,
    ),
    Entry("GraftModules", then_lr(0.3), make=lambda **kw: tz.m.GraftModules(tz.m.Adam(), tz.m.Identity(), **kw)),
    Entry(
        "Sum",
        then_lr(0.1),
        make=lambda **kw: tz.m.Sum(tz.m.EMA(0.5), tz.m.Identity(), kw.get("2", 1e-3)),
        elementwise=True,
    ),
    Entry(
        "Split",
        then_lr(0.1),
        make=lambda **kw: tz.m.Split(is_matrix, tz.m.Adam(), tz.m.HeavyBall(0.5), **kw),
        compiles=False,
    ),
    Entry(
        "GradientAccumulation",
        lambda m: [m],
        lambda: dict(modules=[tz.m.Adam(), tz.m.LR(0.2)], n=2),
        refused=ALL,
        compiles=False,
    ),
]
