"""BiteOpt."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...core.packages import required
from .base import Bound, VectorFunction, Wrapper


class BiteOptOptimizer(Wrapper):
    """BiteOpt, a derivative-free global method, as an optimizer: one step is one whole minimisation.

    The parameters end at the lowest point that was evaluated; the start is not one of them. Its random numbers are the
    same in every step.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        maxiter: evaluations of one attempt.
        lb: lower bounds, which all elements need: a number, or an array or tensor of the parameters' shape.
        ub: upper bounds.
        depth: of the method, 1 to 36; more for harder problems, with more evaluations.
        attempts: how often it starts.

    Attributes:
        result: the vector of all parameters that BiteOpt returned from the last step.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: BiteOpt is not installed.
        ValueError: an element without finite bounds.

    Reference:
        A. Vaneev, BITEOPT: derivative-free optimization method, github.com/avaneev/biteopt.
    """

    bounded = True

    def __init__(
        self,
        params: Iterable[Any],
        maxiter: int = 1000,
        lb: Bound = None,
        ub: Bound = None,
        depth: int = 1,
        attempts: int = 10,
    ) -> None:
        required("biteopt", "biteopt", "BiteOptOptimizer")
        self.maxiter, self.depth, self.attempts = maxiter, depth, attempts
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> list[float]:
        """Run BiteOpt."""
        biteopt = required("biteopt", "biteopt", "BiteOptOptimizer")

        def fun(x: Any) -> float:
            try:  # it cannot be stopped, and an exception would break it
                return math.inf if objective.error is not None else objective(np.asarray(x, np.float64))
            except BaseException:
                return math.inf

        bounds = objective.lower.tolist(), objective.upper.tolist()
        found: list[float] = biteopt.minimize(fun, *bounds, self.maxiter, self.depth, self.attempts)
        return found
