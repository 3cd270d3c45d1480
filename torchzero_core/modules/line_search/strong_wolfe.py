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
#: How much longer than the direction of a quasi-Newton method the first step to try may be.
LONGEST = 4.0
#: How much faster than usual the step size grows behind a method that learns the length of its direction.
REACH = 10.0
#: The shortest first step of all.
SHORTEST = 1e-3


class StrongWolfe(LineSearch):
    """Line search with the strong Wolfe conditions, by cubic interpolation.

    Finds α with f(p − α·u) ≤ f(p) + c1·α·d and abs(d(α)) ≤ c2·abs(d), where d(α) = −⟨g(p − α·u), u⟩ is the slope along
    the update. The step size grows from ``init`` by the factor ``expand`` until such a point is bracketed; the
    minimiser of a cubic then narrows the bracket. Every step size costs one evaluation with gradients, none is tried
    twice.

    The first step size to try is ``init``, times a factor where the length of the direction means less than usual:

    - In the first step of a quasi-Newton or conjugate gradient method it is min(2·abs(f)/abs(d), 1/‖u‖): what would
      bring a parabola down to zero, but no farther than a length of 1. Where a quasi-Newton method starts anew it does
      not go farther than the last step either: it may be at the minimum already.
    - A direction of conjugate gradients has no length of its own. Behind one the step is as long as the last one, of
      the size α: √(α*/α)·‖p − p₀‖/‖u‖ whatever ``init`` is, with α* the minimiser of the parabola with the slopes at
      both ends of it. Such directions also need a better minimum along the line than others: not more than a tenth of
      the slope may be left, whatever c2 allows.
    - A quasi-Newton method that begins with too large a curvature makes short steps until it has learnt of every
      direction. Where the last two steps ended before the minima α* of their parabolas it is the smaller α*, at most 4.

    Behind these methods the step size also grows to the minimiser of a cubic, by up to ten times ``expand``.

    Near a minimum, where the decrease is lost in the rounding of the loss, the slope decides alone; but a step never
    ends at a loss above that of its start.

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

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 3.5; for the first step size R. Fletcher,
    Practical Methods of Optimization, 1987, section 2.6, and D. F. Shanno, Mathematics of Operations Research 3, 1978;
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
        >>> for _ in range(50):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-10
        True
    """

    corrects_length = True
    kept = {
        "initial_scale": StateKind.POSITIVE,
        "beta_scale": StateKind.POSITIVE,
        "minimum": StateKind.NUMBER,
        "minimum_before": StateKind.NUMBER,
        "previous_length": StateKind.NUMBER,
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
        before = self.before
        scaled = before is None or before.has_scale
        learns = not scaled or (before is not None and before.learns_scale)
        first = h["init"]
        if start.finite and learns:
            first = self._first(phi, start, first, scaled=scaled, guessed=bool(var.guessed))
        found = strong_wolfe(
            along,
            start,
            init=scale * first,
            c1=h["c1"],
            c2=h["c2"] if scaled or h["c1"] >= EXACT else min(h["c2"], EXACT),
            maxiter=h["maxiter"],
            maxzoom=h["maxzoom"],
            expand=h["expand"],
            rounding=4 * phi.rounding,  # a sum is off by more than its last digit
            reach=REACH if learns else 1.0,
        )
        if found.alpha != 0 and along(found.alpha)[0] == start.loss and not phi.moves(found.alpha):
            found = Found(0.0, NO_MOVE)
        turned = learns and start.slope > 0  # the method starts anew: it was not the length that was wrong
        if h["adaptive"] and not turned:
            state["initial_scale"] = max(scale / 2, 1e-10) if found.alpha == 0 else min(scale * math.sqrt(2), 1.0)
        if learns:
            self._note(phi, start, found.alpha and Point(found.alpha, *along(found.alpha)), scaled=scaled)
        if found.alpha == 0 and h["fallback"]:
            found = self._fall_back(phi, sign, start, h)
        self._status = found.status
        return sign * found.alpha

    def _first(self, phi: LineFunction, start: Point, init: float, *, scaled: bool, guessed: bool) -> float:
        """The first step size to try along a direction whose length is being learnt."""
        state = self.global_state
        if scaled and not guessed:
            farther = min(state.get("minimum", 1.0), state.get("minimum_before", 1.0))
            return init * min(max(1.0, farther / init), LONGEST)
        length = phi.length
        if not 0 < length < math.inf or start.slope >= 0:
            return init
        last = state.get("previous_length", 0.0) / length
        if last > 0 and not scaled:
            return last
        falls = -2 * abs(start.loss) / start.slope or math.inf
        first = init * max(min(falls, 1 / length), SHORTEST / length)
        return min(first, last) if last > 0 else first

    def _note(self, phi: LineFunction, start: Point, end: Point | float, *, scaled: bool) -> None:
        """Remember where the minimum along the line has been."""
        state = self.global_state
        if not isinstance(end, Point):
            state.update({"previous_length": 0.0} | ({"minimum": 1.0, "minimum_before": 1.0} if scaled else {}))
            return
        left = end.slope / start.slope
        farther = 1 / (1 - left) if left < 1 else 1.0
        if scaled:
            state["minimum_before"], state["minimum"] = state.get("minimum", 1.0), end.alpha * farther
        state["previous_length"] = end.alpha * phi.length * math.sqrt(farther)

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
