"""Gradients that take the place of those the user's closure has written.

A closure may always write into the same tensors, or into one buffer behind all of them, so it has to find its own in
``p.grad`` when it is called again. The tensor that takes a place knows whose place that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


def replace_grads(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    """Put other gradients into ``p.grad``.

    Args:
        params: the parameters.
        grads: their new gradients, tensors that nobody else has.
    """
    for p, g in zip(params, grads, strict=True):
        if g is not None:
            g.in_place_of = getattr(p.grad, "in_place_of", p.grad)  # type: ignore[attr-defined]
        p.grad = g


def return_grads(params: Iterable[Tensor]) -> None:
    """Put the user's own gradients back.

    Args:
        params: the parameters.
    """
    for p in params:
        if hasattr(p.grad, "in_place_of"):
            own = p.grad.in_place_of  # type: ignore[union-attr]
            # A parameter that has another dtype, device or shape since then cannot have it back, and gets a new one.
            fits = own is not None and (own.dtype, own.device, own.shape) == (p.dtype, p.device, p.shape)
            p.grad = own if fits else None
