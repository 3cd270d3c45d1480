"""Entries: conjugate gradients."""

from __future__ import annotations

from tests.registry.entry import SEARCH, Entry, then_lr, wolfe

#: Behind a search settings may differ: only the dot products are shared.
SHARED = {**SEARCH, "refused": frozenset()}
ALTERNATIVES = dict(reset_interval=3)
METHODS = (
    "ConjugateDescent",
    "DaiYuan",
    "FletcherReeves",
    "HagerZhang",
    "HestenesStiefel",
    "HybridHS_DY",
    "LiuStorey",
)

ENTRIES: list[Entry] = [
    *(Entry(name, then_lr(0.1), together=True, ulps=1e4, alternatives=ALTERNATIVES) for name in METHODS),
    *(
        Entry(name, wolfe, variant="search", rosenbrock=(100, 1e-6), alternatives=ALTERNATIVES, **SHARED)
        for name in METHODS
    ),
    Entry("PolakRibiere", then_lr(0.1), together=True, ulps=1e4),
    Entry("PolakRibiere", wolfe, variant="search", rosenbrock=(100, 1e-6), **SHARED),
]
