"""Entries: smoothing."""

from __future__ import annotations

from tests.registry.entry import ALL, Entry, then_lr

ENTRIES: list[Entry] = [
    Entry("LaplacianSmoothing", then_lr(0.3), ulps=1e3, refused=frozenset({"layerwise"})),
    Entry(
        "LaplacianSmoothing",
        then_lr(0.3),
        dict(layerwise=False),
        variant="vector",
        together=True,
        compiles=False,
        ulps=1e3,
        refused=ALL,
    ),
]
