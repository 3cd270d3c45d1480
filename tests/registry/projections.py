"""Entries: projections."""

from __future__ import annotations

import torchzero_core as tz
from tests.registry.entry import SEARCH, Entry, then_lr

ENTRIES: list[Entry] = [
    Entry("VectorProjection", then_lr(0.1), lambda: dict(modules=tz.m.Adam()), together=True, compiles=False),
    Entry(
        "VectorProjection",
        lambda m: [m],
        lambda: dict(modules=[tz.m.LBFGS(), tz.m.Backtracking()], project_params=True),
        variant="params",
        **SEARCH,
    ),
]
