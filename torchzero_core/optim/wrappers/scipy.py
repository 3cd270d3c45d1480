"""The minimisers of scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...core.packages import required
from .base import Array, Bound, VectorFunction, Wrapper, seed_or_drawn

#: What scipy's methods make use of. It warns of, or ignores, what a method does not.
TAKE_GRADIENT = {
    *("cg", "bfgs", "newton-cg", "l-bfgs-b", "tnc", "slsqp"),
    *("dogleg", "trust-ncg", "trust-krylov", "trust-exact", "trust-constr"),
}
TAKE_HESSIAN = {"newton-cg", "dogleg", "trust-ncg", "trust-krylov", "trust-exact", "trust-constr"}
TAKE_BOUNDS = {"nelder-mead", "l-bfgs-b", "tnc", "slsqp", "powell", "trust-constr", "cobyla", "cobyqa"}


class ScipyMinimize(Wrapper):
    """``scipy.optimize.minimize`` as an optimizer: one step is one whole minimisation.

    The parameters end at the lowest point that was evaluated within the bounds; with constraints at the point that
    scipy returns. A start outside the bounds is moved to them first.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        method: a name of scipy's, or a function; by default BFGS, with bounds L-BFGS-B, with constraints SLSQP.
        lb: lower bounds: a number, or an array or tensor of the parameters' shape.
        ub: upper bounds.
        constraints: scipy's, as functions of one vector of all parameters in order.
        tol: the method's tolerance.
        callback: scipy's.
        options: of the method.
        jac: "autograd", or what scipy takes: a name of finite differences, or a function of the vector. None: finite
            differences.
        hess: "autograd", or what scipy takes; only methods with a Hessian use it.
        tikhonov: added to the diagonal of an autograd Hessian.
        min_eigval: smaller eigenvalues of an autograd Hessian are raised to it.

    Attributes:
        result: scipy's result of the last step.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: scipy is not installed.
        ValueError: bounds for a method that has none, or bounds that leave nothing.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.optim.wrappers.ScipyMinimize([p], "trust-exact")
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item() < 1e-12, p.detach().round(decimals=4)
        (True, tensor([1., 1.], dtype=torch.float64))
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: str | Callable[..., Any] | None = None,
        lb: Bound = None,
        ub: Bound = None,
        constraints: Any = None,
        tol: float | None = None,
        callback: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        jac: Any = "autograd",
        hess: Any = "autograd",
        tikhonov: float = 0,
        min_eigval: float | None = None,
    ) -> None:
        required("scipy.optimize", "scipy", "ScipyMinimize")
        self.method, self.tol, self.callback = method, tol, callback
        self.constraints = () if constraints is None else constraints
        self.options, self.jac, self.hess = options, jac, hess
        self.tikhonov, self.min_eigval = tikhonov, min_eigval
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> Any:
        """Run scipy."""
        constrained = bool(self.constraints) if isinstance(self.constraints, (list, tuple, dict)) else True
        bounded = bool(np.isfinite(objective.lower).any() or np.isfinite(objective.upper).any())
        method = self.method or ("SLSQP" if constrained else "L-BFGS-B" if bounded else "BFGS")
        name = method.lower() if isinstance(method, str) else None
        kwargs: dict[str, Any] = {}
        fun: Callable[[Array], float] = objective
        if name is None or name in TAKE_GRADIENT:
            exact = isinstance(self.jac, str) and self.jac == "autograd"
            fun = objective.with_gradient if exact else objective
            kwargs["jac"] = objective.gradient if exact else self.jac
        if name is None or name in TAKE_HESSIAN:
            exact = isinstance(self.hess, str) and self.hess == "autograd"
            kwargs["hess"] = (lambda x: objective.hessian(x, self.tikhonov, self.min_eigval)) if exact else self.hess
        scipy = required("scipy.optimize", "scipy", "ScipyMinimize")
        if bounded:
            if name is not None and name not in TAKE_BOUNDS:
                raise ValueError(f"The method {method!r} of scipy has no bounds; L-BFGS-B, for example, has them.")
            kwargs["bounds"] = scipy.Bounds(objective.lower, objective.upper)
        result = scipy.minimize(
            fun,
            objective.x0,
            method=method,
            constraints=self.constraints,
            tol=self.tol,
            callback=self.callback,
            options=None if self.options is None else dict(self.options),
            **kwargs,
        )
        if constrained:
            objective.keep(result.x)
        return result


