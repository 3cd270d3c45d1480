"""NLOpt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...core.packages import required
from .base import Array, Bound, VectorFunction, Wrapper


class NLOptOptimizer(Wrapper):
    """An algorithm of NLOpt as an optimizer: one step is one whole minimisation.

    Algorithms whose name begins with ``LD_`` or ``GD_`` use gradients, the others only losses. A start outside the
    bounds is moved to them first. The parameters end at the lowest point that was evaluated.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        algorithm: the name, such as "LN_BOBYQA", "LD_LBFGS" or "GN_DIRECT_L", or NLOpt's constant.
        maxeval: largest number of evaluations; None for no limit.
        lb: lower bounds: a number, or an array or tensor of the parameters' shape. Global algorithms need both.
        ub: upper bounds.
        stopval: a loss that is low enough.
        ftol_rel: relative tolerance of the loss.
        ftol_abs: absolute tolerance of the loss.
        xtol_rel: relative tolerance of the parameters.
        xtol_abs: absolute tolerance of the parameters.
        maxtime: seconds.

    Attributes:
        result: how the last step ended, in a word of NLOpt's, such as "MAXEVAL_REACHED".
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: NLOpt is not installed.
        ValueError: an unknown algorithm, or a global one without finite bounds.

    Reference:
        S. G. Johnson, The NLopt nonlinear-optimization package.
    """

    def __init__(
        self,
        params: Iterable[Any],
        algorithm: str | int,
        maxeval: int | None,
        lb: Bound = None,
        ub: Bound = None,
        stopval: float | None = None,
        ftol_rel: float | None = None,
        ftol_abs: float | None = None,
        xtol_rel: float | None = None,
        xtol_abs: float | None = None,
        maxtime: float | None = None,
    ) -> None:
        nlopt = required("nlopt", "nlopt", "NLOptOptimizer")
        self.algorithm = getattr(nlopt, algorithm.upper(), None) if isinstance(algorithm, str) else algorithm
        if not isinstance(self.algorithm, int):
            raise ValueError(f"NLOpt has no algorithm {algorithm!r}; one is 'LN_BOBYQA', another 'LD_LBFGS'.")
        self.stops = dict(
            maxeval=maxeval, stopval=stopval, ftol_rel=ftol_rel, ftol_abs=ftol_abs, xtol_rel=xtol_rel,
            xtol_abs=xtol_abs, maxtime=maxtime,
        )  # fmt: skip
        names = [name for name, value in vars(nlopt).items() if name[:1] == "G" and value == self.algorithm]
        self.bounded = bool(names)
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> str:
        """Run NLOpt."""
        nlopt = required("nlopt", "nlopt", "NLOptOptimizer")
        opt = nlopt.opt(self.algorithm, objective.x0.size)

        def fun(x: Array, grad: Array) -> float:
            try:
                if not grad.size:
                    return objective(x)
                value = objective.with_gradient(x)
                grad[:] = objective.gradient(x)
                return value
            except BaseException as error:
                raise nlopt.ForcedStop from error

        opt.set_min_objective(fun)
        if bool(np.isfinite(objective.lower).any()):
            opt.set_lower_bounds(objective.lower)
        if bool(np.isfinite(objective.upper).any()):
            opt.set_upper_bounds(objective.upper)
        for name, value in self.stops.items():
            if value is not None:
                getattr(opt, f"set_{name}")(value)
        try:
            opt.optimize(objective.x0)
            words = {v: k for k, v in vars(nlopt).items() if k in ENDS}
            return words.get(opt.last_optimize_result(), "FAILURE")
        except (RuntimeError, nlopt.RoundoffLimited, nlopt.ForcedStop) as ended:
            return "ROUNDOFF_LIMITED" if isinstance(ended, nlopt.RoundoffLimited) else "FAILURE"


#: The names of NLOpt's results.
ENDS = {"SUCCESS", "STOPVAL_REACHED", "FTOL_REACHED", "XTOL_REACHED", "MAXEVAL_REACHED", "MAXTIME_REACHED"}
