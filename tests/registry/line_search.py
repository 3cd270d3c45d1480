"""Entries: line searches."""

from __future__ import annotations

from tests.registry.entry import SEARCH, Entry

ENTRIES: list[Entry] = [
    Entry("Backtracking", lambda m: [m], rosenbrock=(300, 5), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("AdaptiveBacktracking", lambda m: [m], rosenbrock=(300, 6), alternatives=dict(min_alpha=1e-6), **SEARCH),
    Entry("StrongWolfe", lambda m: [m], rosenbrock=(300, 5), **SEARCH),
    Entry("GridLineSearch", lambda m: [m], dict(start=0, end=1, num=5), **SEARCH),
]
