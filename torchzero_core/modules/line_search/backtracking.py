"""Backtracking line searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from ...core import Beta, Natural, NonNegative, OpenFraction, Positive, Range, StateKind, Var
from .base import SHORTEST, LineFunction, LineSearch
from .scalar import NO_MOVE, backtrack


class Backtracking(LineSearch):
    """Backtracking line search with the condition of Armijo.

    Takes the first α of init, init·β, init·β², … with f(p − α·u) ≤ f(p) + c·α·min(d, 0), where d = −⟨g, u⟩ is the
    slope along the update. When none of them will do, the step is zero.

    Args:
        init: the first step size to try.
        beta: what the step size is multiplied by after each failure.
        c: the share of the predicted decrease that is asked for.
        maxiter: largest number of step sizes to try.
        min_alpha: give up below this step size.
        adaptive: search further after a failure: β is multiplied by a scale that a failed search divides by 1.5 and
            a successful one multiplies by √1.5, up to 1.
        try_negative: when no step size will do, try the same ones in the other direction.

    Raises:
        ValueError: a step with settings that differ between parameter groups.

    Reference: L. Armijo, Pacific J. Math. 16, 1966.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.Backtracking())
        >>> _ = optimizer.step(closure)
        >>> optimizer.last_step.step_size, optimizer.last_step.evaluations, closure(False).item()
        (0.5, 3, 0.0)
    """

    keeps_place = True
    kept = {"beta_scale": StateKind.POSITIVE}

    init: Positive = 1.0
    beta: OpenFraction = 0.5
    c: Beta = 1e-4
    maxiter: Natural = 10
    min_alpha: NonNegative | None = None
    adaptive: bool = True
    try_negative: bool = False

    def search(self, update: list[Tensor], var: Var) -> float:
        """The first step size with a sufficient decrease."""
        h = self.common_settings(var)
        state = self.global_state
        scale = state.get("beta_scale", 1.0) if h["adaptive"] else 1.0
        phi = self.make_objective(var)
        found = backtrack(
            phi,
            phi.start,
            init=h["init"],
            beta=h["beta"] * scale,
            c=h["c"],
            maxiter=h["maxiter"],
            min_alpha=h["min_alpha"],
            try_negative=h["try_negative"],
            rounding=phi.rounding,
            moves=phi.moves,
        )
        if h["adaptive"] and found.status != NO_MOVE:
            state["beta_scale"] = _next_scale(scale, success=found.alpha != 0)
        if found.alpha != 0:
            return found.alpha
        return self.fail(found.status, retries=h["adaptive"] and _may_go_on(phi, h["init"], h["beta"] * scale, h))


class AdaptiveBacktracking(LineSearch):
    """Backtracking line search that starts where the last search suggests.

    The first step size is init·s. When it will do at once, s grows by nplus^target_iters; otherwise s becomes such
    that ``target_iters`` backtracks would lead from the first step size to the one just found.

    Args:
        init: the first step size of the first search.
        beta: what the step size is multiplied by after each failure; divided by 1.5 after a search that failed
            altogether, and brought back by √1.5 after each success.
        c: the share of the predicted decrease that is asked for.
        maxiter: largest number of step sizes to try.
        min_alpha: give up below this step size.
        target_iters: the number of backtracks to aim at; more find larger step sizes and cost evaluations.
        nplus: growth of s for each of them.
        scale_beta: momentum of s: it moves to its new value by the share 1 − scale_beta only.
        try_negative: when no step size will do, try the same ones in the other direction.

    Raises:
        ValueError: a step with settings that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum() / 200
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.AdaptiveBacktracking())
        >>> sizes = []
        >>> for _ in range(5):
        ...     _ = optimizer.step(closure)
        ...     sizes.append(optimizer.last_step.step_size)
        >>> sizes
        [1.0, 2.0, 4.0, 8.0, 16.0]
    """

    keeps_place = True
    kept = {"beta_scale": StateKind.POSITIVE, "initial_scale": StateKind.POSITIVE}

    init: Positive = 1.0
    beta: OpenFraction = 0.5
    c: Beta = 1e-4
    maxiter: Natural = 20
    min_alpha: NonNegative | None = None
    target_iters: Natural = 1
    nplus: Annotated[float, Range(1, math.inf, "[)")] = 2.0
    scale_beta: Beta = 0.0
    try_negative: bool = False

    def search(self, update: list[Tensor], var: Var) -> float:
        """The first step size with a sufficient decrease."""
        h = self.common_settings(var)
        state = self.global_state
        scale, beta_scale = state.get("initial_scale", 1.0), state.get("beta_scale", 1.0)
        first, beta = h["init"] * scale, h["beta"] * beta_scale
        phi = self.make_objective(var)
        found = backtrack(
            phi,
            phi.start,
            init=first,
            beta=beta,
            c=h["c"],
            maxiter=h["maxiter"],
            min_alpha=h["min_alpha"],
            try_negative=h["try_negative"],
            rounding=phi.rounding,
            moves=phi.moves,
        )
        if found.status == NO_MOVE:
            return self.fail(NO_MOVE)
        state["beta_scale"] = _next_scale(beta_scale, success=found.alpha != 0)
        if found.alpha == 0:
            return self.fail(found.status, retries=_may_go_on(phi, first, beta, h))
        if found.alpha == first:
            target = scale * h["nplus"] ** h["target_iters"]
        else:
            target = abs(found.alpha) / h["init"] / beta ** h["target_iters"]
        target = min(max(target, 1e-30), 1e30)  # so that a flat stretch does not send it to zero or infinity
        state["initial_scale"] = target + h["scale_beta"] * (scale - target)
        return found.alpha


def _may_go_on(phi: LineFunction, init: float, beta: float, h: Mapping[str, Any]) -> bool:
    """Whether shorter steps than those of a search that has failed may do: the next one tries them."""
    if h["maxiter"] == 0 or not (phi.start.slope < 0 or h["try_negative"]):
        return False
    share = beta ** (h["maxiter"] - 1)
    return share > SHORTEST and init * share * beta >= (h["min_alpha"] or 0.0) and phi.moves(init * share)


def _next_scale(scale: float, *, success: bool) -> float:
    return min(scale * math.sqrt(1.5), 1.0) if success else max(scale / 1.5, 1e-10)
