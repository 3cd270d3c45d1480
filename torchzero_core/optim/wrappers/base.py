"""What the wrappers share: a whole minimisation as one step, on one vector of all parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.optimizer import Optimizer

from ...core.closure import accepts_backward, detached
from ...core.evaluate import kept_grads
from ...core.graph_grads import graph_grads
from ...core.graphless import Graphless
from ...linalg import hessian
from ...linalg.vector import flatten, unflatten

Array: TypeAlias = NDArray[np.float64]
#: A bound of parameters: one number, or an array or tensor of their shape. None: none.
Bound: TypeAlias = float | NDArray[Any] | Tensor | None


class VectorFunction:
    """The closure as a function of one float64 vector, which remembers its best point.

    Args:
        params: the parameters.
        closure: the user's.
        lower: a lower bound for each element.
        upper: an upper bound for each element.
        graphless: evaluates the loss where only its value is wanted.

    Attributes:
        x0: where the parameters were, moved into the bounds.
        evaluations: how often the closure was called.
        best: the lowest loss within the bounds.
        error: what the closure has raised; packages may swallow it.
    """

    def __init__(
        self, params: list[Tensor], closure: Callable[..., Any], lower: Array, upper: Array, graphless: Graphless
    ) -> None:
        self.params, self.lower, self.upper = params, lower, upper
        self.x0 = np.clip(_vector(params), lower, upper)
        self.evaluations = 0
        self.best = math.inf
        self.error: BaseException | None = None
        self._closure, self._takes_backward, self._graphless = closure, accepts_backward(closure), graphless
        self._x: Array | None = None
        self._loss: Any = None
        self._gradient: Array | None = None
        self._kept: tuple[list[Tensor], Tensor] | None = None
        self._first: Tensor | None = None

    def __call__(self, x: Array) -> float:
        """The loss; infinite where it is not a number."""
        self._evaluate(x, backward=False)
        return _number(self._loss)

    def with_gradient(self, x: Array) -> float:
        """The loss, by an evaluation that :meth:`gradient` uses too."""
        self._evaluate(x, backward=True)
        return _number(self._loss)

    def gradient(self, x: Array) -> Array:
        """The gradient."""
        self._evaluate(x, backward=True)
        assert self._gradient is not None
        return self._gradient.copy()

    def hessian(self, x: Array, tikhonov: float = 0.0, min_eigval: float | None = None) -> Array:
        """The Hessian, by autograd.

        Args:
            x: where.
            tikhonov: added to its diagonal.
            min_eigval: smaller eigenvalues are raised to it.

        Raises:
            RuntimeError: the loss has no graph.
        """
        self._move(x)
        with torch.enable_grad():
            loss = self._call(backward=False)
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise RuntimeError(
                    "hess='autograd' needs the graph of the loss: closure(backward=False) has to return the loss "
                    "undetached, and call loss.backward() only if backward is true."
                )
            taken = graph_grads(loss, self.params, create_graph=True)
        grads = [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, taken, strict=True)]
        if any(g.requires_grad for g in grads):
            matrix = hessian(grads, self.params).detach().cpu().double().numpy()
        else:  # the loss is linear
            matrix = np.zeros((x.size, x.size))
        matrix = matrix + tikhonov * np.eye(x.size)
        if min_eigval is not None:
            values, vectors = np.linalg.eigh(matrix)
            matrix = (vectors * np.maximum(values, min_eigval)) @ vectors.T
        return matrix

    def keep(self, x: Array) -> None:
        """Make a point the best one, if its loss is finite: a solver has conditions of its own.

        Args:
            x: the point.
        """
        x = np.asarray(x, np.float64)
        self._evaluate(x, backward=False)
        if math.isfinite(_number(self._loss)):
            self._move(x)
            self._note()

    def keep_known(self, values: list[Tensor], loss: float) -> None:
        """Make a point of an earlier step the best one.

        Args:
            values: the parameters there.
            loss: the loss there.
        """
        self.best, self._kept = loss, (values, torch.tensor(loss, dtype=torch.float64).to(self._loss))

    def finish(self) -> Tensor:
        """Put the parameters to the best point; the loss there.

        Where no loss was finite the parameters stay what they were, and the loss is the first one.
        """
        if self._kept is None:
            self._evaluate(self.x0, backward=False) if self._first is None else None
        if self._kept is None:
            assert self._first is not None
            return self._first
        values, loss = self._kept
        torch._foreach_copy_(self.params, values) if values else None
        return loss

    # -- evaluation --------------------------------------------------------------------------------------------------
    def _evaluate(self, x: Array, *, backward: bool) -> None:
        if self._x is not None and np.array_equal(x, self._x) and (not backward or self._gradient is not None):
            return
        self._x = None
        self._move(x)
        if backward:
            for p in self.params:
                p.grad = None
        loss = self._call(backward=backward)
        self._gradient = None
        if backward:
            self._gradient = _vector([torch.zeros_like(p) if p.grad is None else p.grad for p in self.params])
        self._x, self._loss = np.array(x, np.float64), detached(loss).clone()
        if self._first is None:
            self._first = self._loss
        if _number(self._loss) < self.best and bool(np.all((x >= self.lower) & (x <= self.upper))):
            self._note()

    def _note(self) -> None:
        self.best = _number(self._loss)
        self._kept = [p.detach().clone() for p in self.params], self._loss

    def _move(self, x: Array) -> None:
        pieces = unflatten(torch.from_numpy(np.array(x, np.float64)), self.params) if self.params else []
        for p, piece in zip(self.params, pieces, strict=True):
            p.copy_(piece)

    def _call(self, *, backward: bool) -> Any:
        self.evaluations += 1
        wants_graph = backward or not self._takes_backward or torch.is_grad_enabled()
        try:
            with torch.set_grad_enabled(wants_graph):
                return self._graphless(lambda: self._called(backward=backward))
        except BaseException as error:
            self.error = error
            raise

    def _called(self, *, backward: bool) -> Any:
        if self._takes_backward == "positional":
            return self._closure(backward)
        return self._closure(backward=backward) if self._takes_backward else self._closure()


class Wrapper(Optimizer):
    """Base of optimizers that hand the closure to another package: a subclass defines :meth:`minimize`.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        lb: lower bounds.
        ub: upper bounds.

    Attributes:
        result: what the package returned from the last step.
        evaluations: how often the last step called the closure.
        graphless: evaluates the loss without a graph where only its value is wanted.

    Raises:
        ValueError: bounds that leave nothing, or do not fit the parameters.
        TypeError: complex parameters.
    """

    #: Whether every element needs both bounds.
    bounded = False

    def __init__(self, params: Iterable[Any], lb: Bound = None, ub: Bound = None) -> None:
        self.result: Any = None
        self.evaluations = 0
        self.graphless = Graphless()
        super().__init__(params, {"lb": lb, "ub": ub})
        self.bounds(self.unknowns())

    def minimize(self, objective: VectorFunction) -> Any:
        """Look for the minimum; the objective remembers the best point.

        Args:
            objective: the loss.

        Returns:
            What is to be read as ``result``.
        """
        raise NotImplementedError

    def unknowns(self) -> list[Tensor]:
        """The parameters that are not frozen.

        Raises:
            TypeError: complex parameters.
        """
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        for p in params:
            if p.is_complex():
                raise TypeError(
                    f"{type(self).__name__} takes real parameters, not {p.dtype}; optimize torch.view_as_real(p)."
                )
        return params

    def bounds(self, params: list[Tensor]) -> tuple[Array, Array]:
        """The bounds of each element.

        Args:
            params: the parameters.

        Raises:
            ValueError: bounds that leave nothing, do not fit the parameters, or are missing.
        """
        group_of = {p: group for group in self.param_groups for p in group["params"]}
        lower = [_bound(group_of[p]["lb"], p, -math.inf, "lb") for p in params]
        upper = [_bound(group_of[p]["ub"], p, math.inf, "ub") for p in params]
        low, high = np.concatenate([np.zeros(0), *lower]), np.concatenate([np.zeros(0), *upper])
        if not bool(np.all(low <= high)):
            raise ValueError(f"{type(self).__name__} got a lower bound above the upper one.")
        if self.bounded and not bool(np.all(np.isfinite(low) & np.isfinite(high))):
            raise ValueError(f"{type(self).__name__} searches between bounds: every group needs finite lb and ub.")
        return low, high

    @torch.no_grad()
    def step(self, closure: Callable[..., Any]) -> Tensor:  # type: ignore[override]
        """Minimise.

        Args:
            closure: ``closure(backward=True)`` evaluates the loss and, if ``backward``, clears the gradients and
                computes them.

        Returns:
            The loss at the best point, where the parameters are afterwards.
        """
        params = self.unknowns()
        objective = VectorFunction(params, closure, *self.bounds(params), self.graphless)
        start = [p.detach().clone() for p in params]
        with kept_grads([p for group in self.param_groups for p in group["params"]]):
            try:
                if objective.x0.size:
                    self.result = self.minimize(objective)
                if objective.error is None:
                    torch._foreach_copy_(params, start) if params else None
                    return objective.finish()
            except BaseException:
                torch._foreach_copy_(params, start) if params else None
                if objective.error is None:
                    raise
            finally:
                self.evaluations = objective.evaluations
            torch._foreach_copy_(params, start) if params else None
            raise objective.error  # whatever the package has made of it

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k not in ("result", "step")}
        return {**kept, "result": None}

    def __repr__(self) -> str:
        n = sum(p.numel() for group in self.param_groups for p in group["params"])
        return f"{type(self).__name__}({n} elements in {len(self.param_groups)} groups)"


def seed_or_drawn(seed: int | None) -> int:
    """A seed, drawn from torch's generator where there is none.

    Args:
        seed: or None.
    """
    return int(torch.randint(2**31, (), device="cpu").item()) if seed is None else seed


def _number(loss: Tensor) -> float:
    value = float(loss)
    return math.inf if math.isnan(value) else value


def _vector(tensors: list[Tensor]) -> Array:
    """The elements of all tensors; the caller's own."""
    if not tensors:
        return np.zeros(0)
    return flatten([t.detach().cpu().double() for t in tensors]).numpy().copy()


def _bound(value: Any, param: Tensor, missing: float, name: str) -> Array:
    """A bound for each element of a parameter."""
    if value is None:
        return np.full(param.numel(), missing)
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        full = np.broadcast_to(np.asarray(value, np.float64), tuple(param.shape)).reshape(-1).copy()
    except ValueError as error:
        raise ValueError(f"{name}={value!r} does not fit a parameter of shape {tuple(param.shape)}.") from error
    if bool(np.isnan(full).any()):
        raise ValueError(f"{name}={value!r} is not a number.")
    return full
