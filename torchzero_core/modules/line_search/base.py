"""What every line search shares: the function φ(α) and its bookkeeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...core import Module, Var
from ...core.closure import value_of
from ...core.evaluate import kept_grads, uniform_settings
from ...core.neighbours import neighbours
from ...linalg import short_vector, total_dot
from .scalar import NO_GRADIENT, NOT_FINITE, Point

#: Where steps of this share of the first one have failed too, shorter ones are not tried.
SHORTEST = 1e-16


class MaxLineSearchItersReached(Exception):
    """A search has used up the evaluations it was allowed; the best step size so far is taken."""


class LineFunction:
    """φ(α) = loss(p₀ − α·u), evaluated at most once for each α.

    The parameters are moved from a saved copy and hold p₀ again after every evaluation, bit for bit, also when the
    closure raises. The move rounds exactly as the step that follows it: to (α·u) first, then to p₀ − (α·u).

    Args:
        var: the step's context; its loss, gradient and closure are used.
        update: u.
        maxiter: the number of evaluations after which :class:`MaxLineSearchItersReached` is raised.
        workspace: name under which the saved copy keeps its memory between steps.
    """

    def __init__(
        self, var: Var, update: list[Tensor], maxiter: int | None = None, workspace: str = "line search"
    ) -> None:
        self.var, self.update, self.maxiter = var, update, maxiter
        self.params = var.params
        self.points: dict[float, Point] = {}
        self.evaluations = 0
        self._bottomless = False
        self._start: list[Tensor] | None = None
        self._data: list[Tensor] = []
        self._workspace = workspace
        self._eps: float | None = None

    @property
    def start(self) -> Point:
        """Loss and slope at α = 0; what the step has evaluated already is used."""
        point = self.points.get(0.0)
        if point is None or math.isnan(point.slope):
            slope = self._slope(self.var.get_grad())
            point = self.points[0.0] = Point(0.0, self._number(self.var.get_loss(False)), slope)
        return point

    def __call__(self, alpha: float) -> float:
        """The loss at a step size; infinite where it is not a number.

        Args:
            alpha: the step size.

        Raises:
            MaxLineSearchItersReached: no evaluations are left.
        """
        return self._at(alpha, backward=False).loss

    def with_slope(self, alpha: float) -> tuple[float, float]:
        """The loss and the slope dφ/dα = −⟨g(p₀ − α·u), u⟩ at a step size, from one evaluation with gradients.

        Args:
            alpha: the step size.

        Raises:
            MaxLineSearchItersReached: no evaluations are left.
        """
        point = self._at(alpha, backward=True)
        return point.loss, point.slope

    @property
    def rounding(self) -> float:
        """The distance of numbers around the loss at the start, in the losses' own dtype."""
        loss = self.start.loss
        if self._eps is None:  # no loss has been seen
            self._eps = max(torch.finfo(p.dtype).eps for p in self.params)
        return math.ulp(loss) * (self._eps / torch.finfo(torch.float64).eps)

    @property
    def length(self) -> float:
        """‖u‖₂."""
        u = self.update if self._vector is None else [self._vector]
        square = self._total(total_dot(u, u))
        if not 1e-30 < square < 1e30:  # in float32 that may be due to its range
            norms = [torch.linalg.vector_norm(u, dtype=torch.float64).cpu() for u in self.update]
            square = self._total((norms[0] if len(norms) == 1 else torch.stack(norms)).square().sum())
        return math.sqrt(square)

    @torch.no_grad()
    def moves(self, alpha: float) -> bool:
        """Whether p₀ − α·u differs from p₀.

        Args:
            alpha: the step size.
        """
        return any(not torch.equal(p, p + u * -alpha) for p, u in zip(self.params, self.update, strict=True))

    def falls_on(self, alpha: float) -> bool:
        """Whether the loss was minus infinity somewhere, or is still falling at a step size, the largest one evaluated.

        Args:
            alpha: the step size.
        """
        point = self.points.get(alpha)
        return self._bottomless or (point is not None and 0 < alpha == max(self.points) and point.slope < 0)

    @property
    def best(self) -> Point:
        """The point with the lowest loss so far, the start among them."""
        return min([self.start, *self.points.values()], key=lambda point: point.loss)

    def _at(self, alpha: float, *, backward: bool) -> Point:
        alpha = float(alpha)
        if alpha == 0:
            return self.start
        point = self.points.get(alpha)
        if point is not None and (not backward or not math.isnan(point.slope)):
            return point
        if self.maxiter is not None and self.evaluations >= self.maxiter:
            raise MaxLineSearchItersReached
        self.evaluations += 1
        point = self.points[alpha] = self._evaluate(alpha, backward=backward)
        return point

    def _evaluate(self, alpha: float, *, backward: bool) -> Point:
        var, params = self.var, self.params
        assert var.closure is not None
        if self._start is None:
            self._start = var.scratch(self._workspace)
            self._data = [p.detach() for p in params]  # to be written whether gradients are on or off
            torch._foreach_copy_(self._start, self._data)
            if var.modular is not None:
                var.modular.transaction.lend(self._data, self._start)
        data = self._data
        try:
            # p₀ − α·u by way of −(α·u) + p₀: the same two roundings, without a temporary
            torch._foreach_copy_(data, self.update)
            torch._foreach_mul_(data, -alpha)
            torch._foreach_add_(data, self._start)
            if not backward:
                return Point(alpha, self._number(var.closure(False)))
            with kept_grads(params):
                loss = self._number(var.closure(True))
                slope = self._slope([p.grad for p in params])
            return Point(alpha, loss, slope if math.isfinite(slope) else math.inf)
        finally:
            torch._foreach_copy_(data, self._start)

    @cached_property
    def _vector(self) -> Tensor | None:
        """The update in one piece, where it is short: each evaluation multiplies it."""
        return short_vector(self.update) if len(self.update) > 1 else None

    def _slope(self, grads: list[Tensor] | list[Tensor | None]) -> float:
        if (u := self._vector) is not None and all(g is not None for g in grads):
            g = short_vector(grads)  # type: ignore[arg-type]
            if g is not None and g.dtype is u.dtype:
                return -self._total(total_dot([g], [u]))
        pairs = [(g, u) for g, u in zip(grads, self.update, strict=True) if g is not None]
        return -self._total(total_dot([g for g, _ in pairs], [u for _, u in pairs]))

    def _total(self, value: Tensor) -> float:
        """A sum over this rank's elements as that over all ranks'."""
        total: float = (value if self.var.modular is None else self.var.modular.distributed.sum_scalar(value)).item()
        return total

    def _number(self, loss: Any) -> float:
        loss = value_of(loss)
        self._eps = torch.finfo(loss.dtype).eps
        if self.var.modular is not None:
            loss = self.var.modular.distributed.mean_loss(loss)
        value: float = loss.item()
        self._bottomless |= value == -math.inf
        return value if math.isfinite(value) else math.inf


