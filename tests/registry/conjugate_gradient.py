"""Entries: conjugate gradients."""

from __future__ import annotations

from tests.registry.entry import SEARCH, Entry, then_lr, wolfe

ENTRIES: list[Entry] = [
    Entry("PolakRibiere", then_lr(0.1), together=True, ulps=1e4),
    Entry(
        "PolakRibiere", wolfe, variant="search", rosenbrock=(100, 1e-6), **{**SEARCH, "refused": frozenset()}
    ),  # its settings may differ: only the dot products are shared
]
