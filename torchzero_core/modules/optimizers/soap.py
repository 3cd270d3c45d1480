"""SOAP (Vyas et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

import torch
from torch import Tensor

from ...core import Beta, Count, Finite, NonNegative, StateKind
from ...core.preconditioner import State, as_batch
from ...linalg import eigenbasis, multiply_along, refresh_eigenbasis
from .kronecker import Kronecker, layout, multiply, stacked


class SOAP(Kronecker):
    r"""Adam in the eigenbasis of Shampoo's matrices.

    .. math::

        g = Q_1' u Q_2, \quad m ← β_1 m + (1-β_1) g, \quad v ← β_2 v + (1-β_2) g^2, \quad
        out = α\, Q_1 \frac{\hat m}{\sqrt{\hat v} + ε} Q_2'

    for a matrix, and in the same way for each dimension of any tensor. Q_i has the eigenvectors of an average of
    mat_i(u)mat_i(u)'. It is computed at the first step of a parameter, which makes no update, and turned by one power
    iteration and a QR decomposition every ``precond_freq`` steps; m turns with it, so that it stays the average of the
    updates. A dimension longer than ``max_dim`` or of size 1 keeps Q = I. A tensor all of whose dimensions do, a
    scalar for example, has no basis to wait for and gets Adam from its first step on.

    Where a decomposition fails the last good basis stays; after five failures in a row there is an error.

    Args:
        beta1: decay of the average of updates.
        beta2: decay of the average of squares.
        shampoo_beta: decay of the matrices. None: they are sums.
        precond_freq: turn the bases every so many steps of a parameter.
        merge_small: merge neighbouring dimensions as long as their product is at most ``max_dim``.
        max_dim: the longest dimension that gets a basis.
        precondition_1d: whether vectors get one.
        eps: added to the denominator.
        decay: factor of the matrices before each addition, besides ``shampoo_beta``.
        alpha: step size.
        bias_correction: divide the averages by 1 − β^t.
        stagger: spread the turns of the parameters over the ``precond_freq`` steps.

    Raises:
        RuntimeError: a matrix could not be decomposed five times in a row.

    Reference: N. Vyas et al., "SOAP: Improving and stabilizing Shampoo using Adam", 2024, arXiv:2409.11321.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.eye(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.SOAP(), tz.m.LR(0.1))
        >>> for _ in range(12):
        ...     p.grad = torch.tensor([[5.0, 4.0], [4.0, 5.0]]) @ p.detach()
        ...     optimizer.step()
        >>> bool(p.norm() < 0.5)
        True
    """

    kept = {"GG": StateKind.VALUES, "Q": StateKind.VALUES, "exp_avg": StateKind.VALUES, "exp_avg_sq": StateKind.VALUES}

    accumulator, factor, interval = "GG", "Q", "precond_freq"
    more_states = ("exp_avg", "exp_avg_sq")
    learns_first = False

    beta1: Beta = 0.95
    beta2: Beta = 0.95
    shampoo_beta: Beta | None = 0.95
    precond_freq: Count = 10
    merge_small: bool = True
    max_dim: Count = 2000
    precondition_1d: bool = True
    eps: NonNegative = 1e-8
    decay: NonNegative | None = None
    alpha: Finite = 1.0
    bias_correction: bool = True
    _: KW_ONLY
    stagger: bool = False

    def weights(self, settings: Mapping[str, Any]) -> tuple[float, float]:
        beta, decay = settings["shampoo_beta"], settings["decay"]
        old, new = (1.0, 1.0) if beta is None else (beta, 1 - beta)
        return old * (1.0 if decay is None else decay), new

    def init(self, like: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        state = super().init(like, settings)
        state[self.accumulator].zero_()
        return {**state, "exp_avg": like.new_zeros(like.shape), "exp_avg_sq": like.new_zeros(like.shape)}

    def begin(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, ...]:
        return eigenbasis(matrices)

    def refresh(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, ...]:
        bases, order, ok = refresh_eigenbasis(matrices, as_batch(factors))
        return bases, ok, order

    def follow(
        self, state: State, k: int, factor: Tensor, new: Tensor, settings: Mapping[str, Any], *more: Tensor
    ) -> None:
        if not more:  # the first basis: there are no averages yet
            return
        seen, (order,) = layout(state["exp_avg"].shape, settings), more
        dim = seen.dims[k]
        m, v = (state[name].view(seen.shape) for name in ("exp_avg", "exp_avg_sq"))
        turned = multiply_along(multiply_along(m.unsqueeze(0), factor, dim), new.mT, dim)
        m.copy_(turned[0])
        v.copy_(v.index_select(dim, order))

    def precondition_all(
        self,
        states: Sequence[State],
        factors: Sequence[list[Tensor]],
        xs: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        seen, h = layout(xs[0].shape, settings), settings
        t = states[0]["step"] - (1 if seen.dims else 0)
        if t == 0:
            return [torch.zeros_like(x) for x in xs]
        x = stacked(xs, seen)
        g = multiply(x, factors, seen, transposed=True) if seen.dims else x.clone()  # it will be written to
        gs, (ms, vs) = g.unbind(), ([state[name].view(seen.shape) for state in states] for name in self.more_states)
        torch._foreach_lerp_(ms, gs, 1 - h["beta1"])
        torch._foreach_mul_(gs, gs)
        torch._foreach_lerp_(vs, gs, 1 - h["beta2"])
        bias1, bias2 = (1 - h["beta1"] ** t, 1 - h["beta2"] ** t) if h["bias_correction"] else (1.0, 1.0)
        torch._foreach_copy_(gs, vs)
        torch._foreach_sqrt_(gs)
        torch._foreach_add_(gs, h["eps"] * math.sqrt(bias2))
        torch._foreach_reciprocal_(gs)
        torch._foreach_mul_(gs, ms)
        torch._foreach_mul_(gs, h["alpha"] * math.sqrt(bias2) / bias1)
        return multiply(g, factors, seen).unbind()
