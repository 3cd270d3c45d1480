"""A function of tensors, minimised in one call."""

from __future__ import annotations

import inspect
import math
import numbers
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..core import Modular, Modules, stopping
from ..core.stopping import MaxEvaluations, MaxTime, Progress, StoppingRule
from .bounds import Bounds
from .elsewhere import absent, refusal
from .methods import (
    Problem,
    SeenGradient,
    approximates,
    chain_of,
    pairs_within_bounds,
    searches,
    sees_gradient,
    takes_residuals,
    without_gradient,
)
from .objective import LimitReached, Objective, Point
from .projected import ProjectedLBFGS
from .unknowns import Unknowns

#: After so many steps without a lower loss the loss has stalled: with a line search, and without one.
PATIENCE_OF_SEARCH, PATIENCE = 5, 100
MAXITER = 15_000
#: Values that differ by so little, relative to 1 or their size, are as good as each other.
SAME = 1e-8
#: Values at one point that differ by more, relative to their size, come from random numbers and not from rounding.
RANDOM = 1e-4


@dataclass
class MinimizeResult:
    """What :func:`minimize` has found, with scipy's names, as attributes or as ``result["x"]``.

    Attributes:
        x: the best point, in the structure of ``x0``; a model itself, whose parameters are there.
        fun: the value there.
        jac: the gradient there, in the structure of ``x0`` (of a model a dict by name); None where none is known.
        grad_norm: its largest element; with bounds that of the projected gradient x − P(x − g). None where it is not
            known.
        nit: how many steps were made.
        nfev: how often the function was evaluated.
        njev: how many of these evaluations had a gradient.
        status: 0 converged, 1 a limit was reached, 2 no lower point was found or the value seems unbounded below, 3 not
            finite, 98 interrupted, 99 stopped by the callback.
        success: whether it converged.
        message: why it ended, as a sentence.
        seconds: how long it took.
    """

    x: Any
    fun: float
    jac: Any
    grad_norm: float | None
    nit: int
    nfev: int
    njev: int
    status: int
    success: bool
    message: str
    seconds: float

    def keys(self) -> list[str]:
        """The names of what it has, so that ``dict(result)`` is made of them."""
        return [field.name for field in fields(self)]

    def __getitem__(self, name: str) -> Any:
        """What has a name, as scipy's results give it too: ``result["x"]``."""
        if name not in self.keys():
            raise KeyError(absent(name, self.keys()))
        return getattr(self, name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(absent(name, self.keys()))

    def __repr__(self) -> str:
        lines = [f"{name:>9}: {value!r}" for name, value in vars(self).items()]
        return "\n".join(line.replace("\n", "\n" + " " * 11) for line in lines)


class _Ended(StoppingRule):
    """An end that no rule has asked for.

    Args:
        code: scipy's number.
        message: the sentence.
        success: whether it counts as convergence.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__()
        self.code, self._message = code, message

    @property
    def message(self) -> str:
        return self._message


class _Stalled(stopping.LossChange):
    """A loss that has stalled without anybody's having said that this is enough: a step size may be too large."""

    code = 2

    @property
    def message(self) -> str:
        """Why it stops, as a sentence."""
        return (
            f"No lower point was found in the last {self.patience} steps; say ftol if that is what you want, or choose "
            "a smaller learning rate."
        )


class _Printer:
    """Prints a line that is written over, or, where that cannot be, a line a second.

    Args:
        on: whether it prints at all.
    """

    def __init__(self, on: bool) -> None:
        self._on, self._next, self._over = on, 0.0, sys.stderr.isatty()

    def show(self, result: MinimizeResult, *, last: bool = False) -> None:
        """Print where it is.

        Args:
            result: so far.
            last: whether this is the end of it.
        """
        now = time.monotonic()
        if not self._on or (now < self._next and not last):
            return
        self._next = now + (0.1 if self._over else 1.0)
        norm = "" if result.grad_norm is None else f", |g| {result.grad_norm:.3e}"
        text = f"step {result.nit}, f {result.fun:.6e}{norm}, {result.nfev} evaluations, {result.seconds:.1f} s"
        text += f". {result.message}" if last else ""
        sys.stderr.write(f"\r\x1b[K{text}" + "\n" * last if self._over else f"{text}\n")
        sys.stderr.flush()


class _Allowed:
    """Ends a run in the middle of a step where a limit does not allow one more evaluation.

    Args:
        rules: the limits.
    """

    def __init__(self, rules: Sequence[StoppingRule]) -> None:
        self._rules = rules

    def __call__(self, evaluations: int) -> None:
        """Raise :class:`LimitReached` if so many are enough; the first one is always allowed."""
        for rule in self._rules if evaluations else ():
            if rule.met(Progress(evaluations=evaluations)):
                raise LimitReached(rule)


class _Run:
    """The loop.

    Args:
        unknowns: what is minimised over.
        objective: the closure.
        optimizer: the chain, or the method that keeps to bounds.
        rule: when to stop.
        bounds: what the unknowns keep to.
        backward: whether the function's own gradient is known at each point.
        callback: called after each step.
        disp: whether to print where it is.
    """

    def __init__(
        self,
        unknowns: Unknowns,
        objective: Objective,
        optimizer: Modular | ProjectedLBFGS,
        rule: StoppingRule,
        *,
        bounds: Bounds | None,
        backward: bool,
        callback: Callable[[MinimizeResult], Any] | None,
        disp: bool,
    ) -> None:
        self.unknowns, self.objective, self.optimizer, self.rule = unknowns, objective, optimizer, rule
        self.bounds, self.backward, self.callback, self.printer = bounds, backward, callback, _Printer(disp)
        modules = optimizer.unrolled_modules if isinstance(optimizer, Modular) else []
        self.seen = next((m for m in modules if isinstance(m, SeenGradient)), None)
        self.nit, self.begin = 0, time.monotonic()

    def run(self) -> MinimizeResult:
        """Make steps until it is time to stop."""
        try:
            end = self._steps()
        except LimitReached as limit:
            end = limit.args[0]
        except KeyboardInterrupt:
            if self.objective.best is None:
                raise
            end = _Ended(98, "Interrupted; x is the best point so far.")
        best = self._best(end)
        self.unknowns.move(best.x)
        end = self._explained(end, best)
        result = self.result(best, end)
        self.printer.show(result, last=True)
        return result

    def _steps(self) -> StoppingRule:
        move: list[Tensor] | None = None
        failed = False
        while True:
            point = self.objective.at(backward=self.backward)
            if self.rule.met(self._progress(point, move)):
                return self.rule.reason()
            if failed:  # what it has learnt leads nowhere: it begins again with the gradient
                self.optimizer.restart()
            if self.nit and (end := self._report(point)) is not None:
                return end
            before = self.unknowns.copies() if "move" in self.rule.needs else None
            self.optimizer.step(self.objective)
            self.nit += 1
            failed = self.optimizer.last_step.status != "ok"
            if before is not None:
                move = [x.detach() - b for x, b in zip(self.unknowns.leaves, before, strict=True)]

    def _progress(self, point: Point, move: list[Tensor] | None) -> Progress:
        return Progress(
            steps=self.nit,
            evaluations=self.objective.nfev,
            loss=point.loss,
            grads=self._open(point) if self.seen is None else self.seen.here(self.unknowns.leaves),
            params=self.unknowns.leaves,
            move=move,
            **stopping.outcome(self.optimizer.last_step),
        )

    def _open(self, point: Point) -> Sequence[Tensor | None] | None:
        """The gradient at a point; with bounds, as far as the way is open."""
        return point.grads if self.bounds is None or point.grads is None else self.bounds.gradient(point.x, point.grads)

    def _report(self, point: Point) -> StoppingRule | None:
        """Print and call the callback, which may end it."""
        result = self.result(point, _Ended(0, "In progress."))
        result.success = False
        self.printer.show(result)
        if self.callback is None:
            return None
        try:
            stop = self.callback(result)
        except StopIteration:
            stop = True
        says = isinstance(stop, Tensor) and stop.dtype is torch.bool and stop.numel() == 1 and bool(stop)
        if says or (type(stop).__name__ in ("bool", "bool_") and bool(stop)):
            return _Ended(99, "The callback has stopped it.")
        return None

    def _best(self, end: StoppingRule) -> Point:
        """The best point, with its gradient where that is known or may be computed.

        Where the gradient has vanished, the point where it has is preferred to one that is lower by rounding alone.

        Args:
            end: why it ends.
        """
        best = self.objective.best
        assert best is not None
        if isinstance(end, stopping.GradNorm) and self.backward:
            here, lowest = self.objective.at(backward=True), float(best.loss)
            return here if float(here.loss) - lowest <= SAME * max(abs(lowest), 1.0) else best
        if best.grads is None and self.backward and end.code not in (1, 98):
            self.unknowns.move(best.x)
            return self.objective.at(backward=True)
        return best

    def _explained(self, end: StoppingRule, best: Point) -> StoppingRule:
        """Why it ends, where it is a function that gives something else each time that has no lower point.

        Args:
            end: why it ends as far as the steps say.
            best: the best point.
        """
        stalled = end.code == 2 or isinstance(end, stopping.LossChange)
        first = float(best.loss)
        if not (stalled and self.objective.deterministic and math.isfinite(first)):
            return end
        second = self.objective.once_more(best)
        if second is None or math.isclose(first, second, rel_tol=RANDOM):
            return end
        return _Ended(
            2,
            f"No lower point was found, and fun gave {first:.9g} and then {second:.9g} at the same point. Where it "
            "draws random numbers, say deterministic=False and take a method without a line search, such as 'adam'; or "
            "draw them once, outside of fun.",
        )

    def result(self, point: Point, end: StoppingRule) -> MinimizeResult:
        """The result that a point is.

        Args:
            point: the point.
            end: why it ends.
        """
        grads = point.grads
        norm = None if grads is None else Progress().norm(self._open(point) or [], math.inf)
        x = self.unknowns.model
        if grads is not None:
            grads = [torch.zeros_like(p) if g is None else g.clone() for g, p in zip(grads, point.x, strict=True)]
        return MinimizeResult(
            x=x if x is not None else self.unknowns.like_x0([t.clone() for t in point.x]),
            fun=float(point.loss),
            jac=None if grads is None else self.unknowns.like_x0(grads),
            grad_norm=norm,
            nit=self.nit,
            nfev=self.objective.nfev,
            njev=self.objective.njev,
            status=end.code,
            success=end.success and math.isfinite(float(point.loss)),
            message=end.message,
            seconds=time.monotonic() - self.begin,
        )


@torch.inference_mode(False)
def minimize(
    fun: Callable[..., Any],
    x0: Any,
    method: str | Modules | None = None,
    *,
    lr: float | None = None,
    tol: float | None = None,
    gtol: float | None = None,
    xtol: float | None = None,
    ftol: float | None = None,
    maxiter: int | None = None,
    maxfev: int | None = None,
    maxtime: float | None = None,
    stop: StoppingRule | Sequence[StoppingRule] | None = None,
    callback: Callable[[MinimizeResult], Any] | None = None,
    bounds: Any = None,
    disp: bool = False,
    deterministic: bool = True,
    compile: bool = False,
    **others: NoReturn,
) -> MinimizeResult:
    """Find a local minimum of a function.

    Gradients come from autograd. Where the value has no graph, because it is computed outside torch, the default
    method takes finite differences.

    Args:
        fun: a function of x that returns one number; for the methods "lm" and "gauss-newton", and chains that have
            ``GaussNewton``, the residuals, whose sum of squares is minimised. With a model as ``x0`` it takes the
            model, or nothing. A plain number, in the place of one computed from x, stands for a point outside of its
            domain and counts as infinite.
        x0: where to begin: a tensor, an array or numbers, or a list, tuple or dict of them; none of it is changed. Or
            an ``nn.Module``: its trainable parameters are moved, and end at the best point.
        method: a name ("lbfgs", "bfgs", "dfp", "sr1", "cg", "newton", "newton-cg", "nystrom-pcg", "trust-cg", "dogleg",
            "gd", "adam", "sgd", "lion"; without gradients "fdm", "spsa"; for residuals "lm", which is that of Levenberg
            and Marquardt, and "gauss-newton"), a module, or a list of modules. None:
            "lbfgs", which is ``[tz.m.LBFGS(), tz.m.StrongWolfe()]``; for a function without gradients "fdm", with more
            than 1000 unknowns "spsa".
        lr: the learning rate of "adam", "sgd", "lion" and "spsa".
        tol: the tolerance of the method: ``gtol``, or ``ftol`` where there is no gradient to look at ("spsa", and
            chains that approximate it), unless that is given too.
        gtol: converged where no element of the gradient is larger; 1e-5 by default, 1e-4 below float64.
        xtol: converged where a step is at most so long, relative to the length of x; by default not asked for.
        ftol: converged where the value f goes down by at most ftol·max(abs(f), 1): in one step of a method with a line
            search, in 100 of another and where fun is random. By default ten roundings, in five steps of a method with
            a line search.
        maxiter: at most so many steps; 15000 by default.
        maxfev: at most so many evaluations of the function.
        maxtime: at most so many seconds; an evaluation that has begun is ended.
        stop: further rules of :mod:`torchzero_core.core.stopping`.
        callback: ``callback(result)`` after each step, with the result so far; it ends the run by returning True or
            raising ``StopIteration``.
        bounds: lo ≤ x ≤ hi, kept by "lbfgs" and "gd", which then project onto them: ``(lo, hi)`` with numbers, None or
            tensors like x; such a pair for each part of x, in a list or dict like x0; or as scipy has them, a pair for
            each element or a ``Bounds``. A start outside is moved to them.
        disp: print where it is while it runs, and why it ended.
        deterministic: whether fun gives the same value at the same point every time. If not, no value is taken for that
            of another evaluation, and the result is the last point and not the best one.
        compile: run the chain as generated kernels.
        **others: nothing; an argument that scipy's ``minimize`` has and this one has not is refused with what to write
            in its place.

    Returns:
        The best point and how it was found. Ctrl-C ends the run with it too.

    Raises:
        ValueError: an unknown method, bounds that do not fit or that the method does not keep to, a limit that is no
            number from 0 on, x0 without numbers, or a value that is computed from other tensors alone.
        TypeError: an x0, fun or method that is made of something else, a value that is no number, or an argument that
            there is not.

    Example:
        >>> import torch, torchzero_core as tz
        >>> def rosenbrock(x):
        ...     return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        >>> result = tz.minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
        >>> result.success, result.fun < 1e-10, result.x.round(decimals=4)
        (True, True, tensor([1., 1.], dtype=torch.float64))
    """
    _check_arguments(fun, callback, others)
    tolerances = _Tolerances(_limit("tol", tol), _limit("gtol", gtol), _limit("xtol", xtol), _limit("ftol", ftol))
    maxiter, maxfev = _limit("maxiter", maxiter, whole=True), _limit("maxfev", maxfev, whole=True, low=1)
    maxtime = _limit("maxtime", maxtime)
    given = [] if stop is None else [stopping.as_rule(stop)]
    pairs = None if bounds is None else pairs_within_bounds(method)
    if pairs is not None and lr is not None:
        raise ValueError(f"lr={lr!r}: the methods that keep to bounds find their step sizes themselves.")
    unknowns = Unknowns(x0)
    box = None if bounds is None else Bounds(unknowns, bounds)
    number, eps = sum(leaf.numel() for leaf in unknowns.leaves), _rounding(unknowns.leaves)
    problem = Problem(number, eps, lr, deterministic)
    chain = None if method is None or box is not None else chain_of(method, problem)
    hard: list[StoppingRule] = [] if maxfev is None else [MaxEvaluations(maxfev)]
    hard += [] if maxtime is None else [MaxTime(maxtime)]
    objective = Objective(
        unknowns.bind(fun),
        unknowns,
        deterministic=deterministic,
        allowed=_Allowed(hard),
        residuals=chain is not None and takes_residuals(chain),
    )
    try:
        if box is not None:
            optimizer, backward, search = _projected(unknowns, objective, box, pairs or 0), True, True
        else:
            if chain is None:
                chain = chain_of("lbfgs" if objective.has_gradient() else without_gradient(number), problem)
            optimizer = Modular(unknowns.model or unknowns.leaves, *chain, compile=compile, advice=False)
            backward, search = not approximates(chain), searches(chain)
        seen = backward or sees_gradient(chain or [])
        rules = [*_rules(eps, search and deterministic, tolerances.filled(seen)), *given]
        rules += [stopping.MaxSteps(MAXITER if maxiter is None else maxiter), *hard]
        rule = stopping.AnyOf(rules)
        rule.reset()
        run = _Run(unknowns, objective, optimizer, rule, bounds=box, backward=backward, callback=callback, disp=disp)
        return run.run()
    finally:
        unknowns.return_grads()


@dataclass
class _Tolerances:
    """What was asked for, None where nothing was.

    Attributes:
        tol: of whatever the method looks at.
        gtol: of the gradient.
        xtol: of the length of a step.
        ftol: of the decrease.
    """

    tol: float | None
    gtol: float | None
    xtol: float | None
    ftol: float | None

    def filled(self, gradient: bool) -> _Tolerances:
        """With ``tol`` in the place of the one that the method looks at.

        Args:
            gradient: whether there is a gradient to look at.
        """
        name = "gtol" if gradient else "ftol"
        return replace(self, **{name: self.tol}) if getattr(self, name) is None else self


def _check_arguments(fun: Any, callback: Any, others: Mapping[str, Any]) -> None:
    """Refuse what cannot be called, and arguments that there are elsewhere.

    Raises:
        TypeError: there is one.
    """
    if others:
        raise TypeError(refusal(others, [name for name in inspect.signature(minimize).parameters if name != "others"]))
    for name, given, of in (("fun", fun, "x"), ("callback", callback, "the result so far")):
        if not callable(given) and not (name == "callback" and given is None):
            raise TypeError(f"{name} must be a function of {of}, not {type(given).__name__}.")


def _projected(unknowns: Unknowns, objective: Objective, bounds: Bounds, pairs: int) -> Modular | ProjectedLBFGS:
    """The method that keeps to bounds, where it begins; a refusal leaves the unknowns where they were."""
    start = unknowns.copies()
    optimizer = ProjectedLBFGS(unknowns, bounds, pairs)
    try:
        if not objective.has_gradient():
            raise ValueError(
                "fun(x) gives a value that does not depend on x differentiably, and the methods that keep to bounds "
                "need its gradient: compute it with torch operations on x, or use "
                "tz.optim.wrappers.ScipyMinimize([x], 'nelder-mead', lb=..., ub=...)."
            )
    except BaseException:
        unknowns.move(start)
        raise
    return optimizer


def _limit(name: str, value: Any, *, whole: bool = False, low: int = 0) -> Any:
    """The value of an argument, or None.

    Raises:
        ValueError: it is no number from ``low`` on.
    """
    if value is None:
        return None
    wrong = isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= low
    if wrong or (whole and value != math.inf and float(value) % 1 != 0):
        raise ValueError(f"minimize({name}={value!r}) must be a {'whole ' if whole else ''}number from {low} on.")
    return int(value) if whole and value != math.inf else float(value)


def _rounding(leaves: Sequence[Tensor]) -> float:
    """The relative rounding of the coarsest of them."""
    return max(torch.finfo(leaf.dtype).eps for leaf in leaves)


def _rules(eps: float, search: bool, tolerances: _Tolerances) -> list[StoppingRule]:
    """When it has converged, or cannot go on."""
    gtol, xtol, ftol = tolerances.gtol, tolerances.xtol, tolerances.ftol
    if gtol is None:
        gtol = 1e-5 if eps < 1e-12 else 1e-4
    patience = (1 if ftol is not None else PATIENCE_OF_SEARCH) if search else PATIENCE
    rules = [
        stopping.Unbounded(),
        stopping.NotFinite(),
        stopping.GradNorm(gtol),
        stopping.SearchFailed(2),
        _Stalled(10 * eps, patience)
        if ftol is None and not search
        else stopping.LossChange(10 * eps if ftol is None else ftol, patience),
    ]
    return rules if xtol is None else [*rules, stopping.StepNorm(xtol)]


__all__ = ["MinimizeResult", "minimize"]
