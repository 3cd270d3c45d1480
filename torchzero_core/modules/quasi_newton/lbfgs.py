"""Limited-memory BFGS."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core import Module, Var
from ...core.evaluate import uniform_settings
from ...core.module import Modules
from ...core.same_params import same_params
from ...linalg import flatten, unflatten, unflatten_as


class LBFGS(Module):
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

    bounds = {
        "history_size": (1, math.inf, "[)"),
        "tol": (0, math.inf, "[)"),
        "init_damping": (0, 1, "(]"),
        "params_beta": (0, 1, "[)"),
        "grads_beta": (0, 1, "[)"),
        "z_beta": (0, 1, "[)"),
        "update_freq": (1, math.inf, "[)"),
    }

    def __init__(
        self,
        history_size: int = 10,
        tol: float = 1e-10,
        damping: bool = False,
        init_damping: float = 0.9,
        eigval_bounds: tuple[float, float] = (0.5, 50),
        params_beta: float | None = None,
        grads_beta: float | None = None,
        update_freq: int = 1,
        z_beta: float | None = None,
        tol_reset: bool = False,
        inner: Modules | None = None,
    ) -> None:
        low, high = eigval_bounds
        if not 0 < low <= 1 <= high:
            raise ValueError(f"LBFGS(eigval_bounds={eigval_bounds}) must be (low, high) with 0 < low <= 1 <= high.")
        super().__init__(
            dict(
                history_size=history_size,
                tol=tol,
                damping=damping,
                init_damping=init_damping,
                eigval_bounds=tuple(eigval_bounds),
                params_beta=params_beta,
                grads_beta=grads_beta,
                update_freq=update_freq,
                z_beta=z_beta,
                tol_reset=tol_reset,
            )
        )
        if inner is not None:
            self.set_child("inner", inner)

    # -- learning ----------------------------------------------------------------------------------------------------
    def learn(self, params: Sequence[Tensor], u: Tensor, settings: Mapping[str, Any]) -> None:
        """Take in the present parameters and update.

        Args:
            params: the parameters.
            u: their update as a vector; it is copied.
            settings: the settings.
        """
        state = self.global_state
        t = state["step"] = state.get("step", 0) + 1
        slots = settings["history_size"] + 1
        if "s" not in state or len(state["s"]) != slots:
            self._begin(state, params, u, slots)
            return
        # Differences to the last values (or their averages) are taken in the memory of these.
        dp, du = state["prev_params"], state["prev_update"]
        torch._foreach_sub_(unflatten(dp, params), list(params))
        dp.neg_()
        du.neg_().add_(u)
        a, b = settings["params_beta"], settings["grads_beta"]
        if (t - 1) % settings["update_freq"] == 0:
            # an average moves by (1 − β) of the difference
            self._take(state, dp if a is None else (1 - a) * dp, du if b is None else (1 - b) * du, settings)
        for difference, beta, source in ((dp, a, params), (du, b, [u])):
            if beta is None:
                flatten(source, difference)
            else:
                torch._foreach_add_(unflatten(difference.mul_(-beta), source), list(source))

    def _begin(self, state: MutableMapping[str, Any], params: Sequence[Tensor], u: Tensor, slots: int) -> None:
        # One row is spare: a new pair is written there and only counts once it is accepted.
        n, small = u.numel(), torch.float32 if u.device.type == "mps" else torch.float64
        state["s"], state["y"] = u.new_zeros(slots, n), u.new_zeros(slots, n)
        state["sy"] = torch.zeros(slots, slots, dtype=small, device=u.device)
        state["valid"] = torch.zeros(slots, dtype=torch.bool, device=u.device)
        state["spare"] = torch.zeros(1, dtype=torch.long, device=u.device)
        state["gamma"] = torch.ones((), dtype=small, device=u.device)
        state["prev_params"], state["prev_update"] = flatten(params, torch.empty_like(u)), u.clone()

    def _take(self, state: MutableMapping[str, Any], s: Tensor, y: Tensor, h: Mapping[str, Any]) -> None:
        """Write a pair into the spare row and let it count if it is accepted."""
        S, Y, spare, small = state["s"], state["y"], state["spare"], state["sy"].dtype
        flat = y.abs().amax() <= h["tol"] if h["tol_reset"] else None
        sy, ss, yy = self._sum(torch.stack([torch.dot(s, y), torch.dot(s, s), torch.dot(y, y)])).to(small)
        if h["damping"]:
            tau = _damping(sy / ss, h["init_damping"], *h["eigval_bounds"])
            y.lerp_(s, (1 - tau).to(y.dtype))
            sy, yy = self._sum(torch.stack([torch.dot(s, y), torch.dot(y, y)])).to(small)
        accept = (sy > h["tol"] * (ss * yy).sqrt()) & (sy / yy).isfinite()
        if flat is not None:
            accept = accept & ~flat
            state["valid"].logical_and_(~flat)
        for matrix, row in ((S, s), (Y, y)):  # what is not accepted may not be finite
            matrix.index_copy_(0, spare, row.masked_fill_(~accept, 0.0).unsqueeze(0))
        column = self._sum(S @ y).to(small)
        state["sy"].index_copy_(1, spare, column.unsqueeze(1))
        state["gamma"].copy_(torch.where(accept, sy / yy, state["gamma"]))
        state["valid"].index_fill_(0, spare, True).logical_and_(accept | ~_one_hot(spare, len(S)))
        state["spare"] = torch.where(accept, (spare + 1) % len(S), spare)
        state["valid"].index_fill_(0, state["spare"], False)

    def _sum(self, values: Tensor) -> Tensor:
        """Over the shards of a vector that is spread out."""
        return values if self.home is None else self.home.distributed.sum_scalar(values)

    # -- applying ----------------------------------------------------------------------------------------------------
    def apply(self, x: Tensor) -> Tensor:
        """H·x, in the memory of x.

        Args:
            x: a vector.
        """
        state = self.global_state
        S, Y, small = state["s"], state["y"], state["sy"].dtype
        age = (state["spare"] + 1 + torch.arange(len(S), device=S.device)) % len(S)  # rows from the oldest pair on
        valid = state["valid"][age]
        both = valid.unsqueeze(0) & valid.unsqueeze(1)
        R = torch.where(both, state["sy"][age][:, age], 0.0).triu()
        R.diagonal().add_(~valid)  # a row without a pair takes no part
        gamma = torch.where(valid.any(), state["gamma"], 1.0)

        def solve(matrix: Tensor, right: Tensor, *, upper: bool) -> Tensor:
            return torch.linalg.solve_triangular(matrix, right.unsqueeze(1), upper=upper).squeeze(1)

        def rows(by_age: Tensor) -> Tensor:
            return torch.zeros_like(by_age).index_copy_(0, age, by_age).to(x.dtype)

        alpha = solve(R, torch.where(valid, self._sum(S @ x).to(small)[age], 0.0), upper=True)
        x.addmv_(Y.t(), rows(alpha), alpha=-1)
        beta = torch.where(valid, self._sum(Y @ x).to(small)[age], 0.0)
        c = solve(R.t(), R.diagonal() * alpha - gamma * beta, upper=False)
        return x.mul_(gamma.to(x.dtype)).addmv_(S.t(), rows(c))

    def step(self, var: Var) -> Var:
        """Learn from the update and replace it by the direction."""
        update, params = var.get_update(), var.params
        if not params or not sum(p.numel() for p in params):
            return var
        settings, state = uniform_settings(self, params), self.global_state
        if not same_params(self, params):
            for key in [k for k in state if k not in ("epoch", "members")]:
                del state[key]
        u = _vector(update)
        self.learn(params, u, settings)
        scale = torch.where(state["valid"].any(), 1.0, 1 / self._sum(u.abs().sum()).clamp(min=1.0))
        if "inner" in self.children:
            u = _vector(var.run_inner(self.children["inner"]))
        direction = self.apply(u).mul_(scale.to(u.dtype))
        if settings["z_beta"] is not None:
            if "z" in state:
                direction = state["z"].lerp_(direction, 1 - settings["z_beta"]).clone()
            else:
                state["z"] = direction.clone()
        var.update = unflatten_as(direction, params)
        return var


def _vector(tensors: Sequence[Tensor]) -> Tensor:
    vector = flatten(tensors)
    return vector.float() if vector.dtype in (torch.bfloat16, torch.float16) else vector


def _one_hot(index: Tensor, n: int) -> Tensor:
    return torch.arange(n, device=index.device) == index


def _damping(curvature: Tensor, largest: float, low: float, high: float) -> Tensor:
    """The τ for which τ·curvature + (1 − τ) lies within the bounds."""
    tau = torch.full_like(curvature, largest)
    tau = torch.where(curvature < low, ((1 - low) / (1 - curvature)).clamp(max=largest), tau)
    return torch.where(curvature > high, ((high - 1) / (curvature - 1)).clamp(max=largest), tau)
