"""Shampoo (Gupta et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Positive, StateKind
from ...core.preconditioner import State, averaging_weights
from ...linalg import inverse_root
from .kronecker import Kronecker, layout, multiply, stacked


class Shampoo(Kronecker):
    r"""Each dimension of a tensor is multiplied by an inverse root of the sum of its gradients' outer products.

    .. math:: A_i ← A_i + mat_i(u)\,mat_i(u)', \quad out = u ×_1 A_1^{-1/2k} ×_2 A_2^{-1/2k} … ×_k A_k^{-1/2k}

    for the k dimensions of u, with A = I at first. Dimensions longer than ``max_dim`` and those of size 1 have no
    matrix. Scalars, and vectors with ``precondition_1d=False``, get diagonal Adagrad. Where a decomposition fails the
    last good root stays; after five failures in a row there is an error.

    Args:
        decay: factor of A before each addition.
        beta: factor of an exponential moving average, A ← beta·A + (1−beta)·mat(u)mat(u)'. With neither, A is a sum.
        update_freq: compute the roots every so many steps of a parameter, from its first on.
        exp_override: the roots are A^(−1/exp_override). None: 2k.
        merge_small: merge neighbouring dimensions as long as their product is at most ``max_dim``.
        max_dim: the longest dimension that gets a matrix.
        precondition_1d: whether vectors get one.
        adagrad_eps: added to the denominator of Adagrad.
        inner: a module that gives what the roots are multiplied with; A sees the plain update.
        eps: smallest eigenvalue that is used.
        stagger: spread the roots of the parameters over the ``update_freq`` steps.

    Raises:
        ValueError: both ``beta`` and ``decay``.
        RuntimeError: a matrix could not be decomposed five times in a row.

    Reference: V. Gupta, T. Koren and Y. Singer, "Shampoo: Preconditioned stochastic tensor optimization", ICML 2018,
    arXiv:1802.09568; R. Anil et al., 2020, arXiv:2002.09018.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[0.0, 30.0], [4.0, 0.0]])
        >>> tz.Modular([p], tz.m.Shampoo(merge_small=False)).step()
        >>> p.detach().round(decimals=2) + 0.0
        tensor([[ 0.0000, -1.0000],
                [-0.9700,  0.0000]])
    """

    kept = {
        "accumulators": StateKind.VALUES,
        "preconditioners": StateKind.VALUES,
        "diagonal_accumulator": StateKind.VALUES,
    }

    accumulator, factor = "accumulators", "preconditioners"

    decay: NonNegative | None = None
    beta: Beta | None = None
    update_freq: Count = 10
    exp_override: Positive | None = None
    merge_small: bool = True
    max_dim: Count = 2000
    precondition_1d: bool = True
    adagrad_eps: NonNegative = 1e-8
    inner: Child | None = None
    _: KW_ONLY
    eps: NonNegative = 1e-12
    stagger: bool = False

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        self.weights(settings)

    def weights(self, settings: Mapping[str, Any]) -> tuple[float, float]:
        return averaging_weights("Shampoo", settings)

    def init(self, like: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        state = super().init(like, settings)
        if like.numel() == 1 or (like.ndim == 1 and not settings["precondition_1d"]):
            state["diagonal_accumulator"] = like.new_zeros(like.shape)
        return state

    def accumulate_all(
        self,
        states: Sequence[State],
        matrices: Sequence[list[Tensor]],
        us: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        if "diagonal_accumulator" in states[0]:
            sums, (old, new) = [state["diagonal_accumulator"] for state in states], self.weights(settings)
            torch._foreach_mul_(sums, old)
            torch._foreach_addcmul_(sums, list(us), list(us), value=new)
        else:
            super().accumulate_all(states, matrices, us, settings)

    def arguments(self, shape: Sequence[int], settings: Mapping[str, Any]) -> tuple[float, float]:
        return settings["exp_override"] or 2 * len(layout(shape, settings).shape), settings["eps"]

    def refresh(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, Tensor]:
        p, eps = arguments
        return inverse_root(matrices, p, eps=eps)

    def precondition_all(
        self,
        states: Sequence[State],
        factors: Sequence[list[Tensor]],
        xs: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        if "diagonal_accumulator" in states[0]:
            roots = torch._foreach_sqrt([state["diagonal_accumulator"] for state in states])
            torch._foreach_add_(roots, settings["adagrad_eps"])
            return torch._foreach_div(list(xs), roots)
        seen = layout(xs[0].shape, settings)
        if not seen.dims:
            return xs
        return multiply(stacked(xs, seen), factors, seen).unbind()
