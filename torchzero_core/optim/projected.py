"""Limited-memory BFGS within bounds."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from ..core.home import StepInfo
from ..linalg import flatten, unflatten_as
from .bounds import Bounds
from .objective import Objective, Point
from .unknowns import Unknowns

#: Elements nearer to a bound than this, and than the projected gradient is long, count as being there.
NEAR = 1e-3
#: The share of the predicted decrease that is asked for, and of the slope that may be left before a step grows.
ARMIJO, STEEP = 1e-4, 0.9
#: So many step sizes are tried, and a step doubles so often.
TRIES, DOUBLINGS = 40, 20


class ProjectedLBFGS:
    r"""L-BFGS with projection onto bounds, after Bertsekas.

    .. math:: x(α) = P(x + α·d), \qquad d_F = -H_F\, g_F, \quad d_A = -g_A

    A are the elements at a bound, or close to it, that the gradient pushes towards it; they take a gradient step, which
    puts them on the bound. The others, F, take a step of L-BFGS made from the parts of the pairs (s, y) that lie in F
    alone. α is 1, or halved until f(x(α)) ≤ f(x) + c·g'(x(α) − x), or doubled while the slope stays steep and f falls.

    Args:
        unknowns: what it moves.
        bounds: where they may be; they are moved there at once.
        history: the number of pairs; 0 for projected gradient descent.

    Attributes:
        last_step: how the last step went.

    Reference: D. P. Bertsekas, Projected Newton Methods for Optimization Problems with Simple Constraints, SIAM J.
    Control and Optimization 20, 1982; for the parts of pairs: M. Schmidt et al., AISTATS 2009.
    """

    def __init__(self, unknowns: Unknowns, bounds: Bounds, history: int = 10) -> None:
        self._unknowns = unknowns
        self._lower, self._upper = flatten(bounds.lower).clone(), flatten(bounds.upper).clone()
        self._pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=history)
        self._length = 0.0
        self._plain = history == 0
        self.last_step = StepInfo()
        unknowns.move(bounds.clamp(unknowns.leaves))

    def restart(self) -> None:
        """Forget all pairs."""
        self._pairs.clear()
        self._length = 0.0

    def step(self, objective: Objective) -> None:
        """Make a step, or leave the unknowns where they are.

        Args:
            objective: the function.
        """
        start = objective.at(backward=True)
        x, g, loss = self._vector(start.x), self._gradient(start), float(start.loss)
        self.last_step = StepInfo(loss=start.loss)
        d, length = self._direction(x, g)
        rounding = 0.5 * math.ulp(loss) * torch.finfo(start.loss.dtype).eps / torch.finfo(torch.float64).eps
        taken: tuple[float, Tensor, Point] | None = None
        alpha = length
        try:
            for _ in range(TRIES):
                y, point = self._try(objective, x, d, alpha)
                predicted = min(float(g @ (y - x)), 0.0)
                if float(point.loss) <= loss + ARMIJO * predicted + rounding:
                    taken = alpha, y, point
                    break
                if torch.equal(y, x):
                    break
                alpha /= 2
            if taken is not None and taken[0] == length:
                taken = self._grow(objective, x, g, d, taken)
        finally:
            end = start if taken is None else taken[2]
            self._unknowns.move(end.x)
        if taken is None or torch.equal(taken[1], x):
            self.last_step.status, self.last_step.step_size = "no sufficient decrease", 0.0
            return
        alpha, y, point = taken
        self.last_step.step_size, self.last_step.accepted_loss = alpha, float(point.loss)
        self._learn(y - x, self._gradient(point) - g, alpha)

    def _direction(self, x: Tensor, g: Tensor) -> tuple[Tensor, float]:
        """The direction, and the first step size to try along it."""
        lower, upper = self._lower, self._upper
        gap = float((x - (x - g).clamp(lower, upper)).norm())
        near = min(NEAR, gap)
        width = torch.minimum(torch.full_like(x, near), (upper - lower) / 4)
        free = ~((x <= lower + width) & (g > 0) | (x >= upper - width) & (g < 0))
        first = self._length if self._length and self._plain else 1 / max(float(g[free].abs().sum()), 1.0)
        q = torch.where(free, -g, 0.0)
        pairs = []
        for s, y in reversed(self._pairs):
            s, y = torch.where(free, s, 0.0), torch.where(free, y, 0.0)
            sy = float(s @ y)
            if sy > 1e-10 * float(s.norm() * y.norm()):
                pairs.append((s, y, sy))
        shares = []
        for s, y, sy in pairs:
            shares.append(float(s @ q) / sy)
            q = q - shares[-1] * y
        if pairs:
            s, y, sy = pairs[0]
            q = q * (sy / float(y @ y))
        for (s, y, sy), share in zip(reversed(pairs), reversed(shares), strict=True):
            q = q + (share - float(y @ q) / sy) * s
        return torch.where(free, q, -g), 1.0 if pairs else first

    def _grow(
        self, objective: Objective, x: Tensor, g: Tensor, d: Tensor, taken: tuple[float, Tensor, Point]
    ) -> tuple[float, Tensor, Point]:
        """Double a step while it stays steep and leads farther down."""
        for _ in range(DOUBLINGS):
            alpha, y, point = taken
            before, after = float(g @ (y - x)), float(self._gradient(point) @ (y - x))
            if not after < STEEP * before < 0:
                break
            farther, further = self._try(objective, x, d, 2 * alpha)
            if not float(further.loss) < float(point.loss) or torch.equal(farther, y):
                break
            taken = 2 * alpha, farther, further
        return taken

    def _try(self, objective: Objective, x: Tensor, d: Tensor, alpha: float) -> tuple[Tensor, Point]:
        """Evaluate at a step size."""
        y = (x + alpha * d).clamp(self._lower, self._upper)
        self._unknowns.move(unflatten_as(y, self._unknowns.leaves))
        return y, objective.at(backward=True)

    def _learn(self, s: Tensor, y: Tensor, alpha: float) -> None:
        self._length = 2 * alpha
        if float(s @ y) > 0:  # what is no curvature in all may still be some among the free ones, but seldom
            self._pairs.append((s, y))

    def _vector(self, tensors: list[Tensor]) -> Tensor:
        return flatten(tensors).clone()

    def _gradient(self, point: Point) -> Tensor:
        assert point.grads is not None
        return self._vector(
            [torch.zeros_like(x) if g is None else g for x, g in zip(point.x, point.grads, strict=True)]
        )


__all__ = ["ProjectedLBFGS"]
