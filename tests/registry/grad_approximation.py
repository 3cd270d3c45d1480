"""Entries: gradient approximation."""

from __future__ import annotations

from tests.registry.entry import APPROXIMATION, Entry, then_lr

FORWARD = {**APPROXIMATION, "refused": frozenset({"n_samples", "jvp_method", "h", "pre_generate", "seed"})}
ENTRIES: list[Entry] = [
    Entry("FDM", then_lr(0.3), **{**APPROXIMATION, "refused": frozenset(), "repeatable": True, "coarse": dict(h=0.5)}),
    Entry("ForwardGradient", then_lr(0.05), dict(n_samples=4), ratio=0.7, **FORWARD),
    Entry(
        "ForwardGradient",
        then_lr(0.05),
        dict(n_samples=4, jvp_method="central"),
        variant="central",
        ratio=0.7,
        **FORWARD,
    ),
    Entry("MeZO", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("SPSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RDSA", then_lr(0.05), dict(n_samples=4), ratio=0.7, **APPROXIMATION),
    Entry("RandomizedFDM", then_lr(0.05), dict(n_samples=4, beta=0.1), ratio=0.7, **APPROXIMATION),
    Entry("GaussianSmoothing", then_lr(0.05), dict(n_samples=8), ratio=0.7, **APPROXIMATION),
]
