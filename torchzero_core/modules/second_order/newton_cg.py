"""Newton's method by conjugate gradients."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Positive, StateKind
from ...core.vector_method import Unit
from ...linalg import cg
from .products import HessianProducts

#: The largest forcing term.
LOOSEST = 0.1


class NewtonCG(HessianProducts):
    r"""Inexact Newton method: the direction solves (H + reg·I) x = u by conjugate gradients, without forming H.

    The solver ends when the residual r is below η·‖u‖. With u₀ and r₀ those of the previous step, the forcing term is
    the smaller one of the two choices of Eisenstat and Walker,

    .. math:: η = \min\left(\frac{|\, ‖u‖ - ‖r_0‖ \,|}{‖u_0‖},\; 0.9 \frac{‖u‖^2}{‖u_0‖^2}\right)
        \quad \text{between tol and 0.1},

    and 0.1 at the first step; after a step of negative curvature it is the second one. After a full step the gradient
    would be r₀ if the Hessian were constant: so a quadratic loss is solved to ``tol`` from the second step on, others
    as well as it pays, and convergence stays fast. At the first direction of negative curvature the solver stops with
    what it has, which points downhill.

    Args:
        maxiter: largest number of Hessian products in a step. None: five for each parameter, since rounding and
            differences cost conjugate gradients their exactness; at most 1000.
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

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 7.1; Eisenstat and Walker, "Choosing the
    forcing terms in an inexact Newton method", SIAM J. Scientific Computing 17, 1996.

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

    kept = {"prev_norm": StateKind.NUMBER, "prev_residual": StateKind.NUMBER, "x0": StateKind.VALUES}

    maxiter: Count | None = None
    tol: Beta = 1e-4
    reg: NonNegative = 1e-8
    hvp_method: Literal["forward", "central", "autograd"] = "forward"
    h: Positive = 1e-3
    warm_start: bool = False
    inner: Child | None = None
    _: KW_ONLY
    forcing: bool = True

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
            start = unit.vector(self.get_state(unit.params, "prev_x"))
        result = cg(
            system.on(unit),
            x,
            start,
            tol=system.tol,
            maxiter=min(5 * unit.numel(), 1000) if h["maxiter"] is None else h["maxiter"],
            reg=h["reg"],
            reduce=unit.total,
        )
        if result.status == "breakdown":
            system.info.status = "Hessian product not finite"
        d = result.x
        if result.status in ("converged", "maxiter") and math.isfinite(result.residual_norm):
            unit.state["prev_residual"] = result.residual_norm
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
        state, h, eta = unit.state, unit.settings, LOOSEST
        before, residual = state.get("prev_norm"), state.get("prev_residual", math.inf)
        if math.isfinite(norm):
            state["prev_norm"], state["prev_residual"] = norm, math.inf  # until the system is solved
            if before:
                eta = min(abs(norm - residual) / before, 0.9 * (norm / before) ** 2, LOOSEST)
        return max(eta, h["tol"]) if h["forcing"] else h["tol"]
