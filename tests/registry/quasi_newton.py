"""Entries: quasi-Newton."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import MATRIX, QUASI_NEWTON, SEARCH, Entry, backtracking, then_lr, wolfe

#: Methods that go on as they are on a quadratic, and how they minimise with a search.
ALONE = (
    "BroydenBad",
    "BroydenGood",
    "ColumnUpdatingMethod",
    "DFP",
    "FletcherVMM",
    "Greenstadt1",
    "Greenstadt2",
    "Hoshino",
    "McCormick",
    "PSB",
    "Pearson",
    "SSVM",
    "ThomasOptimalMethod",
)

ENTRIES: list[Entry] = [
    *(Entry(name, then_lr(0.5), **MATRIX) for name in ALONE),
    *(
        Entry(name, wolfe, variant="search", rosenbrock=(100, 1e-8), alternatives=QUASI_NEWTON, **SEARCH)
        for name in ("FletcherVMM", "Hoshino", "PSB", "SSVM")
    ),
    Entry("SR1", then_lr(0.5), **MATRIX),
    Entry("SR1", wolfe, variant="search", rosenbrock=(100, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("SSVM", then_lr(0.5), dict(switch=(1.0, 0.5)), variant="pair", **MATRIX),
    Entry("ProjectedNewtonRaphson", wolfe, rosenbrock=(200, 1e-6), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("ProjectedGradientMethod", wolfe, rosenbrock=(200, 1e-6), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("GradientCorrection", lambda m: [m, tz.m.LR(0.1)], together=True, ulps=1e4),
    Entry("BFGS", then_lr(0.5), **MATRIX),
    Entry("BFGS", backtracking, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("BFGS", wolfe, variant="strong wolfe", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("LBFGS", then_lr(0.5), **MATRIX),
    Entry("LSR1", then_lr(0.5), **MATRIX),
    Entry("LSR1", wolfe, variant="search", rosenbrock=(100, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    *(
        Entry("OnlineLBFGS", then_lr(0.5), dict(sample_grads=when), variant=when, **{**MATRIX, "closure": True})
        for when in ("before", "after")
    ),
    Entry("OnlineLBFGS", wolfe, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("LBFGS", wolfe, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
]
