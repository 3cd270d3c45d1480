"""The context of one step."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import Reductions
from .home import Home

Closure = Callable[..., Any]


@dataclass
class StepInfo:
    """The outcome of a step, readable as ``optimizer.last_step``.

    Attributes:
        evaluations: how often the closure was called.
        backward_evaluations: how many of these calls computed gradients.
        step_size: the step size that a line search or trust region chose; None without one.
        status: "ok", or what went wrong in a word or two (a search that failed, a loss that was not finite).
        loss: the loss at the start of the step; None without a closure.
    """

    evaluations: int = 0
    backward_evaluations: int = 0
    step_size: float | Tensor | None = None
    status: str = "ok"
    loss: Tensor | None = None


class Var:
    """Parameters, gradients, update, loss and closure of one step. Everything is evaluated at most once and kept.

    Attributes:
        params: the parameters that take part. Those without a gradient leave the list when gradients are asked for.
        closure: ``closure(backward=True)``, or None. A module may wrap it for the modules after it.
        model: the model the optimizer was given, or None.
        current_step: number of the step, 0 at the first.
        modular: the optimizer.
        info: the outcome so far; see :class:`StepInfo`.
        stop: a module sets it to end the chain here.
        skip_update: a module sets it when it has moved the parameters itself.
        nested: whether this is the context of a child.
    """

    def __init__(
        self,
        params: list[Tensor],
        closure: Closure | None,
        model: nn.Module | None,
        current_step: int,
        modular: Home | None = None,
    ) -> None:
        self.params = params
        self.model = model
        self.current_step = current_step
        self.modular = modular
        self.closure = closure
        self.info = StepInfo()
        self.loss: Tensor | None = None
        self._grad: list[Tensor] | None = None
        self._update: list[Tensor] | None = None
        self.owned = False
        self.stop = False
        self.skip_update = False
        self.nested = False

    # -- gradient and loss -------------------------------------------------------------------------------------------
    @property
    def grad(self) -> list[Tensor] | None:
        """The gradients if they were evaluated; setting them replaces what later modules see."""
        return self._grad

    @grad.setter
    def grad(self, value: Sequence[Tensor] | None) -> None:
        self._grad = None if value is None else list(value)

    def get_loss(self, backward: bool = False) -> Tensor:
        """The loss at the start of the step.

        Args:
            backward: compute the gradients in the same evaluation.

        Raises:
            RuntimeError: the step was given no closure.
        """
        if self.loss is None or (backward and self._grad is None):
            if self.closure is None:
                raise RuntimeError("This chain needs the loss, so step(closure) needs a closure that evaluates it.")
            loss = self.closure(backward)
            if self.loss is None:
                self.loss = _detached(loss)
            if backward:
                self._take_grads()
        return self.loss

    def get_grad(self, retain_graph: bool | None = None, create_graph: bool = False) -> list[Tensor]:
        """The gradients of ``params``; read them only.

        Args:
            retain_graph: keep the graph for another backward pass.
            create_graph: make the gradients differentiable; the closure is then evaluated without ``backward``.

        Raises:
            RuntimeError: ``create_graph`` without a closure, or the loss has no graph.
        """
        if create_graph and (self._grad is None or not any(g.requires_grad for g in self._grad)):
            if self.closure is None:
                raise RuntimeError("Differentiable gradients need a closure; call step(closure).")
            with torch.enable_grad():
                loss = self.closure(False)
                if not isinstance(loss, Tensor) or not loss.requires_grad:
                    raise RuntimeError(
                        "Differentiable gradients need the graph of the loss, but closure(backward=False) returned a "
                        "loss without one: compute it from the parameters and return it undetached, and call "
                        "loss.backward() only if backward is true."
                    )
                grads = torch.autograd.grad(
                    loss, self.params, create_graph=True, retain_graph=retain_graph, allow_unused=True
                )
            self._narrow(list(grads))
            if self.loss is None:
                self.loss = _detached(loss)
        elif self._grad is None:
            if self.closure is None:
                self._take_grads()
            else:
                self.get_loss(backward=True)
        return self._grad  # type: ignore[return-value]

    def _take_grads(self) -> None:
        self._narrow([p.grad for p in self.params])

    def _narrow(self, grads: list[Tensor | None]) -> None:
        """Keep the parameters that have a gradient: the others stay untouched in this step."""
        for g in grads:
            if g is None or g.is_sparse:
                break
        else:
            self._grad = grads  # type: ignore[assignment]
            return
        for p, g in zip(self.params, grads, strict=True):
            if g is not None and g.is_sparse:
                raise RuntimeError(
                    f"A parameter of shape {tuple(p.shape)} has a sparse gradient, which no module can use; build its "
                    "layer with sparse=False, or give it to torch.optim.SparseAdam."
                )
        kept = [(p, g) for p, g in zip(self.params, grads, strict=True) if g is not None]
        self.params = [p for p, _ in kept]
        if self.modular is not None:
            self.params = self.modular.same_list(self.params)
        self._grad = [g for _, g in kept]

    # -- update ------------------------------------------------------------------------------------------------------
    @property
    def update(self) -> list[Tensor] | None:
        """What will be subtracted from the parameters; None while it is still the gradient."""
        return self._update

    @update.setter
    def update(self, value: Sequence[Tensor] | None) -> None:
        self._update = None if value is None else list(value)
        self.owned = value is not None

    def peek_update(self) -> list[Tensor]:
        """The update for reading only: it may be the gradients themselves."""
        return self.get_grad() if self._update is None else self._update

    def get_update(self) -> list[Tensor]:
        """The update, which you may overwrite; the gradients are copied the first time."""
        if self._update is None or not self.owned:
            source = self.peek_update()
            if self.modular is not None and not self.nested:
                self._update = self.modular.workspace("update", self.params)
                torch._foreach_copy_(self._update, source) if source else None
            else:
                self._update = [t.clone() for t in source]
            self.owned = True
        return self._update

    # -- for modules that run others ---------------------------------------------------------------------------------
    def clone(self, update: Sequence[Tensor] | None = None, *, params: list[Tensor] | None = None) -> Var:
        """A context for a child: shares everything but the update.

        Args:
            update: what the child starts from; it becomes the child's to overwrite. None: a copy of the own update.
            params: the child's parameters when they are others.
        """
        other = Var.__new__(Var)
        other.__dict__.update(self.__dict__)
        other.nested = True
        if params is not None:
            other.params = params
        if update is None:
            other._update = None if self._update is None else [t.clone() for t in self._update]
            other.owned = other._update is not None
        else:
            other._update = list(update)
            other.owned = True
        return other

    def run_child(self, module: Any, inputs: dict[int, Tensor]) -> dict[int, Tensor]:
        """The result of a module on some updates, by the position of the parameter.

        Args:
            module: a module that is no rule.
            inputs: its update; it gets copies.
        """
        order = sorted(inputs)
        whole = len(order) == len(self.params)
        inner = self.clone(
            [inputs[i].clone() for i in order], params=None if whole else [self.params[i] for i in order]
        )
        if not whole and self._grad is not None:
            inner.grad = [self._grad[i] for i in order]
        if not self.stop:  # one before it has ended the step, and the result is not used
            inner = module.step(inner)
        if whole:
            self.take(inner)
        return dict(zip(order, inner.peek_update(), strict=True))

    def take(self, other: Var) -> None:
        """Learn from a child's context what it evaluated: loss and gradients."""
        if self.loss is None:
            self.loss = other.loss
        if self._grad is None and other._grad is not None and len(other.params) == len(self.params):
            self._grad = other._grad
        self.stop |= other.stop
        self.skip_update |= other.skip_update


