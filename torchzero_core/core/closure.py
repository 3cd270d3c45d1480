"""The user's closure in the one form that modules call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import Reductions
from .home import Home, StepInfo
from .replaced_grads import replace_grads, return_grads

Closure = Callable[..., Any]


def detached(loss: Any) -> Any:
    """A loss without its graph, as a tensor.

    Raises:
        TypeError: None.
    """
    if loss is None:
        raise TypeError("The closure returned None; it must return the loss.")
    return loss.detach() if isinstance(loss, Tensor) else torch.as_tensor(loss)


class Evaluations:
    """What a deterministic closure was at its last points, found again by the values of the parameters.

    Two evaluations are kept, the latest and the best of the others: where a step ends is nearly always one of them.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[list[Tensor], Tensor, list[Tensor | None]]] = []

    def note(self, params: Sequence[Tensor], loss: Any) -> None:
        """Remember loss and gradients at the present point."""
        grads = [None if p.grad is None else p.grad.detach().clone() for p in params]
        self._kept = [*sorted(self._kept, key=lambda kept: float(kept[1]))[:1]]
        self._kept.append(([p.detach().clone() for p in params], detached(loss).clone(), grads))

    def recall(self, params: Sequence[Tensor]) -> Tensor | None:
        """The loss at the present point, with the gradients in ``p.grad``; None where it was not evaluated."""
        for values, loss, grads in self._kept:
            same_kind = [v.dtype for v in values] == [p.dtype for p in params]  # anybody may cast them
            if same_kind and all(map(torch.equal, values, params)):
                replace_grads(params, [None if g is None else g.clone() for g in grads])
                return loss.clone()
        return None


class CountedClosure:
    """The user's closure as modules call it: ``closure(backward=True)``, counted, with gradients on.

    A closure without a ``backward`` argument is evaluated with its backward pass either way; the gradients are put
    back when none were asked for. A warning says so once. A deterministic closure is not evaluated with gradients
    where that has just been done.

    Args:
        closure: the user's.
        home: the optimizer.
        info: where evaluations are counted.
        known: what a deterministic closure has been; None for others.
    """

    def __init__(self, closure: Closure, home: Home, info: StepInfo, known: Evaluations | None) -> None:
        self._closure, self._home, self._info, self._known = closure, home, info, known
        self._takes_backward = accepts_backward(closure)

    def __call__(self, backward: bool = True) -> Any:
        """Evaluate."""
        known = self._known
        # Ranks that share the parameters out would not agree on whether a point is known.
        if known is None or not backward or type(self._home.distributed) is not Reductions:
            return self._evaluate(backward)
        params = self._home.all_params
        loss = known.recall(params)
        if loss is None:
            return_grads(params)
            loss = self._evaluate(backward)
            known.note(params, loss)
        return loss

    def _evaluate(self, backward: bool) -> Any:
        self._info.evaluations += 1
        self._info.backward_evaluations += bool(backward)
        with torch.enable_grad():
            if self._takes_backward:
                return (
                    self._closure(backward)
                    if self._takes_backward == "positional"
                    else self._closure(backward=backward)
                )
            if backward:
                return self._closure()
            self._home.warn_once(
                "backward",
                "The closure takes no `backward` argument, so evaluations that need only the loss also compute "
                "gradients, which costs about three times as much. Define it as closure(backward=True) and call "
                "loss.backward() only if backward is true. (In Lightning, derive the model from "
                "tz_lightning.ClosureModule.)",
            )
            params = self._home.all_params
            kept = [p.grad for p in params]
            for p in params:
                p.grad = None
            try:
                return detached(self._closure())
            finally:
                for p, g in zip(params, kept, strict=True):
                    p.grad = g


def accepts_backward(closure: Closure) -> str:
    """How a closure takes ``backward``: "positional", "keyword", or "" when it does not."""
    try:
        parameters = inspect.signature(closure).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = inspect.Parameter
    for p in parameters:
        if p.name == "backward" or p.kind is kinds.VAR_KEYWORD:
            return "keyword" if p.kind is not kinds.POSITIONAL_ONLY else "positional"
    if any(
        p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) and p.default is not kinds.empty
        for p in parameters
    ):
        return "positional"
    return ""
