"""Limited-memory BFGS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ...core import Beta, Child, Count, Length, NonNegative, Range, StateKind
from ...core.vector_method import Unit
from ...linalg import SymmetricOperator
from .pairs import FEW, PairMethod, by_age, known_rows, rows_in_use


class TwoLoop(PairMethod):
    """Base class of methods with the direction H·u by the two-loop recursion over the last pairs (s, y).

    The pairs are rows of two matrices S and Y, so that each of the two loops is one triangular system with the matrix
    R = triu(S Y') and two products: Rα = Su, q = u − Y'α, R'c = Dα − γYq, Hu = γq + S'c. All of it runs without
    waiting for an accelerator. H0 = γ·I with γ = s'y/y'y of the newest pair.

    A subclass declares the settings ``history_size``, ``tol``, ``damping``, ``init_damping``, ``eigval_bounds`` and
    ``z_beta``, and ``tol_reset`` if it likes.

    Args:
        tol: smallest cosine between s and y that is accepted.
        damping: bring the curvature s'y/s's towards one before a pair is accepted: y ← τy + (1−τ)s.
        init_damping: the largest τ.
        eigval_bounds: τ is such that the curvature ends between these bounds.
        z_beta: return an exponential moving average of the direction with this factor.
        tol_reset: forget all pairs when max|y| ≤ tol.
    """

    kept = {"sy": StateKind.VALUES, "gamma": StateKind.VALUES}

    squares = ("sy",)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        low, high = settings["eigval_bounds"]
        if not 0 < low <= 1 <= high:
            raise ValueError(
                f"{type(self).__name__}(eigval_bounds={settings['eigval_bounds']}) must be (low, high) with "
                "0 < low <= 1 <= high."
            )

    # -- learning ----------------------------------------------------------------------------------------------------
    def begin(self, unit: Unit, u: Tensor) -> bool:
        new = super().begin(unit, u)
        state, small = unit.state, unit.state.peek("sy").dtype
        if new or "gamma" not in state:
            state["gamma"] = torch.ones((), dtype=small, device=u.device)
        elif state.examined("gamma").dtype is not small:
            state["gamma"] = state.peek("gamma").to(small)
        return new

    def take(self, unit: Unit, s: Tensor, y: Tensor) -> None:
        """Write a pair into the spare row and let it count if it is accepted."""
        state, h = unit.state, unit.settings
        small = state.peek("sy").dtype
        flat = unit.largest(y.abs().amax()) <= h["tol"] if h.get("tol_reset") else None
        sy, ss, yy = unit.total(torch.stack([torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)])).to(small).unbind()
        if h["damping"]:
            tau = _damping(sy / ss, h["init_damping"], *h["eigval_bounds"])
            y.lerp_(s, (1 - tau).to(y.dtype))
            sy, yy = unit.total(torch.stack([torch.dot(s, y), torch.dot(y, y)])).to(small)
        accept = _acceptable(sy, ss, yy, h["tol"])
        if flat is not None:
            accept = ~flat & accept
            state["valid"].logical_and_(~flat)
        row = self.write(unit, accept, {"s": s, "y": y})
        if row is None:
            return
        used = rows_in_use(state)
        products = unit.total(state.peek("s")[:used] @ y)
        state["sy"][:used].index_copy_(1, row, products.to(small).unsqueeze(1))
        gamma = sy / yy
        state["gamma"] = gamma if isinstance(accept, bool) else torch.where(accept, gamma, state.peek("gamma"))

    # -- applying ----------------------------------------------------------------------------------------------------
    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """H·x, in the memory of x."""
        state = unit.state
        if (few := known_rows(state)) is not None and len(few) <= FEW:
            return self._apply_few(unit, x, few)
        S, Y, SY, gamma = (state.peek(name) for name in ("s", "y", "sy", "gamma"))
        small, (age, holds) = SY.dtype, by_age(state)
        R = SY[age.unsqueeze(1), age]
        if holds is not None:
            R = torch.where(holds.unsqueeze(0) & holds.unsqueeze(1), R, 0.0)
            R.diagonal().add_(~holds)  # a row without a pair takes no part
            gamma = torch.where(holds.any(), gamma, 1.0)

        def solve(matrix: Tensor, right: Tensor, *, upper: bool) -> Tensor:
            return torch.linalg.solve_triangular(matrix, right.unsqueeze(1), upper=upper).squeeze(1)

        def products(rows: Tensor) -> Tensor:
            by_age = unit.total(rows @ x).to(small)[age]
            return by_age if holds is None else torch.where(holds, by_age, 0.0)

        def placed(by_age: Tensor) -> Tensor:
            return by_age.new_zeros(S.shape[0]).index_copy_(0, age, by_age).to(x.dtype)

        alpha = solve(R, products(S), upper=True)
        x.addmv_(Y.t(), placed(alpha), alpha=-1)
        c = solve(R.t(), R.diagonal() * alpha - gamma * products(Y), upper=False)
        return x.mul_(gamma.to(x.dtype)).addmv_(S.t(), placed(c))

    def _apply_few(self, unit: Unit, x: Tensor, rows: Sequence[int]) -> Tensor:
        """The same in plain numbers: with a few pairs, torch's functions take longer to be called than to be done.

        Args:
            unit: the parameters of the vector, with their state.
            x: the vector.
            rows: where the pairs stand, the oldest first.
        """
        state = unit.state
        if not rows:
            return x
        gamma, used = state.peek("gamma"), max(rows) + 1
        S, Y, sy = (state.peek(name)[:used] for name in ("s", "y", "sy"))
        sy = sy.tolist()
        scale, own = gamma.item(), [line[i] or math.nan for i, line in enumerate(sy)]
        products = unit.total(S @ x).tolist()
        alpha, c = [0.0] * len(sy), [0.0] * len(sy)
        for n in range(len(rows) - 1, -1, -1):
            i = rows[n]
            alpha[i] = (products[i] - sum([sy[i][j] * alpha[j] for j in rows[n + 1 :]])) / own[i]
        x.addmv_(Y.t(), torch.tensor(alpha, dtype=x.dtype, device=x.device), alpha=-1)
        products = unit.total(Y @ x).tolist()
        for n, i in enumerate(rows):
            c[i] = alpha[i] - (scale * products[i] + sum([sy[j][i] * c[j] for j in rows[:n]])) / own[i]
        return x.mul_(scale).addmv_(S.t(), torch.tensor(c, dtype=x.dtype, device=x.device))

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """The inverse of H, in compact form: B = δI − W M⁻¹ W' with W = [δS', Y'], δ = 1/γ (Byrd et al. 1994)."""
        state = unit.state
        S, Y, small = state.peek("s"), state.peek("y"), state.peek("sy").dtype
        age, holds = by_age(state)
        rows = age if holds is None else age[holds]
        inverse = lambda v: self.apply(unit, v.clone())  # noqa: E731
        if not rows.shape[0]:
            return SymmetricOperator(lambda v: v.clone(), S[0], inverse)
        S, Y, delta = S[rows], Y[rows], 1 / state["gamma"]
        sy, ss = unit.total(torch.stack([S @ Y.mT, S @ S.mT])).to(small)
        L = sy.tril(-1)
        M = torch.cat([torch.cat([delta * ss, L], 1), torch.cat([L.mT, -torch.diag(sy.diagonal())], 1)])

        def product(v: Tensor) -> Tensor:
            inner = unit.total(torch.cat([S @ v, Y @ v])).to(small)
            inner[: len(S)] *= delta
            a, b = torch.linalg.solve(M, inner).chunk(2)
            return delta.to(v.dtype) * v - S.mT @ (delta * a).to(v.dtype) - Y.mT @ b.to(v.dtype)

        return SymmetricOperator(product, S[0], inverse)

    def finish(self, unit: Unit, direction: Tensor) -> Tensor:
        """The average of directions with the factor ``z_beta``."""
        state, beta = unit.state, unit.settings["z_beta"]
        if beta is None:
            return direction
        if "z" in state:
            return state["z"].lerp_(direction, 1 - beta).clone()
        state["z"] = direction.clone()
        return direction


class LBFGS(TwoLoop):
    """Limited-memory BFGS: the direction H·u by the two-loop recursion over the last pairs (s, y).

    s and y are the differences of parameters and of updates between steps, and H0 = (s'y/y'y)·I of the newest pair. A
    pair is accepted if s'y > tol·‖s‖‖y‖. As long as there is no pair the direction is u/max(1, ‖u‖₁).

    Args:
        tol: smallest cosine between s and y that is accepted, and smallest max|y| for ``tol_reset``.
        tol_reset: forget all pairs when max|y| ≤ tol.

    All parameters are one vector. It starts anew when another set of parameters has gradients.

    Raises:
        ValueError: settings that differ between parameter groups.

    Reference: Liu and Nocedal, Mathematical Programming 45, 1989; damping: M. Al-Baali, Optimization Methods and
    Software 29, 2014.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.LBFGS(), tz.m.StrongWolfe())
        >>> for _ in range(50):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-10
        True
    """

    history_size: Length = 10
    tol: NonNegative = 1e-10
    damping: bool = False
    init_damping: Annotated[float, Range(0, 1, "(]")] = 0.9
    eigval_bounds: tuple[float, float] = (0.5, 50)
    params_beta: Beta | None = None
    grads_beta: Beta | None = None
    update_freq: Count = 1
    z_beta: Beta | None = None
    tol_reset: bool = False
    inner: Child | None = None


def _acceptable(sy: Tensor, ss: Tensor, yy: Tensor, tol: float) -> Tensor | bool:
    """Whether the cosine between s and y is large enough, as a truth value on the device only if it is no CPU."""
    if sy.device.type != "cpu":
        return (sy > tol * ss.sqrt() * yy.sqrt()) & (sy / yy).isfinite()
    a, b, c = sy.item(), ss.item(), yy.item()
    return a > tol * math.sqrt(b) * math.sqrt(c) and c > 0 and math.isfinite(a / c)


def _damping(curvature: Tensor, largest: float, low: float, high: float) -> Tensor:
    """The τ for which τ·curvature + (1 − τ) lies within the bounds."""
    tau = torch.full_like(curvature, largest)
    tau = torch.where(curvature < low, ((1 - low) / (1 - curvature)).clamp(max=largest), tau)
    return torch.where(curvature > high, ((high - 1) / (curvature - 1)).clamp(max=largest), tau)