def _detached(loss: Any) -> Any:
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
        self._kept.append(([p.detach().clone() for p in params], _detached(loss).clone(), grads))

    def recall(self, params: Sequence[Tensor]) -> Tensor | None:
        """The loss at the present point, with the gradients in ``p.grad``; None where it was not evaluated."""
        for values, loss, grads in self._kept:
            if len(values) == len(params) and all(map(torch.equal, values, params)):
                for p, g in zip(params, grads, strict=True):
                    p.grad = None if g is None else g.clone()
                return loss.clone()
        return None


class CountedClosure:
    """The user's closure in the one form that modules call: ``closure(backward=True)``, counted, with gradients on.

    A closure without a ``backward`` argument is evaluated with its backward pass either way; the gradients are put
    back when none were asked for. A warning says so once. A deterministic closure is not evaluated with gradients
    where that has just been done.
    """

    def __init__(self, closure: Closure, modular: Home, info: StepInfo) -> None:
        self._closure, self._modular, self._info = closure, modular, info
        self._takes_backward = accepts_backward(closure)

    def __call__(self, backward: bool = True) -> Any:
        """Evaluate."""
        memory = self._modular._evaluations
        # Ranks that share the parameters out would not agree on whether a point is known.
        if memory is None or not backward or type(self._modular.distributed) is not Reductions:
            return self._evaluate(backward)
        params = self._modular.all_params
        loss = memory.recall(params)
        if loss is None:
            loss = self._evaluate(backward)
            memory.note(params, loss)
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
            self._modular.warn_once(
                "backward",
                "The closure takes no `backward` argument, so evaluations that need only the loss also compute "
                "gradients, which costs about three times as much. Define it as closure(backward=True) and call "
                "loss.backward() only if backward is true. (In Lightning, derive the model from "
                "tz_lightning.ClosureModule.)",
            )
            params = self._modular.all_params
            kept = [p.grad for p in params]
            for p in params:
                p.grad = None
            try:
                return _detached(self._closure())
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


def warn(message: str) -> None:
    """A warning that points at the user's line."""
    warnings.warn(message, UserWarning, stacklevel=4)