class LineSearch(Module):
    """Base class of line searches: a subclass defines :meth:`search`, which picks the step size α for p ← p − α·u.

    φ(α) is evaluated through :meth:`make_objective`. The parameters are never touched by the search itself, and are
    exactly those of the start while it thinks; the outcome can be read from ``optimizer.last_step``. A start, update
    or slope that is not finite ends the search at once with a step of zero.

    Args:
        defaults: settings; they must be the same for all parameters.
        maxiter: largest number of evaluations in one search; the best step size so far is taken when they are used
            up. None: no limit but the search's own.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core import Passed
        >>> class Halving(tz.m.LineSearch):
        ...     init: float = 1.0
        ...     maxiter: Passed[int] = 20
        ...
        ...     def search(self, update, var):
        ...         phi = self.make_objective(var)
        ...         alpha = self.settings[var.params[0]]["init"]
        ...         while phi(alpha) > phi.start.loss:
        ...             alpha /= 2
        ...         return alpha
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = 3 * (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], Halving())
        >>> optimizer.step(closure).item(), closure(False).item(), optimizer.last_step.step_size
        (15.0, 3.75, 0.25)
    """

    size_effect = "search"
    requires_closure = True
    takes_values = True
    one_piece = True

    def __init__(self, defaults: Mapping[str, Any] | None = None, maxiter: int | None = None) -> None:
        super().__init__(defaults)
        self._limit = maxiter
        self._phi: LineFunction | None = None
        self._status, self._retries = "ok", False

    def search(self, update: list[Tensor], var: Var) -> float:
        """The step size to take along ``update``; 0 to stay.

        Args:
            update: the direction u, to be read only.
            var: the step's context.
        """
        raise NotImplementedError(f"{type(self).__name__} has no search(update, var); a line search must define one.")

    def _searched(self, update: list[Tensor], var: Var) -> float:
        """The step size that was found, where it is one number."""
        found: Any = self.search(update, var)
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r}"
            raise TypeError(
                f"The search of {type(self).__name__} returned {what}; it must return the step size, one number."
            ) from error

    # -- for searches ------------------------------------------------------------------------------------------------
    def make_objective(self, var: Var) -> LineFunction:
        """φ as a function of the step size: ``phi(alpha)``, ``phi.with_slope(alpha)``, ``phi.start``.

        Args:
            var: the step's context, as :meth:`search` got it.
        """
        if self._phi is None or self._phi.var is not var:
            return LineFunction(var, var.get_update(), self._limit, f"{self.path}.start")
        return self._phi

    def make_objective_with_derivative(self, var: Var) -> Callable[[float], tuple[float, float]]:
        """A function from the step size to loss and slope.

        Args:
            var: the step's context, as :meth:`search` got it.
        """
        return self.make_objective(var).with_slope

    def evaluate_step_size(self, step_size: float, var: Var, backward: bool = False) -> float:
        """The loss at a step size.

        Args:
            step_size: α.
            var: the step's context.
            backward: evaluate the slope too, for a later question about it.
        """
        phi = self.make_objective(var)
        return phi.with_slope(step_size)[0] if backward else phi(step_size)

    def evaluate_step_size_loss_and_derivative(self, step_size: float, var: Var) -> tuple[float, float]:
        """The loss and the slope at a step size.

        Args:
            step_size: α.
            var: the step's context.
        """
        return self.make_objective(var).with_slope(step_size)

    def fail(self, status: str, *, retries: bool = False) -> float:
        """Note what went wrong, to be read as ``optimizer.last_step.status``; returns 0, a step that stays.

        Args:
            status: what went wrong, in a word or two.
            retries: whether the next step tries other step sizes, so that this is not the end of it yet.
        """
        self._status, self._retries = status, retries
        return 0.0

    @property
    def before(self) -> Module | None:
        """The module in front of this one in the same chain."""
        found = None if self.home is None else neighbours(self, self.home.modules)
        return None if found is None else found[0]

    def common_settings(self, var: Var) -> dict[str, Any]:
        """The settings, which are one for all parameters.

        Args:
            var: the step's context.

        Raises:
            ValueError: a setting differs between parameter groups.
        """
        return uniform_settings(self, var.params)

    # -- the step ----------------------------------------------------------------------------------------------------
    def step(self, var: Var) -> Var:
        """Search along the update and scale it by the step size found."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        update = _aligned_update(var)
        if not update:
            var.info.step_size, var.info.status = 0.0, NO_GRADIENT
            return var
        self._status, self._retries = "ok", False
        phi = self._phi = LineFunction(var, update, self._limit, f"{self.path}.start")
        try:
            if not phi.start.finite:
                alpha = self.fail(NOT_FINITE)
            else:
                try:
                    alpha = self._searched(update, var)
                except MaxLineSearchItersReached:
                    alpha = phi.best.alpha
                    self._status = "ok" if alpha != 0 else "no decrease within maxiter"
        finally:
            self._phi = None
        seen = phi.points.get(alpha)
        if not math.isfinite(alpha) or (seen is not None and not math.isfinite(seen.loss)):
            alpha = self.fail(NOT_FINITE)
        var.info.step_size, var.info.status = alpha, self._status
        var.info.falling = self._status != "ok" and phi.falls_on(alpha)
        var.info.uphill, var.info.retries = phi.start.slope > 0, self._retries
        seen = phi.points.get(alpha)
        var.info.accepted_loss = None if seen is None else seen.loss
        if alpha == 0:
            torch._foreach_zero_(update)  # 0·inf would not be zero
        elif alpha != 1:
            torch._foreach_mul_(update, alpha)
        return var

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_phi": None}


def _aligned_update(var: Var) -> list[Tensor]:
    """The update of the parameters that have a gradient, which is evaluated if no module before has done it."""
    before = var.params
    update = var.get_update() if var.update is not None else None
    if var.grad is None:
        var.get_grad()
    if update is not None and len(var.params) != len(before):
        kept = {id(p) for p in var.params}
        var.update = [u for p, u in zip(before, update, strict=True) if id(p) in kept]
    return var.get_update()
