"""Entries: gradient approximation."""

from __future__ import annotations

from tests.registry.entry import APPROXIMATION, Entry, then_lr

ENTRIES: list[Entry] = [
    Entry("MeZO", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("SPSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RDSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RandomizedFDM", then_lr(0.05), dict(n_samples=4, beta=0.1), ratio=0.7, **APPROXIMATION),
    Entry("GaussianSmoothing", then_lr(0.05), dict(n_samples=8), ratio=0.7, **APPROXIMATION),
]
