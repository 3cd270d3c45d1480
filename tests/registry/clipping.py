"""Entries: clipping and normalisation."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import GROWTH, WHOLE_NORM, Entry, then_lr

ENTRIES: list[Entry] = [
    Entry("ClipValue", then_lr(0.3), dict(value=0.3), elementwise=True),
    Entry("ClipNorm", then_lr(0.3), dict(max_norm=0.5)),
    Entry(
        "ClipNorm",
        then_lr(0.3),
        dict(max_norm=0.5, dim="global"),
        variant="global",
        together=True,
        refused=frozenset({"ord"}),
        alternatives=dict(dim=0),
    ),
    Entry("ClipNorm", then_lr(0.3), dict(max_norm=0.3, dim=0), variant="dim"),
    Entry("Normalize", then_lr(0.1), rosenbrock=(300, 10)),
    Entry(
        "Normalize",
        then_lr(0.1),
        dict(dim="global"),
        variant="global",
        together=True,
        refused=frozenset({"ord"}),
        alternatives=dict(dim=0),
    ),
    Entry("Normalize", then_lr(0.1), dict(dim=0, inverse_dims=True), variant="dim"),
    Entry("Centralize", then_lr(0.1), ratio=0.99, alternatives=dict(dim=0)),
    Entry("Centralize", then_lr(0.1), dict(dim=0), variant="dim", ratio=0.99),
    Entry("ClipNormByEMA", then_lr(0.1), dict(beta=0.9)),
    Entry(
        "ClipNormByEMA", then_lr(0.1), dict(beta=0.9, tensorwise=False), variant="global", together=True, **WHOLE_NORM
    ),
    Entry("NormalizeByEMA", then_lr(0.1), dict(beta=0.9)),
    Entry(
        "NormalizeByEMA", then_lr(0.1), dict(beta=0.9, tensorwise=False), variant="global", together=True, **WHOLE_NORM
    ),
    Entry("ClipValueGrowth", then_lr(0.3), elementwise=True, alternatives=GROWTH),
    Entry(
        "ClipValueGrowth", then_lr(0.3), dict(add=0.1, mul=None), variant="add", elementwise=True, alternatives=GROWTH
    ),
    Entry("ClipNormGrowth", then_lr(0.3), alternatives=GROWTH),
    Entry(
        "ClipNormGrowth",
        then_lr(0.3),
        dict(add=0.1, max_decay=1.1, parameterwise=False),
        variant="global",
        together=True,
        refused=frozenset({"add", "mul", "min_value", "max_decay", "ord"}),
    ),
    Entry(
        "Centralize",
        then_lr(0.1),
        dict(dim="global"),
        variant="global",
        ratio=0.99,
        together=True,
        refused=frozenset({"ord"}),
        alternatives=dict(dim=0),
    ),
    Entry("ClipValueByEMA", then_lr(0.3), dict(beta=0.9), elementwise=True),
    Entry(
        "ClipValueByEMA",
        then_lr(0.3),
        lambda: dict(beta=0.9, ema_init="update", ema_tfm=tz.m.Mul(0.5)),
        variant="tfm",
        elementwise=True,
    ),
]
