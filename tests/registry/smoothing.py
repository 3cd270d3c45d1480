"""Entries: smoothing."""

from __future__ import annotations

from tests.registry.entry import ALL, Entry, then_lr

ENTRIES: list[Entry] = [
    Entry(
        "GaussianHomotopy",
        then_lr(0.1),
        dict(n_samples=3, init_sigma=0.1),
        closure=True,
        together=True,
        compiles=False,
        syncs=True,
        repeatable=False,
        float32=None,
        alternatives=dict(max_steps=3, seed=1),
        refused=frozenset({"n_samples", "max_steps", "clear_state", "seed"}),
    ),
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
