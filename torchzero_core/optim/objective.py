"""A function as the closure of a chain: counted, remembered where that saves an evaluation, with its best point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.graphless import Graphless
from ..linalg import at_least_float32
from .unknowns import Unknowns


class LimitReached(Exception):
    """The next evaluation would be one too many."""


@dataclass
class Point:
    """An evaluation.

    Attributes:
        x: where.
        loss: the value.
        grads: the gradients, where they were computed.
        graph: the value with its graph, as long as nobody has used it.
    """

    x: list[Tensor]
    loss: Tensor
    grads: Sequence[Tensor | None] | None = None
    graph: Tensor | None = None

    def is_at(self, leaves: Sequence[Tensor]) -> bool:
        """Whether it is where the unknowns are.

        Args:
            leaves: the unknowns.
        """
        return all(map(torch.equal, self.x, leaves))


class Objective:
    """The closure of a function of the unknowns.

    Where the function is the same at every evaluation, the last point, the best one and the one between the last two
    steps are remembered, and neither loss nor gradient is evaluated there again. A chain that asks for the loss with
    its graph, for Hessians, where a step starts gets the graph that the gradient was computed with, if the point was
    evaluated between two steps. Where only the value is wanted there is no graph.

    Where a function that had gradients gives a plain number, such as infinity or a penalty for a point outside of its
    domain, the value counts as infinite and the gradient is NaN, so that searches go back.

    Of another function only what was evaluated between two steps is used once more, where the step that comes asks for
    it: one value drawn at random is as good as another.

    Args:
        fun: the function, which takes nothing.
        unknowns: what it depends on.
        deterministic: whether it always gives the same value at the same point.
        residuals: the function gives residuals, whose sum of squares is the value. A chain that asks for it without
            gradients gets the residuals, with their graph.
        allowed: raises :class:`LimitReached` where there may be no further evaluation.

    Attributes:
        nfev: evaluations of the function.
        njev: evaluations of its gradient.
        best: the lowest point so far; the last one where the function is not deterministic.
        deterministic: as above.
    """

    def __init__(
        self,
        fun: Callable[[], Any],
        unknowns: Unknowns,
        *,
        deterministic: bool,
        allowed: Callable[[int], None],
        residuals: bool = False,
    ) -> None:
        self._fun, self._unknowns, self.deterministic, self._allowed = fun, unknowns, deterministic, allowed
        self.nfev = self.njev = 0
        self.best: Point | None = None
        self._latest: Point | None = None
        self._between: Point | None = None
        self._differentiable = False
        self._residuals = self._wants_graph = residuals
        self._graphless = Graphless()

    def __call__(self, backward: bool = True) -> Tensor:
        """Evaluate; with ``backward`` the gradients are in ``p.grad`` afterwards."""
        known = self._known()
        if not self.deterministic and known is not None:
            self._between = None
        if known is None or (backward and known.grads is None):
            return self._evaluate(backward)
        if backward:
            self._set_grads(known.grads)
            return known.loss.clone()
        if not (torch.is_grad_enabled() or self._residuals):
            return known.loss.clone()
        if known.graph is not None:
            graph, known.graph = known.graph, None
            return graph
        self._wants_graph = self._wants_graph or known.grads is not None
        return self._evaluate(False)

    def at(self, *, backward: bool) -> Point:
        """The present point.

        Args:
            backward: with gradients.
        """
        known = self._known()
        if known is None or (backward and known.grads is None):
            # A search writes to the unknowns after its evaluations, which makes their graphs useless.
            with torch.no_grad():
                self._evaluate(backward, keep_graph=self._wants_graph)
            known = self._between = self._latest
        assert known is not None
        return known

    def has_gradient(self) -> bool:
        """Evaluate, and say whether there is a gradient, which then is known too."""
        self._evaluate(None)
        self._between = self._latest
        return self._latest is not None and self._latest.grads is not None

    def once_more(self, point: Point) -> float | None:
        """The value at a point where the unknowns are, evaluated anew; None where there may be no further evaluation.

        Args:
            point: it stays the best one.
        """
        best = self.best
        try:
            with torch.no_grad():
                self._evaluate(False)
        except LimitReached:
            return None
        assert self._latest is not None
        again, self.best, self._latest = self._latest, best, point
        return float(again.loss)

    def _known(self) -> Point | None:
        known = (self._latest, self.best, self._between) if self.deterministic else (self._between,)
        points = [p for p in known if p is not None and p.is_at(self._unknowns.leaves)]
        return next((p for p in points if p.grads is not None), points[0] if points else None)

    def _evaluate(self, backward: bool | None, *, keep_graph: bool = False) -> Tensor:
        """Evaluate; with gradients where ``backward`` is None and the value has them."""
        self._allowed(self.nfev)
        if self._latest is not None:
            self._latest.graph = None
        self.nfev += 1
        with torch.set_grad_enabled(backward is not False or torch.is_grad_enabled()):
            out = self._graphless(self._fun)
            value = _sum_of_squares(out) if self._residuals else _scalar(out)
            if self._outside(out, value):
                out, value = self._infinite(out) if self._residuals else value, torch.full_like(value, math.inf)
            backward = value.requires_grad if backward is None else backward
            grads = self._gradients(value, keep_graph) if backward else None
        point = Point(self._unknowns.copies(), value.detach().clone(), grads)
        if backward and keep_graph:
            point.graph = out if self._residuals else value
        self._latest = point
        if self.best is None or not self.deterministic or _lower(float(point.loss), float(self.best.loss)):
            self.best = point
        if backward:
            self._set_grads(grads)
        return out if self._residuals else value

    def _gradients(self, value: Tensor, keep_graph: bool) -> Sequence[Tensor | None]:
        self.njev += 1
        leaves = self._unknowns.leaves
        if self._differentiable and not value.requires_grad:
            return [torch.full_like(leaf, math.nan, requires_grad=False) for leaf in leaves]
        if not value.requires_grad:
            raise ValueError(
                "fun(x) gives a value that does not depend on x differentiably, so there is no gradient: compute it "
                "with torch operations on x, or choose a chain that needs none, such as method='spsa' or 'fdm'."
            )
        grads = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=keep_graph)
        if not self._differentiable and all(g is None for g in grads):
            what = "the parameters of the model" if self._unknowns.model is not None else "x, which is a copy of x0"
            raise ValueError(
                f"fun gives a value that does not depend on {what}, but on other tensors. Compute it from x itself; to "
                "move the parameters of a model, give the model as x0."
            )
        self._differentiable = True
        return grads

    def _outside(self, out: Any, value: Tensor) -> bool:
        """Whether a value is one without a graph, where others had one: it stands for a point where there is none."""
        plain = not isinstance(out, Tensor) or (torch.is_grad_enabled() and not value.requires_grad)
        return self._differentiable and plain

    def _infinite(self, residuals: Tensor) -> Tensor:
        """Infinite residuals, with a graph as who asks for residuals wants one."""
        return torch.full_like(residuals, math.inf) + 0.0 * sum(leaf.sum() for leaf in self._unknowns.leaves)

    def _set_grads(self, grads: Sequence[Tensor | None] | None) -> None:
        for leaf, grad in zip(self._unknowns.leaves, grads or (), strict=False):
            leaf.grad = grad


def _lower(loss: float, best: float) -> bool:
    """Whether a point is better than the best one so far: minus infinity is no value to have a gradient at."""
    return not math.isfinite(best) or -math.inf < loss <= best


def _scalar(value: Any) -> Tensor:
    """The value of the function as one real number.

    Raises:
        TypeError: it is none.
    """
    if value is None:
        raise TypeError("fun(x) returned None; it must return a number, the value to minimise.")
    number = value
    if not isinstance(value, Tensor):
        wrong = TypeError(f"fun(x) must return one real number, not {type(value).__name__}.")
        if isinstance(value, (str, tuple, list, dict)):
            raise wrong
        try:
            number = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise wrong from None
    if number.numel() == 1 and not number.is_complex():
        return number.reshape(())
    hint = "" if number.is_complex() else " For residuals, whose sum of squares is to be minimised, say method='lm'."
    kind = f"a {number.dtype} tensor" if number.is_complex() else f"a tensor of shape {tuple(number.shape)}"
    raise TypeError(f"fun(x) must return one real number, not {kind}.{hint}")


def _sum_of_squares(residuals: Any) -> Tensor:
    """The value of a function that gives residuals.

    Raises:
        TypeError: it gives something else.
    """
    if not isinstance(residuals, Tensor) or residuals.dim() == 0 or not residuals.is_floating_point():
        what = type(residuals).__name__
        if isinstance(residuals, Tensor):
            what = f"one number of {residuals.dtype}" if residuals.dim() == 0 else f"a tensor of {residuals.dtype}"
        raise TypeError(
            "This method minimises the sum of squares of residuals: fun(x) must return these as a tensor, computed "
            f"from x, and not {what}. For a function that returns its value choose another method, such as 'lbfgs'."
        )
    return at_least_float32(residuals).square().sum()


__all__ = ["LimitReached", "Objective", "Point"]
