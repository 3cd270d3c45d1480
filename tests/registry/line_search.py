"""Entries: line searches."""

from __future__ import annotations

from tests.registry.entry import SEARCH, Entry

SCIPY = dict(maxiter=7, bracket=[0.0, 0.5], bounds=[0.0, 1.0], tol=1e-3, options=dict(disp=0))
ENTRIES: list[Entry] = [
    Entry("Backtracking", lambda m: [m], rosenbrock=(300, 5), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("AdaptiveBacktracking", lambda m: [m], rosenbrock=(300, 6), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("StrongWolfe", lambda m: [m], rosenbrock=(300, 5), **SEARCH),
    Entry("TrustRegion", lambda m: [m], rosenbrock=(300, 8), **SEARCH),
    Entry(
        "TrustRegion",
        lambda m: [m],
        dict(backtrack=False, adaptive=False, init=0.05, nplus=1.1, nminus=0.3),
        variant="plain",
        **SEARCH,
    ),
    Entry("ScipyMinimizeScalar", lambda m: [m], rosenbrock=(300, 5), alternatives=SCIPY, **SEARCH),
    Entry(
        "ScipyMinimizeScalar",
        lambda m: [m],
        dict(method="bounded", bounds=[0, 2], maxiter=30),
        variant="bounded",
        alternatives=SCIPY,
        **SEARCH,
    ),
    Entry("GridLineSearch", lambda m: [m], dict(start=0, end=1, num=5), **SEARCH),
]
