"""Least squares: the Gauss-Newton Hessian, and Levenberg and Marquardt's way with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Child, NonNegative, OpenFraction, Positive, Reductions, StateKind, Var
from ...core.evaluate import uniform_settings
from ...core.graph_grads import graph_grads
from ...core.same_params import same_params
from ...core.vector_method import Curvature, Unit, VectorMethod, reductions_of
from ...linalg import DenseOperator, GramOperator, at_least_float32, jacobian
from .base import Model, TrustMethod


class GaussNewton(VectorMethod):
    r"""The Gauss-Newton method for sums of squares, from a closure that returns the residuals.

    .. math:: f(p) = \sum_i r_i(p)^2, \quad g = 2J'r, \quad B = 2J'J, \quad u ← (B + reg·I)^{-1} g

    The closure returns the residuals r as a tensor of any shape, with their graph, and calls no backward:
    ``closure = lambda backward=True: model(x) - y``. This module makes loss and gradient of them, so it stands first in
    its chain, and modules behind it, such as a line search, see an ordinary closure. ``optimizer.step`` returns the
    sum of squares. As the ``hess`` of :class:`LevenbergMarquardt` or another trust region it gives the matrix B.

    Args:
        reg: added to the diagonal of B in the direction.
        vectorize: many rows of the Jacobian in one batched backward pass. False takes less memory, and works for
            operations that have no batching rule.

    Raises:
        ValueError: settings that differ between parameter groups; a closure that returns one number, the loss.
        RuntimeError: residuals that have no graph; in a projection.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 10.3.

    Example:
        >>> import torch, torchzero_core as tz
        >>> x = torch.linspace(0, 2, 20)
        >>> y = 2 * torch.exp(-1.5 * x)
        >>> p = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.GaussNewton(), tz.m.Backtracking())
        >>> for _ in range(10):
        ...     loss = optimizer.step(lambda backward=True: p[0] * torch.exp(p[1] * x) - y)
        >>> p.detach()
        tensor([ 2.0000, -1.5000])
    """

    requires_closure = True
    needs_gradient = False
    starts_anew = False
    gathers = True

    reg: NonNegative = 1e-8
    vectorize: bool = True

    def prepare(self, var: Var) -> Curvature:
        """Residuals and Jacobian, from which loss, gradient and closure of the step are made."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the residuals: call optimizer.step(closure).")
        if not hasattr(var.closure, "residuals"):
            raise RuntimeError(
                f"{self.path} needs the residuals themselves, and what stands around it or before it, such as a "
                "projection or a gradient approximation, hands on the loss only: put it first in the chain of the "
                "optimizer, outside of projections, or use LBFGS."
            )
        residuals = _Residuals(var.closure, self.path)
        r, vectorize = residuals(), uniform_settings(self, var.params)["vectorize"]
        with torch.enable_grad():
            grads = graph_grads(_square(r), var.params, retain_graph=True)
            var.closure = residuals.loss(var)
            var.narrow(list(grads))
            J = jacobian(r, var.params, vectorize=vectorize)
        J, reductions = at_least_float32(J), reductions_of(var)
        var.loss = _square(r.detach())
        var.grad = reductions.mean_grads(var.get_grad())
        if type(reductions) is Reductions:
            return GramOperator(2**0.5 * J)
        return DenseOperator(reductions.mean_grads([2 * J.mT @ J])[0])

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Nothing is known from earlier steps."""
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The solution of (B + reg·I) d = x, with nothing where B is zero to rounding."""
        values, vectors = self.curvature(unit).eigen
        usable = values > values.abs().max() * len(values) * torch.finfo(values.dtype).eps
        return vectors @ torch.where(usable, vectors.mT @ x / (values + unit.settings["reg"]), 0.0)

    def curvature(self, unit: Unit) -> Curvature:
        """B = 2J'J."""
        given: Curvature = unit.given
        return given


@dataclass
class _Residuals:
    """The closure of the residuals."""

    closure: Any
    path: str

    def __call__(self) -> Tensor:
        """The residuals as a vector with a graph."""
        with torch.enable_grad():
            flat = self.values()
        if not flat.requires_grad:
            raise RuntimeError(
                f"{self.path} needs residuals that can be differentiated, but the closure returned some without a "
                "graph: compute them from the parameters, not under torch.no_grad(), and return them undetached."
            )
        return flat

    def values(self) -> Tensor:
        """The residuals as a vector, with a graph where gradients are on."""
        out = self.closure.residuals()
        if isinstance(out, (list, tuple)):
            raise ValueError(
                f"{self.path} needs a closure that returns the residuals in one tensor; this one returned a "
                f"{type(out).__name__} of {len(out)}. Put them together: torch.cat([r.flatten() for r in residuals])."
            )
        if not isinstance(out, Tensor) or out.dim() == 0:
            raise ValueError(
                f"{self.path} needs a closure that returns the residuals, whose squares are summed up to the loss; "
                "this one returned a single number. For a loss that is no sum of squares give a trust region "
                "hess=tz.m.BFGS(), or use TrustCG."
            )
        return out.reshape(-1)

    def loss(self, var: Var) -> Any:
        """The closure of the sum of squares, for the modules that come later."""

        def closure(backward: bool = True) -> Tensor:
            if not backward:
                return _square(self.values().detach())
            params = [p for p in (var.params if var.modular is None else var.modular.all_params) if p.requires_grad]
            r = self()
            with torch.enable_grad():
                grads = graph_grads(_square(r), params)
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            return _square(r.detach())

        return closure


