"""Entries: conjugate gradients."""

from __future__ import annotations

from tests.registry.entry import SEARCH, Entry, then_lr, wolfe

#: Behind a search settings may differ: only the dot products are shared.
SHARED = {**SEARCH, "refused": frozenset()}
ALTERNATIVES = dict(reset_interval=3)
#: What each reaches; those whose β is never small after a bad step are slow without a reset.
METHODS = {
    "ConjugateDescent": 1e-2,
    "DaiYuan": 1e-4,
    "FletcherReeves": 1e-6,
    "HagerZhang": 1e-6,
    "HestenesStiefel": 1e-6,
    "HybridHS_DY": 1e-6,
    "LiuStorey": 1e-6,
}
#: Steps where they are more than 100: Dai and Yuan's is there after 102 of them, 171 evaluations.
STEPS = {"DaiYuan": 110}

ENTRIES: list[Entry] = [
    *(Entry(name, then_lr(0.1), together=True, ulps=1e4, alternatives=ALTERNATIVES) for name in METHODS),
    *(
        Entry(
            name,
            wolfe,
            variant="search",
            rosenbrock=(STEPS.get(name, 100), goal),
            alternatives=ALTERNATIVES,
            **SHARED,
        )
        for name, goal in METHODS.items()
    ),
    Entry("PolakRibiere", then_lr(0.1), together=True, ulps=1e4),
    Entry("PolakRibiere", wolfe, variant="search", rosenbrock=(100, 1e-6), **SHARED),
]
