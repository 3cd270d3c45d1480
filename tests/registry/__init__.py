"""One entry for every public module: how to build it into a chain, what it needs, what it refuses.

`tests/test_conformance.py` sends each entry through the whole suite, and fails for a public module without an entry.
A new module gets a line in the file of its family; what a line does not say is the strict default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

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

__all__ = ["ALIASES", "ALL", "BASES", "ENTRIES", "FIRST", "Entry", "in_turn", "public_modules", "variants_slow"]

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


#: The first entry of each module.
FIRST: list[Entry] = list({entry.name: entry for entry in reversed(ENTRIES)}.values())[::-1]


def variants_slow(entries: Iterable[Entry]) -> list[Any]:
    """Entries as parameters of a test: the fast tests have the first of each module, the slow ones its variants too.

    Args:
        entries: those that the test is for.
    """
    found, seen = [], set[str]()
    for entry in entries:
        found.append(pytest.param(entry, id=entry.id, marks=pytest.mark.slow if entry.name in seen else ()))
        seen.add(entry.name)
    return found


def in_turn(cases: Sequence[Any], choices: Sequence[Any]) -> list[Any]:
    """Every case with every choice, as parameters of a test, of which the fast tests have each case with one of them.

    Args:
        cases: entries, or names; variants of a module are slow altogether.
        choices: what they are combined with, in turn, so that each choice has its share of the cases.
    """
    found, seen = [], set[str]()
    for case in cases:
        name, of = (case.id, case.name) if isinstance(case, Entry) else (case, case)
        for k, choice in enumerate(choices):
            fast = of not in seen and len(seen) % len(choices) == k
            found.append(pytest.param(case, choice, id=f"{name}-{choice}", marks=() if fast else pytest.mark.slow))
        seen.add(of)
    return found


def public_modules() -> dict[str, type[Module]]:
    """Every module that ``tz.m`` offers, by name."""
    return {
        name: value
        for name, value in vars(tz.m).items()
        if isinstance(value, type) and issubclass(value, Module) and not name.startswith("_")
    }
