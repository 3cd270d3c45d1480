"""Limited-memory BFGS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Range
from ...core.vector_method import Unit, VectorMethod


class LBFGS(VectorMethod):
    """Limited-memory BFGS: the direction H·u by the two-loop recursion over the last pairs (s, y).

    s and y are the differences of parameters and of updates between steps, and H0 = (s'y/y'y)·I of the newest pair. A
    pair is accepted if s'y > tol·‖s‖‖y‖. As long as there is no pair the direction is u/max(1, ‖u‖₁).

    The pairs are rows of two matrices S and Y, so that each of the two loops is one triangular system with the matrix
    R = triu(S Y') and two products: Rα = Su, q = u − Y'α, R'c = Dα − γYq, Hu = γq + S'c. All of it runs without
    waiting for an accelerator.

    Args:
        history_size: the number of pairs that are kept.
        tol: smallest cosine between s and y that is accepted, and smallest max|y| for ``tol_reset``.
        damping: bring the curvature s'y/s's towards one before a pair is accepted: y ← τy + (1−τ)s.
        init_damping: the largest τ.
        eigval_bounds: τ is such that the curvature ends between these bounds.
        params_beta: take s from an exponential moving average of the parameters with this factor.
        grads_beta: take y from an exponential moving average of the updates with this factor.
        update_freq: take a new pair every so many steps.
        z_beta: return an exponential moving average of the direction with this factor.
        tol_reset: forget all pairs when max|y| ≤ tol.
        inner: a module that gives what H is multiplied with; the pairs are taken from the plain update.

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
        >>> for _ in range(40):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-10
        True
    """

    history_size: Count = 10
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

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        low, high = settings["eigval_bounds"]
        if not 0 < low <= 1 <= high:
            raise ValueError(
                f"LBFGS(eigval_bounds={settings['eigval_bounds']}) must be (low, high) with 0 < low <= 1 <= high."
            )

    # -- learning ----------------------------------------------------------------------------------------------------
    def learn(self, unit: Unit, u: Tensor) -> Tensor:
        """Take a pair from the differences to the last values, or to averages of them."""
        state, h = unit.state, unit.settings
        t = state["step"] = state.get("step", 0) + 1
        slots = h["history_size"] + 1
        if "s" not in state or len(state.peek("s")) != slots:
            self._begin(unit, u, slots)
            return ~state["valid"].any()
        # Differences are taken in the memory of these.
        ds, dy = unit.step_from(state["prev_params"]), state["prev_update"].neg_().add_(u)
        a, b = h["params_beta"], h["grads_beta"]
        if (t - 1) % h["update_freq"] == 0:
            # an average moves by (1 − β) of the difference
            self._take(unit, ds if a is None else (1 - a) * ds, dy if b is None else (1 - b) * dy)
        unit.point(ds) if a is None else torch._foreach_add_(unit.pieces(ds.mul_(-a)), list(unit.params))
        dy.copy_(u) if b is None else dy.mul_(-b).add_(u)
        return ~state["valid"].any()

    def _begin(self, unit: Unit, u: Tensor, slots: int) -> None:
        # One row is spare: a new pair is written there and only counts once it is accepted.
        state, n, small = unit.state, u.numel(), torch.float32 if u.device.type == "mps" else torch.float64
        state["s"], state["y"] = u.new_zeros(slots, n), u.new_zeros(slots, n)
        state["sy"] = torch.zeros(slots, slots, dtype=small, device=u.device)
        state["valid"] = torch.zeros(slots, dtype=torch.bool, device=u.device)
        state["spare"] = torch.zeros(1, dtype=torch.long, device=u.device)
        state["gamma"] = torch.ones((), dtype=small, device=u.device)
        state["prev_params"], state["prev_update"] = unit.point(torch.empty_like(u)), u.clone()

    def _take(self, unit: Unit, s: Tensor, y: Tensor) -> None:
        """Write a pair into the spare row and let it count if it is accepted."""
        state, h = unit.state, unit.settings
        S, Y, SY, valid, spare = state.peek("s"), state.peek("y"), state["sy"], state["valid"], state["spare"]
        state.keep_rows(spare, (S, 0), (Y, 0))
        small = SY.dtype
        flat = unit.largest(y.abs().amax()) <= h["tol"] if h["tol_reset"] else None
        sy, ss, yy = unit.total(torch.stack([torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)])).to(small)
        if h["damping"]:
            tau = _damping(sy / ss, h["init_damping"], *h["eigval_bounds"])
            y.lerp_(s, (1 - tau).to(y.dtype))
            sy, yy = unit.total(torch.stack([torch.dot(s, y), torch.dot(y, y)])).to(small)
        accept = (sy > h["tol"] * (ss * yy).sqrt()) & (sy / yy).isfinite()
        if flat is not None:
            accept = accept & ~flat
            valid.logical_and_(~flat)
        refuse = ~accept
        for matrix, row in ((S, s), (Y, y)):  # what is not accepted may not be finite
            matrix.index_copy_(0, spare, row.masked_fill_(refuse, 0.0).unsqueeze(0))
        SY.index_copy_(1, spare, unit.total(S @ y).to(small).unsqueeze(1))
        gamma = state["gamma"]
        gamma.copy_(torch.where(accept, sy / yy, gamma))
        valid.index_copy_(0, spare, accept.unsqueeze(0))
        state["spare"] = spare = torch.where(accept, (spare + 1) % len(S), spare)
        valid.index_fill_(0, spare, False)

    # -- applying ----------------------------------------------------------------------------------------------------
    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """H·x, in the memory of x."""
        state = unit.state
        S, Y, SY = (state.peek(name) for name in ("s", "y", "sy"))
        small = SY.dtype
        age = (state["spare"] + 1 + torch.arange(len(S), device=S.device)) % len(S)  # rows from the oldest pair on
        valid = state["valid"][age]
        both = valid.unsqueeze(0) & valid.unsqueeze(1)
        R = torch.where(both, SY[age][:, age], 0.0).triu()
        R.diagonal().add_(~valid)  # a row without a pair takes no part
        gamma = torch.where(valid.any(), state["gamma"], 1.0)

        def solve(matrix: Tensor, right: Tensor, *, upper: bool) -> Tensor:
            return torch.linalg.solve_triangular(matrix, right.unsqueeze(1), upper=upper).squeeze(1)

        def rows(by_age: Tensor) -> Tensor:
            return torch.zeros_like(by_age).index_copy_(0, age, by_age).to(x.dtype)

        alpha = solve(R, torch.where(valid, unit.total(S @ x).to(small)[age], 0.0), upper=True)
        x.addmv_(Y.t(), rows(alpha), alpha=-1)
        beta = torch.where(valid, unit.total(Y @ x).to(small)[age], 0.0)
        c = solve(R.t(), R.diagonal() * alpha - gamma * beta, upper=False)
        return x.mul_(gamma.to(x.dtype)).addmv_(S.t(), rows(c))

    def finish(self, unit: Unit, direction: Tensor) -> Tensor:
        """The average of directions with the factor ``z_beta``."""
        state, beta = unit.state, unit.settings["z_beta"]
        if beta is None:
            return direction
        if "z" in state:
            return state["z"].lerp_(direction, 1 - beta).clone()
        state["z"] = direction.clone()
        return direction


def _damping(curvature: Tensor, largest: float, low: float, high: float) -> Tensor:
    """The τ for which τ·curvature + (1 − τ) lies within the bounds."""
    tau = torch.full_like(curvature, largest)
    tau = torch.where(curvature < low, ((1 - low) / (1 - curvature)).clamp(max=largest), tau)
    return torch.where(curvature > high, ((high - 1) / (curvature - 1)).clamp(max=largest), tau)
