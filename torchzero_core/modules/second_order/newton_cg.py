"""Newton's method by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Positive, StepInfo, Var
from ...core.evaluate import gradient, uniform_settings
from ...core.vector_method import Unit, VectorMethod, reductions_of
from ...linalg import cg, hvp_autograd, hvp_central, hvp_forward


@dataclass(eq=False)
class _System:
    """The system of a step: products with H, the solver's tolerance, and where to say how it went."""

    product: Callable[[list[Tensor]], list[Tensor]]
    info: StepInfo
    tol: float = 0.0


class NewtonCG(VectorMethod):
    """Inexact Newton method: the direction solves (H + reg·I) x = u by conjugate gradients, without forming H.

    The solver ends when the residual is below η·‖u‖. The forcing sequence η is ``tol`` at the first step and then
    0.9·(‖u‖/‖u₀‖)², u₀ the previous update, between ``tol`` and 0.1: systems are solved as well as it pays, and
    convergence stays fast. At the first direction of negative curvature the solver stops with what it has, which
    points downhill.

    Args:
        maxiter: largest number of Hessian products in a step. None: as many as there are parameters, at most 1000.
        tol: smallest tolerance of the solver relative to ‖u‖.
        reg: added to the diagonal of H.
        hvp_method: how Hessian products are computed. "forward": from one further gradient; "central": from two, with
            an error of order h²; "autograd": exactly, from a closure(backward=False) whose loss can be differentiated.
        h: the distance of the further gradients.
        warm_start: start from the last solution.
        inner: a module that gives the right-hand side.
        forcing: False: η = tol at every step.

    Raises:
        ValueError: settings that differ between parameter groups.
        RuntimeError: with "autograd", a loss that has no graph.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 7.1; Eisenstat and Walker, SIAM J. Scientific
    Computing 17, 1996.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.NewtonCG(), tz.m.StrongWolfe())
        >>> for _ in range(30):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    requires_closure = True
    starts_anew = False

    maxiter: Count | None = None
    tol: Beta = 1e-4
    reg: NonNegative = 1e-8
    hvp_method: Literal["forward", "central", "autograd"] = "forward"
    h: Positive = 1e-3
    warm_start: bool = False
    inner: Child | None = None
    _: KW_ONLY
    forcing: bool = True

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """With autograd the module takes the gradient itself, so that it can be differentiated again."""
        return self.defaults["hvp_method"] != "autograd"

    def prepare(self, var: Var) -> _System:
        """Evaluate the gradient of the step, if nothing has done so yet, in the way that the products need it."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        return _System(self._products(var, uniform_settings(self, var.params)), var.info)

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Choose the tolerance from the norm of the update."""
        squares = torch.stack([t.float().square().sum() for t in unit.tensors(u)])  # enough for a tolerance
        unit.given.tol = self._tolerance(float(unit.total(squares.sum()).sqrt()), unit)
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The approximate solution of (H + reg·I) d = x."""
        h, system = unit.settings, unit.given
        states = [self.state[p] for p in unit.params]
        start = None
        if h["warm_start"] and all("prev_x" in s for s in states):
            start = unit.vector([s["prev_x"] for s in states])
        result = cg(
            lambda v: unit.vector(system.product(unit.tensors(v))),
            x,
            start,
            tol=system.tol,
            maxiter=min(unit.numel(), 1000) if h["maxiter"] is None else h["maxiter"],
            reg=h["reg"],
            reduce=unit.total,
        )
        if result.status == "breakdown":
            system.info.status = "Hessian product not finite"
        d = result.x
        if result.curved is not None:  # go on as if the curvature were positive
            d = result.curved if result.iterations == 1 + (start is not None) else d + result.curved
        if start is not None and float(unit.dot(d, x)) <= 0:  # only a warm start can point uphill
            d = x
        return d

    def finish(self, unit: Unit, direction: Tensor) -> Tensor:
        """Keep the solution for a warm start."""
        if unit.settings["warm_start"]:
            for p, piece in zip(unit.params, unit.tensors(direction), strict=True):
                self.state[p]["prev_x"] = piece.clone()
        return direction

    def _tolerance(self, norm: float, unit: Unit) -> float:
        """The forcing term."""
        state, h = unit.state, unit.settings
        before, eta = state.get("prev_norm"), h["tol"]
        if h["forcing"] and before is not None and before > 0 and math.isfinite(norm):
            ratio = min(norm / before, 1.0)
            eta = max(h["tol"], min(0.9 * ratio * ratio, 0.1))
        if math.isfinite(norm):
            state["prev_norm"] = norm
        return eta

    def _products(self, var: Var, settings: Mapping[str, Any]) -> Callable[[list[Tensor]], list[Tensor]]:
        """v ↦ H·v; evaluates the gradient of the step if nothing has done so yet."""
        method, h, closure = settings["hvp_method"], settings["h"], var.closure
        assert closure is not None
        if method == "autograd":
            return self._autograd(var)
        at = var.get_grad()
        if var.modular is not None:
            var.modular.transaction.keep(var.params)  # each product moves them
        params, total = var.params, reductions_of(var).sum_scalar
        if method == "forward":
            return lambda v: hvp_forward(lambda: gradient(closure, params)[1], params, v, at, h, total)
        return lambda v: hvp_central(lambda: gradient(closure, params)[1], params, v, h, total)

    def _autograd(self, var: Var) -> Callable[[list[Tensor]], list[Tensor]]:
        mean = reductions_of(var).mean_grads
        assert var.closure is not None
        if var.grad is None:
            try:
                grads = var.get_grad(create_graph=True)
            except RuntimeError as error:
                if "graph of the loss" in str(error):
                    raise RuntimeError(self._no_graph()) from error
                raise
            var.grad = mean([g.detach() for g in grads])
        else:  # evaluated before, without a graph
            with torch.enable_grad():
                loss = var.closure(False)
                if not (isinstance(loss, Tensor) and loss.requires_grad):
                    raise RuntimeError(self._no_graph())
                taken = torch.autograd.grad(loss, var.params, create_graph=True, allow_unused=True)
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(var.params, taken, strict=True)]
        params = var.params
        return lambda v: mean(hvp_autograd(grads, params, v))

    def _no_graph(self) -> str:
        return (
            f"{self.path} with hvp_method='autograd' needs a loss that can be differentiated, but "
            "closure(backward=False) returned one without a graph (the closure of a gradient approximation has none "
            "either); use hvp_method='forward'."
        )
