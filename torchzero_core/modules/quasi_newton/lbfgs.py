"""Limited-memory BFGS."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ...core import Beta, Child, Count, Length, NonNegative, Range, StateKind
from ...core.sight import changes
from ...core.vector_method import Unit, at_hand
from ...linalg import SymmetricOperator
from .pairs import FEW, PairMethod, by_age, known_rows

#: So many bytes of rows are used again while they are still in the processor's cache.
TILE = 1 << 22


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
        """Let a pair count if the cosine between s and y is large enough."""
        state, h = unit.state, unit.settings
        small = state.peek("sy").dtype
        flat = unit.largest(y.abs().amax()) <= h["tol"] if h.get("tol_reset") else None
        sy, ss, yy = unit.dots((s, y), (s, s), (y, y), dtype=small)
        if h["damping"]:
            tau = _damping(torch.as_tensor(sy, dtype=small) / ss, h["init_damping"], *h["eigval_bounds"])
            y.lerp_(s, (1 - tau).to(y.dtype))
            sy, yy = unit.dots((s, y), (y, y), dtype=small)
        # the last two of these: s'y/y'y is finite
        accept = (sy > h["tol"] * ss**0.5 * yy**0.5) & (sy / torch.finfo(small).max < yy) & (yy < math.inf)
        if flat is not None:
            accept = ~flat & accept
            state["valid"].logical_and_(~flat)
        row = self.write(unit, accept, (s, y))
        if row is None:
            return
        S = state.peek("s")
        if isinstance(row, int):
            table = state.peek("sy").numpy().copy()  # what is there stays as it is, for a step that fails
            used = max(known_rows(state) or ()) + 1
            table[:used, row] = unit.total(self._products_with(unit, S if used == len(table) else S[:used], y)).numpy()
            state["sy"], state["gamma"] = torch.from_numpy(table), torch.from_numpy(np.array(sy / yy)).to(small)
            return
        state["sy"].index_copy_(1, row, unit.total(S @ y).to(small).unsqueeze(1))
        state["gamma"] = torch.where(accept, sy / yy, state.peek("gamma"))

    def _products_with(self, unit: Unit, S: Tensor, y: Tensor) -> Tensor:
        """S·y, and S·u on the way where the rows come from memory, for :meth:`apply`."""
        u = unit.update
        if u is None or _width(S) is None:
            return S @ y
        products, others = S.new_zeros(2, S.shape[0])
        for part, a, b in _pieces(S, y, u):
            products.addmv_(part, a)
            others.addmv_(part, b)
        unit.seen = u, changes(u), others
        return products

    def _products_of(self, unit: Unit, S: Tensor, x: Tensor) -> Tensor:
        """S·x, which may be known."""
        seen, unit.seen = unit.seen, None
        if seen is not None and seen[0] is x and seen[1] == changes(x):
            return seen[2]
        return S @ x

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

        def by_age_of(products: Tensor) -> Tensor:
            by_age = unit.total(products).to(small)[age]
            return by_age if holds is None else torch.where(holds, by_age, 0.0)

        def placed(by_age: Tensor) -> Tensor:
            return by_age.new_zeros(S.shape[0]).index_copy_(0, age, by_age).to(x.dtype)

        alpha = solve(R, by_age_of(self._products_of(unit, S, x)), upper=True)
        products = by_age_of(_less_and_products(x, Y, placed(alpha)))
        c = solve(R.t(), R.diagonal() * alpha - gamma * products, upper=False)
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
        S, Y = state.peek("s"), state.peek("y")
        sy, scale, used = state.peek("sy").tolist(), state.peek("gamma").item(), max(rows) + 1
        if used < len(sy):
            S, Y = S[:used], Y[:used]
        # In torch's memory, not numpy's: where a vector lies decides how its products are rounded.
        alpha, c = (torch.zeros(used, dtype=torch.float64, device="cpu") for _ in range(2))
        into, products = alpha.numpy(), unit.total(self._products_of(unit, S, x)).tolist()
        later: list[tuple[int, float]] = []
        for i in reversed(rows):
            line = sy[i]
            found = products[i]
            for j, a in later:
                found -= line[j] * a
            into[i] = found = found / (line[i] or math.nan)
            later.append((i, found))
        into, products = c.numpy(), unit.total(_less_and_products(x, Y, alpha.to(x.dtype))).tolist()
        earlier: list[tuple[list[float], float]] = []
        for i, a in reversed(later):
            found = scale * products[i]
            for line, b in earlier:
                found += line[i] * b
            into[i] = found = a - found / sy[i][i]
            earlier.append((sy[i], found))
        return x.addmv_(S.t(), c.to(x.dtype), beta=scale)

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


def _less_and_products(x: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """x ← x − rows'·factors, and the products rows·x with what x then is.

    A long vector is cut into pieces, so that the rows have to come from memory once and not twice.
    """
    if _width(rows) is None:
        return rows @ x.addmv_(rows.t(), factors, alpha=-1)
    products = rows.new_zeros(rows.shape[0])
    for part, piece in _pieces(rows, x):
        products.addmv_(part, piece.addmv_(part.t(), factors, alpha=-1))
    return products


def _width(rows: Tensor) -> int | None:
    """How long the pieces are in which rows stay in the processor's cache; None where it is not worth it."""
    bytes_each = rows.shape[0] * rows.element_size()
    return max(TILE // bytes_each, 1) if at_hand(rows) and rows.shape[1] * bytes_each > TILE else None


def _pieces(rows: Tensor, *vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows and vectors as long, cut into pieces."""
    width = _width(rows) or rows.shape[1]
    return zip(rows.split(width, dim=1), *(v.split(width) for v in vectors), strict=True)


def _damping(curvature: Tensor, largest: float, low: float, high: float) -> Tensor:
    """The τ for which τ·curvature + (1 − τ) lies within the bounds."""
    tau = torch.full_like(curvature, largest)
    tau = torch.where(curvature < low, ((1 - low) / (1 - curvature)).clamp(max=largest), tau)
    return torch.where(curvature > high, ((high - 1) / (curvature - 1)).clamp(max=largest), tau)
