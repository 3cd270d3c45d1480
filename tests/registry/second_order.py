"""Entries: second order."""

from __future__ import annotations

from tests.registry.entry import QUASI_NEWTON, SEARCH, Entry, backtracking

ENTRIES: list[Entry] = [
    Entry("NewtonCG", lambda m: [m], alternatives=QUASI_NEWTON, coarse=dict(h=0.5), **SEARCH),
    Entry(
        "NewtonCG",
        backtracking,
        variant="search",
        rosenbrock=(60, 1e-8),
        alternatives=QUASI_NEWTON,
        coarse=dict(h=0.5),
        **SEARCH,
    ),
]
