"""One entry for every public module: how to build it into a chain, what it needs, what it refuses.

`tests/test_conformance.py` sends each entry through the whole suite, and fails for a public module without an entry.
A new module gets a line in the file of its family; what a line does not say is the strict default.
"""

from __future__ import annotations

import torchzero_core as tz
from tests.registry import (
    clipping,
    conjugate_gradient,
    grad_approximation,
    line_search,
    momentum,
    ops,
    ops_rest,
    optimizers,
    projections,
    quasi_newton,
    second_order,
    smoothing,
    step_size,
    trust_region,
)
from tests.registry.entry import ALL, Entry
from torchzero_core.core import Module

__all__ = ["ALIASES", "ALL", "BASES", "ENTRIES", "Entry", "public_modules"]

#: Public classes that are bases of modules and cannot stand in a chain themselves.
BASES = {
    "BinaryOperation",
    "ConguateGradientBase",
    "ConjugateGradientBase",
    "GradApproximator",
    "HUpdateStrategy",
    "HessianUpdateStrategy",
    "LineSearch",
    "MultiOperation",
    "Projection",
    "QuasiNewtonB",
    "QuasiNewtonH",
    "ReduceOperation",
    "TrustMethod",
}
#: Spellings of the reference for modules that have an entry under their own name.
ALIASES = {
    "Clone": ["Update"],
    "GramSchmidt": ["GramSchimdt"],
    "Hoshino": ["Horisho"],
    "Identity": ["NoOp"],
    "MedianAveraging": ["Medianveraging"],
    "RCopySign": ["CopyMagnitude"],
    "RGraft": ["GraftToUpdate"],
}
ENTRIES: list[Entry] = [
    entry
    for family in (
        clipping,
        momentum,
        optimizers,
        step_size,
        smoothing,
        line_search,
        quasi_newton,
        conjugate_gradient,
        grad_approximation,
        second_order,
        projections,
        ops,
        ops_rest,
        trust_region,
    )
    for entry in family.ENTRIES
]


def public_modules() -> dict[str, type[Module]]:
    """Every module that ``tz.m`` offers, by name."""
    return {
        name: value
        for name, value in vars(tz.m).items()
        if isinstance(value, type) and issubclass(value, Module) and not name.startswith("_")
    }
