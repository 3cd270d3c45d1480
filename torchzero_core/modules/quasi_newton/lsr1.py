"""Limited-memory symmetric rank one."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import Beta, Child, Count, Length, NonNegative, StateKind
from ...core.vector_method import Unit
from ...linalg import SymmetricOperator
from .pairs import PairMethod, by_age


class LSR1(PairMethod):
    """Limited-memory symmetric rank one: the direction H·u with H = I + Σ wₖwₖ'/wₖ'yₖ over the last pairs (s, y).

    wₖ = sₖ − Hₖyₖ, with Hₖ made of the pairs before. Terms with abs(wₖ'yₖ) ≤ tol·‖wₖ‖‖yₖ‖ are left out. H need not be
    positive definite, so a direction may point uphill; when a step has not moved the parameters, as a search does not
    then, all pairs are forgotten. The first direction is u itself.

    Each wₖ is a sum of the vectors vᵢ = sᵢ − yᵢ up to the k-th, so that all of H is known from the inner products of
    these with each other and with the yᵢ; a step takes as many products with n numbers as one of :class:`LBFGS`.

    Args:
        tol: smallest cosine between w and y that is used.
        scale_second: multiply the second direction by 1/max(1, ‖u‖₁).

    Raises:
        ValueError: settings that differ between parameter groups.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 7.2.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LSR1())
        >>> for _ in range(8):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-3)
        True
    """

    kept = {"yy": StateKind.VALUES, "vy": StateKind.VALUES, "vv": StateKind.VALUES}

    history_size: Length = 10
    tol: NonNegative = 1e-8
    params_beta: Beta | None = None
    grads_beta: Beta | None = None
    update_freq: Count = 1
    scale_second: bool = True
    inner: Child | None = None
    rows = ("v", "y")
    numbers = ("yy",)
    squares = ("vy", "vv")

    def learn(self, unit: Unit, u: Tensor) -> bool:
        super().learn(unit, u)
        return bool(unit.settings["scale_second"]) and unit.state["step"] == 2

    def take(self, unit: Unit, s: Tensor, y: Tensor) -> None:
        """Write a pair into the spare row; it counts unless it is not finite or y is zero."""
        state, v = unit.state, s.sub_(y)
        V, small = state.peek("v"), state.peek("vy").dtype
        vv, yy = unit.total(torch.stack([torch.dot(v, v), torch.dot(y, y)])).to(small)
        state["valid"].logical_and_(vv + yy != 0)
        row = self.write(unit, (vv + yy).isfinite() & (yy > 0), (v, y))
        if row is None:
            return
        row = torch.tensor([row], device=y.device) if isinstance(row, int) else row
        products = unit.total(torch.stack([V @ y, V @ v])).to(small)
        state["vy"].index_copy_(1, row, products[0].unsqueeze(1))
        state["vv"].index_copy_(1, row, products[1].unsqueeze(1)).index_copy_(0, row, products[1].unsqueeze(0))
        state["yy"].index_copy_(0, row, yy.unsqueeze(0))

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """H·x, in the memory of x."""
        V, (age, _) = unit.state.peek("v"), by_age(unit.state)
        L, factors, _ = self._known(unit, x.dtype)
        c = L.t() @ (factors * (L @ unit.total(V @ x).to(L.dtype)[age]))
        return x.addmv_(V.t(), c.new_zeros(len(V)).index_copy_(0, age, c).to(x.dtype))

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """The inverse of H = I + V'KV: I − V'K(I + VV'K)⁻¹V."""
        V, (age, _) = unit.state.peek("v"), by_age(unit.state)
        L, factors, vv = self._known(unit, V.dtype)
        K = L.t() @ (factors.unsqueeze(1) * L)
        middle = K @ torch.linalg.pinv(torch.eye(len(K), dtype=K.dtype, device=K.device) + vv @ K)

        def product(x: Tensor) -> Tensor:
            c = middle @ unit.total(V @ x).to(K.dtype)[age]
            return x - V.t() @ c.new_zeros(len(V)).index_copy_(0, age, c).to(x.dtype)

        return SymmetricOperator(product, V[0])

    def _known(self, unit: Unit, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The matrix L and the factors of the terms, and VV', from the oldest pair on."""
        state, (age, holds) = unit.state, by_age(unit.state)
        vy, vv = (state.peek(name)[age][:, age] for name in ("vy", "vv"))
        if holds is None:
            holds = torch.ones_like(age, dtype=torch.bool)
        tol = max(unit.settings["tol"], 32 * torch.finfo(dtype).eps)  # what is below it is rounding
        return *_terms(vy, vv, state.peek("yy")[age], holds, tol), vv


def _terms(vy: Tensor, vv: Tensor, yy: Tensor, valid: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """The matrix L with w = LV, and 1/wₖ'yₖ, or zero for terms that are left out; pairs from the oldest on."""
    L, factors = torch.diag(valid.to(vy.dtype)), torch.zeros_like(yy)
    for k in range(len(yy)):
        if k:
            L[k] -= (factors[:k] * (L[:k] @ vy[:, k])) @ L[:k]  # wₖ = vₖ − Σ wⱼ wⱼ'yₖ/wⱼ'yⱼ
        wy, ww = L[k] @ vy[:, k], L[k] @ vv @ L[k]
        use = valid[k] & (wy.square() > tol**2 * ww * yy[k]) & (1 / wy).isfinite()
        factors[k] = torch.where(use, 1 / wy, 0.0)
    return L, factors
