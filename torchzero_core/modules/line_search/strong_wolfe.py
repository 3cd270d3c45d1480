"""Line search with the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor

from ...core import Natural, OpenFraction, Positive, Range, StateKind, Var
from .base import LineFunction, LineSearch
from .scalar import NO_MOVE, Found, Point, backtrack, strong_wolfe

#: The share of the slope that may be left along a direction of conjugate gradients.
EXACT = 0.1


class StrongWolfe(LineSearch):
    """Line search with the strong Wolfe conditions, by cubic interpolation.

    Finds α with f(p − α·u) ≤ f(p) + c1·α·d and abs(d(α)) ≤ c2·abs(d), where d(α) = −⟨g(p − α·u), u⟩ is the slope along
    the update. The step size grows from ``init`` by the factor ``expand`` until such a point is bracketed; the
    minimiser of a cubic then narrows the bracket. Every step size costs one evaluation with gradients, none is tried
    twice.

    A direction of conjugate gradients has no length of its own. Behind one the first step size to try is the one that
    promises the decrease of the last step, α₀·d₀/d with the last step size α₀ and the last slope d₀, and in the first
    step init/max(1, ‖u‖₁). Such directions also need a better minimum along the line than others: not more than a tenth
    of the slope may be left, whatever c2 allows.

    Near a minimum, where the decrease is lost in the rounding of the loss, the slope decides alone.

    Args:
        init: the first step size to try.
        c1: the share of the predicted decrease that is asked for.
        c2: the share of the slope that may be left: 0.9 suits quasi-Newton directions, 0.1 conjugate gradients.
        maxiter: largest number of step sizes to try while growing.
        maxzoom: largest number of step sizes to try while narrowing.
        expand: the factor by which the step size grows.
        adaptive: start lower after a failure: the first step size is multiplied by a scale that a failed search
            halves and a successful one multiplies by √2, up to 1.
        fallback: after a failure, look for a mere decrease by backtracking from ``init``.
        plus_minus: when the update points uphill, search in the opposite direction instead of failing.

    Raises:
        ValueError: a step with settings that differ between parameter groups.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 3.5, for the first step size equation 3.60;
    Hager and Zhang, SIAM J. Optimization 16, 2005, for the slope in place of the loss.

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

    kept = {
        "initial_scale": StateKind.POSITIVE,
        "beta_scale": StateKind.POSITIVE,
        "previous_decrease": StateKind.NUMBER,
    }

    init: Positive = 1.0
    c1: OpenFraction = 1e-4
    c2: OpenFraction = 0.9
    maxiter: Natural = 25
    maxzoom: Natural = 10
    expand: Annotated[float, Range(1, math.inf, "()")] = 2.0
    adaptive: bool = True
    fallback: bool = False
    plus_minus: bool = False

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        c1, c2 = settings["c1"], settings["c2"]
        if c1 >= c2:
            raise ValueError(f"StrongWolfe needs c1 < c2, or no step size may do; got c1={c1} and c2={c2}.")

    def search(self, update: list[Tensor], var: Var) -> float:
        """A step size with both conditions, or with the first if the second cannot be met."""
        h = self.common_settings(var)
        state = self.global_state
        scale = state.get("initial_scale", 1.0) if h["adaptive"] else 1.0
        phi = self.make_objective(var)
        start = phi.start
        uphill = h["plus_minus"] and start.slope > 0
        sign = -1.0 if uphill else 1.0

        def along(alpha: float) -> tuple[float, float]:
            loss, slope = phi.with_slope(sign * alpha)
            return loss, sign * slope

        start = Point(0.0, start.loss, sign * start.slope)
        scaled = self.follows_a_scale
        found = strong_wolfe(
            along,
            start,
            init=scale * (h["init"] if scaled else self._first(phi, start, h["init"])),
            c1=h["c1"],
            c2=h["c2"] if scaled or h["c1"] >= EXACT else min(h["c2"], EXACT),
            maxiter=h["maxiter"],
            maxzoom=h["maxzoom"],
            expand=h["expand"],
            rounding=4 * phi.rounding,  # a sum is off by more than its last digit
        )
        if found.alpha != 0 and not phi.moves(found.alpha):
            found = Found(0.0, NO_MOVE)
        if h["adaptive"]:
            state["initial_scale"] = max(scale / 2, 1e-10) if found.alpha == 0 else min(scale * math.sqrt(2), 1.0)
        if not scaled:
            state["previous_decrease"] = -found.alpha * start.slope
        if found.alpha == 0 and h["fallback"]:
            found = self._fall_back(phi, sign, start, h)
        self._status = found.status
        return sign * found.alpha

    def _first(self, phi: LineFunction, start: Point, init: float) -> float:
        """The first step size along a direction that has no length of its own."""
        decrease = self.global_state.get("previous_decrease", 0.0)
        if start.slope < 0 and 0 < (alpha := -decrease / start.slope) < math.inf:
            return alpha
        return init / max(1.0, phi.length)

    def _fall_back(self, phi: LineFunction, sign: float, start: Point, h: Mapping[str, Any]) -> Found:
        state = self.global_state
        scale = state.get("beta_scale", 1.0)
        found = backtrack(
            lambda alpha: phi(sign * alpha),
            start,
            init=h["init"],
            beta=0.5 * scale,
            c=h["c1"],
            maxiter=h["maxiter"],
            rounding=phi.rounding,
            moves=phi.moves,
        )
        state["beta_scale"] = min(scale * math.sqrt(1.5), 1.0) if found.alpha != 0 else max(scale / 1.5, 1e-10)
        return found
