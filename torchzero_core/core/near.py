"""Names that are nearly those that were asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def plain(name: str) -> str:
    """A name without what people forget: capitals, underscores, hyphens and spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def same(name: str, known: Iterable[str]) -> str | None:
    """The name that differs only by capitals, underscores and the like; None where there is none.

    Args:
        name: what was asked for.
        known: the names that there are.

    Example:
        >>> same("clip_norm", ["ClipValue", "ClipNorm"])
        'ClipNorm'
    """
    return next((n for n in known if plain(n) == plain(name)), None)


def near(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names that are most like one, the nearest first. Of names that differ only by capitals it is the likest.

    Args:
        name: what was asked for.
        known: the names that there are.
        most: how many at most.
        cutoff: how alike they must be, 1 for equal ones.

    Example:
        >>> near("adm", ["Adam", "Adamax", "Lion"], 1)
        ['Adam']
        >>> near("lbgfs", ["LBFGS", "lbfgs"]), near("LBGFS", ["LBFGS", "lbfgs"])
        (['lbfgs'], ['LBFGS'])
    """
    spelled: dict[str, list[str]] = {}
    for n in known:
        spelled.setdefault(plain(n), []).append(n)
    likeness = difflib.SequenceMatcher(b=name)

    def alike(n: str) -> float:
        likeness.set_seq1(n)
        return likeness.ratio()

    return [max(spelled[n], key=alike) for n in difflib.get_close_matches(plain(name), spelled, most, cutoff)]


def did_you_mean(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6, prefix: str = "") -> str:
    """The end of a sentence about a name that there is not: what it may have been, or nothing.

    Args:
        name: what was asked for.
        known: the names that there are.
        most: how many are named at most.
        cutoff: how alike they must be.
        prefix: what stands before each.

    Example:
        >>> did_you_mean("adm", ["Adam", "Lion"], prefix="tz.m.")
        ' Did you mean tz.m.Adam?'
    """
    found = near(name, known, most, cutoff)
    return f" Did you mean {' or '.join(f'{prefix}{n}' for n in found)}?" if found else ""
