"""Entries: quasi-Newton."""

from __future__ import annotations

from tests.registry.entry import MATRIX, QUASI_NEWTON, SEARCH, Entry, backtracking, then_lr, wolfe

ENTRIES: list[Entry] = [
    Entry("BFGS", then_lr(0.5), **MATRIX),
    Entry("BFGS", backtracking, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
    Entry("LBFGS", then_lr(0.5), **MATRIX),
    Entry("LBFGS", wolfe, variant="search", rosenbrock=(60, 1e-8), alternatives=QUASI_NEWTON, **SEARCH),
]
