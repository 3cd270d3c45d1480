"""Finite-difference formulas of a first derivative."""

from __future__ import annotations

from typing import Literal, TypeAlias

Formula: TypeAlias = Literal["forward2", "forward3", "backward2", "backward3", "central2", "central4"]

#: f'(x)·h ≈ Σ weight·f(x + offset·h), as (offset, weight).
FORMULAS: dict[str, tuple[tuple[int, float], ...]] = {
    "forward2": ((0, -1.0), (1, 1.0)),
    "backward2": ((0, 1.0), (-1, -1.0)),
    "forward3": ((0, -3 / 2), (1, 2.0), (2, -1 / 2)),
    "backward3": ((0, 3 / 2), (-1, -2.0), (-2, 1 / 2)),
    "central2": ((1, 1 / 2), (-1, -1 / 2)),
    "central4": ((2, -1 / 12), (1, 2 / 3), (-1, -2 / 3), (-2, 1 / 12)),
}


def formula(name: str) -> tuple[tuple[int, float], ...]:
    """The offsets and weights of a formula.

    Args:
        name: the direction of its points and their number.

    Raises:
        ValueError: an unknown formula.

    Example:
        >>> formula("central2")
        ((1, 0.5), (-1, -0.5))
    """
    if name not in FORMULAS:
        raise ValueError(f"formula={name!r} is not one of {', '.join(map(repr, FORMULAS))}.")
    return FORMULAS[name]
