"""Bounds of unknowns, as scipy and others write them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .unknowns import Unknowns

HOW = (
    "Write bounds=(lo, hi) for all of x, with numbers, None or tensors like x; one such pair for each part of x, as "
    "{name: (lo, hi)} or a list; or as scipy does, a pair for each element or a scipy.optimize.Bounds."
)


class Bounds:
    """A box lo ≤ x ≤ hi around unknowns.

    Args:
        unknowns: what is bounded.
        given: ``(lo, hi)`` with numbers, None or tensors; a list or dict of such pairs in the structure of x; a list of
            pairs, one for each element of a tensor; or an object with ``lb`` and ``ub``.

    Raises:
        ValueError: bounds that do not fit x, are no numbers, or leave nothing.

    Example:
        >>> import torch
        >>> x = Unknowns({"rate": torch.zeros(2), "shift": torch.zeros(())})
        >>> Bounds(x, {"rate": (0, None)}).lower
        [tensor([0., 0.]), tensor(-inf)]
    """

    def __init__(self, unknowns: Unknowns, given: Any) -> None:
        self.lower = [torch.full_like(x, -math.inf, requires_grad=False) for x in unknowns]
        self.upper = [torch.full_like(x, math.inf, requires_grad=False) for x in unknowns]
        self._read(unknowns.form, given)
        for low, high in zip(self.lower, self.upper, strict=True):
            if bool((low.isnan() | high.isnan()).any()):
                raise ValueError("bounds has a bound that is NaN; None is no bound.")
            if bool((low > high).any()):
                raise ValueError("bounds has a lower bound above the upper one.")
            if bool((low == math.inf).any() or (high == -math.inf).any()):
                raise ValueError("bounds leaves no finite number between a lower bound of inf or an upper one of -inf.")

    def clamp(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The nearest point within the bounds.

        Args:
            tensors: one for each leaf.
        """
        return [
            torch.minimum(torch.maximum(x.detach(), low), high)
            for x, low, high in zip(tensors, self.lower, self.upper, strict=True)
        ]

    def gradient(self, x: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor]:
        """The projected gradient x − P(x − g), which is zero where no way that is open goes down.

        Args:
            x: where.
            grads: g.
        """
        moved = [p.detach() if g is None else p.detach() - g for p, g in zip(x, grads, strict=True)]
        return [p.detach() - q for p, q in zip(x, self.clamp(moved), strict=True)]

    def _read(self, form: Any, given: Any) -> None:
        """Note the bounds of a part of x."""
        if given is None:
            return
        if hasattr(given, "lb") and hasattr(given, "ub"):
            given = (given.lb, given.ub)
        if isinstance(given, (np.ndarray, Tensor)) and given.ndim == 2:
            given = given.tolist()
        if isinstance(form, int) and self._by_element(form, given):
            return
        parts = form if isinstance(form, (dict, list, tuple)) else None
        if isinstance(parts, dict) and isinstance(given, Mapping):
            if unknown := [name for name in given if name not in parts]:
                raise ValueError(
                    f"bounds names {unknown[0]!r}, which x does not have; it has {', '.join(map(repr, parts))}."
                )
            for name, one in given.items():
                self._read(parts[name], one)
        elif not isinstance(given, (list, tuple)):
            raise ValueError(f"bounds={given!r} cannot be read. {HOW}")
        elif isinstance(parts, (list, tuple)) and not all(map(_plain, given)):
            if len(given) != len(parts):
                raise ValueError(f"bounds has {len(given)} parts, and x has {len(parts)}. {HOW}")
            for part, one in zip(parts, given, strict=True):
                self._read(part, one)
        elif len(given) != 2:
            raise ValueError(f"bounds={given!r} is no pair. {HOW}")
        else:
            for leaf in _leaves(form):
                self._note(leaf, *given)

    def _by_element(self, leaf: int, given: Any) -> bool:
        """Note pairs of scipy's, one for each element, if they are such."""
        pairs = isinstance(given, (list, tuple)) and all(isinstance(pair, (list, tuple)) for pair in given)
        if not pairs or any(len(pair) != 2 or not all(map(_plain, pair)) for pair in given):
            return False
        shape = self.lower[leaf].shape
        if len(given) != shape.numel():
            raise ValueError(f"bounds has {len(given)} pairs, and x has {shape.numel()} elements. {HOW}")
        low = [-math.inf if a is None else float(a) for a, _ in given]
        high = [math.inf if b is None else float(b) for _, b in given]
        self._note(leaf, *(torch.tensor(b, dtype=torch.float64).view(shape) for b in (low, high)))
        return True

    def _note(self, leaf: int, low: Any, high: Any) -> None:
        for tensors, value in ((self.lower, low), (self.upper, high)):
            if value is None:
                continue
            try:
                bound = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
                tensors[leaf].copy_(bound.to(tensors[leaf]).expand_as(tensors[leaf]))
            except (TypeError, ValueError, RuntimeError) as error:
                shape = tuple(tensors[leaf].shape)
                raise ValueError(
                    f"bounds has {value!r}, which is no bound of a tensor of shape {shape}. {HOW}"
                ) from error


def _plain(value: Any) -> bool:
    """Whether a value is one number, of whatever kind, or None for no bound."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim == 0
    return value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def _leaves(form: Any) -> list[int]:
    """The positions of the leaves in a structure."""
    if isinstance(form, int):
        return [form]
    parts = form.values() if isinstance(form, dict) else form
    return [leaf for part in parts for leaf in _leaves(part)]


__all__ = ["Bounds"]
