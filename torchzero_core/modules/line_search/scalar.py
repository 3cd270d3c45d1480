"""Searches on a function of one number. They know nothing of parameters: φ goes in, a step size comes out.

A loss that is not finite counts as larger than any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Point(NamedTuple):
    """A step size with the loss and the slope dφ/dα there."""

    alpha: float
    loss: float
    slope: float = math.nan

    @property
    def finite(self) -> bool:
        """Whether loss and slope are numbers to reckon with."""
        return math.isfinite(self.loss) and math.isfinite(self.slope)


class Found(NamedTuple):
    """The outcome of a search: a step size, 0 where none will do, and "ok" or what went wrong."""

    alpha: float
    status: str = "ok"


NO_DECREASE = "no sufficient decrease"
ASCENT = "not a descent direction"
ZERO_SLOPE = "zero slope"
NOT_FINITE = "not finite"
NO_GRADIENT = "no parameter has a gradient"
NO_CURVATURE = "curvature condition not met"
NO_MOVE = "too small a step to move the parameters"


def backtrack(
    phi: Callable[[float], float],
    start: Point,
    *,
    init: float = 1.0,
    beta: float = 0.5,
    c: float = 1e-4,
    maxiter: int = 10,
    min_alpha: float | None = None,
    try_negative: bool = False,
    rounding: float = 0.0,
    moves: Callable[[float], bool] = lambda alpha: True,
) -> Found:
    """The first α of init, init·β, init·β², … with φ(α) ≤ φ(0) + c·min(α·φ'(0), 0), the condition of Armijo.

    Args:
        phi: the loss at a step size.
        start: φ and its slope at zero.
        init: the first step size to try.
        beta: what it is multiplied by after each failure.
        c: the share of the predicted decrease that is asked for.
        maxiter: largest number of step sizes to try.
        min_alpha: give up below this step size.
        try_negative: when none will do, try the same step sizes in the other direction.
        rounding: the distance of numbers around the loss; the decrease that is asked for is rounded to it.
        moves: whether a step size at which the loss was the same is more than nothing.

    Example:
        >>> backtrack(lambda a: (a - 0.2) ** 2, Point(0.0, 0.04, -0.4))
        Found(alpha=0.25, status='ok')
    """
    if not start.finite:
        return Found(0.0, NOT_FINITE)
    for sign in (1.0, -1.0) if try_negative else (1.0,):
        alpha = sign * init
        for _ in range(maxiter):
            if min_alpha is not None and abs(alpha) < min_alpha:
                break
            loss = phi(alpha)
            if loss == start.loss and not moves(alpha):
                return Found(0.0, NO_MOVE)  # a smaller one would not either
            if loss <= start.loss + c * min(alpha * start.slope, 0.0) + 0.5 * rounding:
                return Found(alpha)
            alpha *= beta
    return Found(0.0, NO_DECREASE)


def strong_wolfe(
    phi: Callable[[float], tuple[float, float]],
    start: Point,
    *,
    init: float = 1.0,
    c1: float = 1e-4,
    c2: float = 0.9,
    maxiter: int = 25,
    maxzoom: int = 10,
    expand: float = 2.0,
    rounding: float = 0.0,
    reach: float = 1.0,
) -> Found:
    """A step size with the strong Wolfe conditions: φ(α) ≤ φ(0) + c1·α·φ'(0) and |φ'(α)| ≤ −c2·φ'(0).

    The step size grows by ``expand`` until an interval holds such a point; the minimiser of the cubic through both
    ends then narrows it.

    Near a minimum a decrease is lost in the rounding of the loss. There the slope, which is not, says as much: for a
    parabola the first condition is φ'(α) ≤ (2·c1 − 1)·φ'(0), and this is asked for where the loss is that of the
    start, or below it by no more than ``rounding``. A loss above that of the start never will do.

    Args:
        phi: loss and slope at a step size.
        start: φ and its slope at zero.
        init: the first step size to try.
        c1: the share of the predicted decrease that is asked for.
        c2: the share of the slope that may be left.
        maxiter: largest number of step sizes to try while growing.
        maxzoom: largest number of step sizes to try while narrowing.
        expand: the factor of growth.
        rounding: the distance of numbers around the loss.
        reach: the step size grows by up to so many times ``expand`` where the minimiser of the cubic lies farther.

    Returns:
        The step size; without the second condition where the counts ran out (status "curvature condition not met"),
        0 where not even the first could be met.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6; for the slope in place of the
    loss: Hager and Zhang, SIAM J. Optimization 16, 2005.

    Example:
        >>> strong_wolfe(lambda a: ((a - 5) ** 2, 2 * (a - 5)), Point(0.0, 25.0, -10.0), c2=0.1)
        Found(alpha=5.0, status='ok')
    """
    if not start.finite:
        return Found(0.0, NOT_FINITE)
    if start.slope >= 0:
        return Found(0.0, ASCENT if start.slope > 0 else ZERO_SLOPE)
    wolfe = _Wolfe(start, c1, c2, rounding)
    low, alpha = start, init
    for i in range(maxiter):
        point = Point(alpha, *phi(alpha))
        if wolfe.done(point):
            return Found(point.alpha)
        if not wolfe.decreased(point) or (i > 0 and point.loss >= low.loss + rounding):
            return _zoom(phi, wolfe, low, point, maxzoom)
        if point.slope >= 0:
            return _zoom(phi, wolfe, point, low, maxzoom)
        low, alpha = point, alpha * (expand if reach <= 1 else _growth(low, point, expand, reach))
    return Found(low.alpha, NO_CURVATURE)


class _Wolfe(NamedTuple):
    """The strong Wolfe conditions, with the rounding of the loss allowed for."""

    start: Point
    c1: float
    c2: float
    rounding: float

    def decreased(self, point: Point) -> bool:
        """Whether the first holds."""
        if not point.finite:
            return False
        start, c1 = self.start, self.c1
        if point.loss <= start.loss + c1 * point.alpha * start.slope:
            return True
        lost = 0 <= start.loss - point.loss <= self.rounding
        return lost and point.slope <= (2 * c1 - 1) * start.slope

    def done(self, point: Point) -> bool:
        """Whether both hold."""
        return self.decreased(point) and abs(point.slope) <= -self.c2 * self.start.slope


def _zoom(phi: Callable[[float], tuple[float, float]], wolfe: _Wolfe, low: Point, high: Point, maxzoom: int) -> Found:
    """Narrow an interval that holds a step size with both conditions.

    ``low`` always has the decrease (or is the start) and the lowest loss so far, and its slope points towards ``high``.
    """
    widths = [math.inf, math.inf]
    for _ in range(maxzoom):
        width = abs(high.alpha - low.alpha)
        if width <= 1e-15 * max(abs(low.alpha), abs(high.alpha)):
            break
        # from the start on the first step size may be far off, and on a parabola the cubic is exact
        margin = FAR if low is wolfe.start else NEAR
        alpha = _inside(low, high, margin) if width <= 0.7 * widths[-2] else 0.5 * (low.alpha + high.alpha)
        widths.append(width)
        point = Point(alpha, *phi(alpha))
        if wolfe.done(point):
            return Found(point.alpha)
        if not wolfe.decreased(point) or point.loss >= low.loss + wolfe.rounding:
            high = point
            continue
        if point.slope * (high.alpha - low.alpha) >= 0:
            high = low
        low = point
    return Found(low.alpha, NO_CURVATURE if low.alpha > 0 else NO_DECREASE)


#: How far from the ends of an interval its cubic is trusted, as shares of it.
FAR, NEAR = 0.001, 0.1
#: The least growth of a step size.
LEAST = 1.1


def _inside(a: Point, b: Point, margin: float) -> float:
    """The minimiser of the cubic through two points, kept away from both by shares of the interval; or the middle."""
    width = b.alpha - a.alpha
    alpha = _cubic(a, b) if b.finite else math.nan
    lower, upper = sorted((a.alpha + margin * width, b.alpha - NEAR * width))
    return min(max(alpha, lower), upper) if math.isfinite(alpha) else 0.5 * (a.alpha + b.alpha)


def _growth(a: Point, b: Point, expand: float, reach: float) -> float:
    """How much farther than b, to which the loss falls, the minimiser of the cubic or of the parabola may be."""
    alpha = _cubic(a, b)
    if not alpha > b.alpha:
        alpha = b.alpha - b.slope * (b.alpha - a.alpha) / (b.slope - a.slope) if b.slope > a.slope else math.inf
    return min(max(alpha / b.alpha, LEAST), reach * expand)


def _cubic(a: Point, b: Point) -> float:
    """The minimiser of the cubic through two points with their slopes; NaN where it has none."""
    width = b.alpha - a.alpha
    d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return math.nan
    d2 = math.copysign(math.sqrt(square), width)
    divisor = b.slope - a.slope + 2 * d2
    return math.nan if divisor == 0 else b.alpha - width * (b.slope + d2 - d1) / divisor
