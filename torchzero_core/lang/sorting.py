"""Values in order, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def median(values: Sequence[Any]) -> Any:
    """The median of values, element by element; of an even number of them, the mean of the two in the middle.

    Args:
        values: values and numbers, at least one.
    """
    return middle(_sorted(values))


def middle(ordered: Sequence[Any]) -> Any:
    """The median of ordered values or tensors.

    Args:
        ordered: from the least to the largest.
    """
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def _sorted(values: Sequence[Any]) -> list[Any]:
    """Order values element by element, by Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M)."""
    ordered, n = list(values), len(values)
    top = 1 << (n - 1).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if i & p == r:
                    a, b = ordered[i], ordered[i + d]
                    ordered[i], ordered[i + d] = a.minimum(b), a.maximum(b)
            if q == p:
                break
            q, r, d = q >> 1, p, q - p
        p >>= 1
    return ordered