class ScipyRootOptimization(Wrapper):
    """``scipy.optimize.root`` on the gradient: one step looks for a point where it is zero.

    That may be a minimum, a maximum or a saddle point. The parameters end where the gradient was smallest.

    Args:
        params: tensors or groups.
        method: a name of scipy's; by default "hybr".
        tol: the method's tolerance.
        callback: scipy's; only some methods call it.
        options: of the method.
        jac: the derivative of the gradient, for the methods "hybr" and "lm": "autograd" for the Hessian, a function of
            the vector of all parameters, or None for finite differences.
        tikhonov: added to the diagonal of an autograd Hessian.
        min_eigval: smaller eigenvalues of an autograd Hessian are raised to it.

    Attributes:
        result: scipy's result of the last step.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: scipy is not installed.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.optim.wrappers.ScipyRootOptimization([p])
        >>> def closure(backward=True):
        ...     loss = ((p - 1) ** 2).sum() + ((p - 1) ** 4).sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item() < 1e-12, p.detach().round(decimals=4)
        (True, tensor([1., 1.], dtype=torch.float64))
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: str | None = None,
        tol: float | None = None,
        callback: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        jac: Any = "autograd",
        tikhonov: float = 0,
        min_eigval: float | None = None,
    ) -> None:
        required("scipy.optimize", "scipy", "ScipyRootOptimization")
        self.method, self.tol, self.callback, self.options = method, tol, callback, options
        self.jac, self.tikhonov, self.min_eigval = jac, tikhonov, min_eigval
        super().__init__(params)

    def minimize(self, objective: VectorFunction) -> Any:
        """Run scipy."""
        method = self.method or "hybr"
        jac = None
        if method.lower() in ("hybr", "lm"):
            exact = isinstance(self.jac, str) and self.jac == "autograd"
            jac = (lambda x: objective.hessian(x, self.tikhonov, self.min_eigval)) if exact else self.jac
        smallest = np.inf
        where = objective.x0

        def fun(x: Array) -> Array:
            nonlocal smallest, where
            gradient = objective.gradient(np.asarray(x, np.float64))
            norm = float(np.linalg.norm(gradient))
            if norm < smallest:
                smallest, where = norm, np.array(x, np.float64)
            return gradient

        scipy = required("scipy.optimize", "scipy", "ScipyRootOptimization")
        options = None if self.options is None else dict(self.options)
        callback = {} if self.callback is None else {"callback": self.callback}
        result = scipy.root(fun, objective.x0, method=method, jac=jac, tol=self.tol, options=options, **callback)
        objective.keep(where)
        return result


class ScipyDE(Wrapper):
    """``scipy.optimize.differential_evolution`` as an optimizer: one step is one whole minimisation.

    The present parameters, moved into the bounds, are part of the first population. Only losses are evaluated.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        lb: lower bounds, which all elements need: a number, or an array or tensor of the parameters' shape.
        ub: upper bounds.
        strategy: and the others, see scipy.
        maxiter: largest number of generations.
        popsize: size of the population, as a multiple of the number of elements.
        tol: relative tolerance.
        mutation: a number or a range.
        recombination: the crossover probability.
        seed: of the random numbers; None draws one from torch's generator.
        callback: scipy's.
        polish: improve the best point by L-BFGS-B, or trust-constr with constraints, in the end.
        init: how the first population is made.
        atol: absolute tolerance.
        updating: "immediate" or "deferred".
        constraints: scipy's, as functions of one vector of all parameters in order.

    Attributes:
        result: scipy's result of the last step.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: scipy is not installed.
        ValueError: an element without finite bounds.

    Reference:
        Storn and Price, "Differential Evolution", Journal of Global Optimization 11, 1997.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.optim.wrappers.ScipyDE([p], lb=-5, ub=5, seed=0)
        >>> optimizer.step(lambda backward=True: (p**2 - (5 * p).cos()).sum()).round(decimals=6)
        tensor(-2., dtype=torch.float64)
    """

    bounded = True

    def __init__(
        self,
        params: Iterable[Any],
        lb: Bound = None,
        ub: Bound = None,
        strategy: Any = "best1bin",
        maxiter: int = 1000,
        popsize: int = 15,
        tol: float = 0.01,
        mutation: float | tuple[float, float] = (0.5, 1),
        recombination: float = 0.7,
        seed: int | None = None,
        callback: Callable[..., Any] | None = None,
        polish: bool = True,
        init: Any = "latinhypercube",
        atol: float = 0,
        updating: str = "immediate",
        constraints: Any = None,
    ) -> None:
        required("scipy.optimize", "scipy", "ScipyDE")
        self.settings = dict(
            strategy=strategy, maxiter=maxiter, popsize=popsize, tol=tol, mutation=mutation,
            recombination=recombination, callback=callback, polish=polish, init=init, atol=atol, updating=updating,
            constraints=() if constraints is None else constraints,
        )  # fmt: skip
        self.seed = seed
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> Any:
        """Run scipy."""
        scipy = required("scipy.optimize", "scipy", "ScipyDE")
        bounds = scipy.Bounds(objective.lower, objective.upper)
        result = scipy.differential_evolution(
            objective, bounds, x0=objective.x0, seed=seed_or_drawn(self.seed), **self.settings
        )
        if not isinstance(self.settings["constraints"], tuple) or self.settings["constraints"]:
            objective.keep(result.x)
        return result


class ScipyDualAnnealing(Wrapper):
    """``scipy.optimize.dual_annealing`` as an optimizer: one step is one whole minimisation.

    It starts from the present parameters, moved into the bounds. Its local searches use gradients by autograd.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        lb: lower bounds, which all elements need: a number, or an array or tensor of the parameters' shape.
        ub: upper bounds.
        maxiter: and the others, see scipy: largest number of iterations.
        minimizer_kwargs: of the local searches by ``scipy.optimize.minimize``; by default L-BFGS-B.
        initial_temp: the temperature at the start.
        restart_temp_ratio: a temperature lower than this part of it restarts the annealing.
        visit: how far the visiting distribution reaches.
        accept: how probably a worse point is accepted.
        maxfun: about the largest number of evaluations.
        seed: of the random numbers; None draws one from torch's generator.
        no_local_search: anneal only, which evaluates no gradients.
        callback: scipy's.

    Attributes:
        result: scipy's result of the last step.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: scipy is not installed.
        ValueError: an element without finite bounds.

    Reference:
        Xiang et al., "Generalized Simulated Annealing Algorithm", Physics Letters A 233, 1997.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.optim.wrappers.ScipyDualAnnealing([p], lb=-5, ub=5, maxiter=50, seed=0)
        >>> def closure(backward=True):
        ...     loss = (p**2 - (5 * p).cos()).sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> round(optimizer.step(closure).item(), 6)
        -2.0
    """

    bounded = True

    def __init__(
        self,
        params: Iterable[Any],
        lb: Bound = None,
        ub: Bound = None,
        maxiter: int = 1000,
        minimizer_kwargs: Mapping[str, Any] | None = None,
        initial_temp: float = 5230.0,
        restart_temp_ratio: float = 2e-5,
        visit: float = 2.62,
        accept: float = -5.0,
        maxfun: float = 1e7,
        seed: int | None = None,
        no_local_search: bool = False,
        callback: Callable[..., Any] | None = None,
    ) -> None:
        required("scipy.optimize", "scipy", "ScipyDualAnnealing")
        self.settings = dict(
            maxiter=maxiter, initial_temp=initial_temp, restart_temp_ratio=restart_temp_ratio, visit=visit,
            accept=accept, maxfun=maxfun, no_local_search=no_local_search, callback=callback,
        )  # fmt: skip
        self.minimizer_kwargs, self.seed = minimizer_kwargs, seed
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> Any:
        """Run scipy."""
        scipy = required("scipy.optimize", "scipy", "ScipyDualAnnealing")
        bounds = scipy.Bounds(objective.lower, objective.upper)
        local = self.minimizer_kwargs
        if local is None:
            local = {"method": "L-BFGS-B", "jac": objective.gradient, "bounds": bounds}
        try:
            return scipy.dual_annealing(
                objective,
                bounds,
                x0=objective.x0,
                seed=seed_or_drawn(self.seed),
                minimizer_kwargs=dict(local),
                **self.settings,
            )
        except ValueError:
            if objective.best < math.inf or not objective.evaluations:
                raise
            return None  # it gives up where it meets no finite loss