def _square(r: Tensor) -> Tensor:
    return at_least_float32(r).square().sum()


class LevenbergMarquardt(TrustMethod):
    r"""Levenberg and Marquardt's method: a damped Gauss-Newton step, for closures that return residuals.

    .. math:: (B + λD²)\, s = -g, \qquad B = 2J'J

    λ shrinks after steps that go well and grows fast while steps are rejected (Nielsen's rule). D is made of the
    largest norms of the columns of J so far, or the identity. See :class:`GaussNewton` for the closure; with another
    ``hess`` it returns the loss as usual.

    Args:
        hess: what gives B; :class:`GaussNewton` by default.
        init: λ at first: relative to D, and to the largest element of B's diagonal where D is the identity.
        scaling: "columns": D² is the largest diagonal of B so far, so that the units of parameters do not matter;
            "none": D = I.
        nminus: the smallest number that λ is multiplied by after a step that went well.
        nplus: what λ is multiplied by after a rejected step; twice as much after each further one in a row.

    Raises:
        ValueError: settings that differ between parameter groups; a closure that returns one number, the loss.
        TypeError: a ``hess`` that has no Hessian.

    Reference: J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978; Madsen, Nielsen and
    Tingleff, Methods for Non-Linear Least Squares Problems, 2004.

    Example:
        >>> import torch, torchzero_core as tz
        >>> x = torch.linspace(0, 2, 20)
        >>> y = 2 * torch.exp(-1.5 * x)
        >>> p = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LevenbergMarquardt())
        >>> for _ in range(10):
        ...     loss = optimizer.step(lambda backward=True: p[0] * torch.exp(p[1] * x) - y)
        >>> p.detach()
        tensor([ 2.0000, -1.5000])
    """

    kept = {"scale": StateKind.VALUES, "lam": StateKind.POSITIVE, "growth": StateKind.POSITIVE}

    hess: Child | None = None
    init: Positive = 1e-3
    scaling: Literal["columns", "none"] = "columns"
    nminus: OpenFraction = 0.1
    nplus: Positive = 2.0

    def __post_init__(self) -> None:
        if "hess" not in self.children:
            self.set_child("hess", GaussNewton())

    def begin(self, model: Model) -> None:
        """λ, its growth and the scale are the state."""
        h, state = model.settings, model.state
        diagonal = model.B.dense.diagonal().abs()
        largest = float(diagonal.max())
        if h["scaling"] == "columns":
            # a parameter that nothing depends on yet is damped as the others are
            diagonal = torch.where(diagonal > 0, diagonal, largest or 1.0)
            known = self._scale(model)
            state["scale"] = diagonal.clone() if known is None else torch.maximum(known.to(diagonal), diagonal)
        state.setdefault("lam", h["init"] * (1.0 if h["scaling"] == "columns" else largest or 1.0))
        state.setdefault("growth", h["nplus"])

    def _scale(self, model: Model) -> Tensor | None:
        """The largest diagonal so far; None where there is none of these parameters."""
        known, noted = model.state.get("scale"), "epoch" in model.state
        if not same_params(self, model.unit.params) and noted:
            return None
        if known is not None and known.shape != model.g.shape:
            raise ValueError(
                f"{self.path} keeps 'scale' for {known.numel()} elements, and the parameters have {len(model.g)} now; "
                "forget it with the module's reset()."
            )
        return known

    def solve(self, model: Model) -> tuple[Tensor, float, bool]:
        """The damped step."""
        state = model.state
        scale = state["scale"] if model.settings["scaling"] == "columns" else torch.ones_like(model.g)
        step = -model.B.solve(model.g, state["lam"] * scale)
        return step, model.decrease(step), False

    def resize(self, model: Model, ratio: float, *, kept_short: bool) -> None:
        h, state, dtype = model.settings, model.state, model.g.dtype
        if ratio > h["eta"]:
            factor = max(h["nminus"], 1 - (2 * min(ratio, 1.0) - 1) ** 3)
            state["lam"] = max(state["lam"] * factor, torch.finfo(dtype).eps)
            state["growth"] = h["nplus"]
        else:
            state["lam"] = min(state["lam"] * state["growth"], 1 / torch.finfo(dtype).eps ** 2)
            state["growth"] = min(2 * state["growth"], 2.0**30)
