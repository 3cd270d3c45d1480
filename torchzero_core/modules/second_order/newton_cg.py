"""Newton's method by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Module, Var
from ...core.evaluate import gradient, uniform_settings
from ...core.module import Modules
from ...linalg import cg, flatten, hvp_autograd, hvp_central, hvp_forward, unflatten_as


class NewtonCG(Module):
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
    bounds = {
        "maxiter": (1, math.inf, "[)"),
        "tol": (0, 1, "[)"),
        "reg": (0, math.inf, "[)"),
        "h": (0, math.inf, "()"),
    }

    def __init__(
        self,
        maxiter: int | None = None,
        tol: float = 1e-4,
        reg: float = 1e-8,
        hvp_method: Literal["forward", "central", "autograd"] = "forward",
        h: float = 1e-3,
        warm_start: bool = False,
        inner: Modules | None = None,
        *,
        forcing: bool = True,
    ) -> None:
        super().__init__(
            dict(maxiter=maxiter, tol=tol, reg=reg, hvp_method=hvp_method, h=h, warm_start=warm_start, forcing=forcing)
        )
        if inner is not None:
            self.set_child("inner", inner)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """With autograd the module takes the gradient itself, so that it can be differentiated again."""
        return self.defaults["hvp_method"] != "autograd"

    def step(self, var: Var) -> Var:
        """Replace the update by the direction."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        if not var.params:  # none has a gradient
            return var
        settings = uniform_settings(self, var.params)
        product = self._products(var, settings)
        update, params = var.get_update(), var.params
        if not params:
            return var
        norm = float(torch.stack([u.detach().float().square().sum() for u in update]).sum().sqrt())
        if "inner" in self.children:
            update = var.run_inner(self.children["inner"])
        b = flatten(update)
        b = b.float() if b.dtype in (torch.bfloat16, torch.float16) else b
        states = [self.state[p] for p in params]
        start = None
        if settings["warm_start"] and all("prev_x" in s for s in states):
            start = flatten([s["prev_x"] for s in states], torch.empty_like(b))
        limit = min(b.numel(), 1000) if settings["maxiter"] is None else settings["maxiter"]
        distributed = var.modular.distributed if var.modular is not None else None
        result = cg(
            lambda v: flatten(product(unflatten_as(v, params)), torch.empty_like(v)),
            b,
            start,
            tol=self._tolerance(norm, settings),
            maxiter=limit,
            reg=settings["reg"],
            reduce=None if distributed is None else distributed.sum_scalar,
        )
        if result.status == "breakdown":
            var.info.status = "Hessian product not finite"
        x = result.x
        if result.curved is not None:  # go on as if the curvature were positive
            x = result.curved if result.iterations == 1 + (start is not None) else x + result.curved
        if start is not None and float(torch.dot(x, b)) <= 0:  # only a warm start can point uphill
            x = b
        if settings["warm_start"]:
            for s, piece in zip(states, unflatten_as(x, params), strict=True):
                s["prev_x"] = piece.clone()
        var.update = unflatten_as(x, params)
        return var

    def _tolerance(self, norm: float, h: dict[str, Any]) -> float:
        state = self.global_state
        before = state.get("prev_norm")
        eta = h["tol"]
        if h["forcing"] and before is not None and before > 0 and math.isfinite(norm):
            ratio = min(norm / before, 1.0)
            eta = max(h["tol"], min(0.9 * ratio * ratio, 0.1))
        if math.isfinite(norm):
            state["prev_norm"] = norm
        return eta

    def _products(self, var: Var, settings: dict[str, Any]) -> Callable[[list[Tensor]], list[Tensor]]:
        """v ↦ H·v; evaluates the gradient of the step if nothing has done so yet."""
        method, h = settings["hvp_method"], settings["h"]
        closure = var.closure
        assert closure is not None
        if method == "autograd":
            return self._autograd(var)
        at = var.get_grad()
        params = var.params
        if method == "forward":
            return lambda v: hvp_forward(lambda: gradient(closure, params)[1], params, v, at, h)
        return lambda v: hvp_central(lambda: gradient(closure, params)[1], params, v, h)

    def _autograd(self, var: Var) -> Callable[[list[Tensor]], list[Tensor]]:
        distributed = var.modular.distributed if var.modular is not None else None
        assert var.closure is not None
        if var.grad is None:
            try:
                grads = var.get_grad(create_graph=True)
            except RuntimeError as error:
                if "graph of the loss" in str(error):
                    raise RuntimeError(self._no_graph()) from error
                raise
            detached = [g.detach() for g in grads]
            var.grad = detached if distributed is None else distributed.mean_grads(detached)
        else:  # evaluated before, without a graph
            with torch.enable_grad():
                loss = var.closure(False)
                if not (isinstance(loss, Tensor) and loss.requires_grad):
                    raise RuntimeError(self._no_graph())
                taken = torch.autograd.grad(loss, var.params, create_graph=True, allow_unused=True)
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(var.params, taken, strict=True)]
        params = var.params

        def product(v: list[Tensor]) -> list[Tensor]:
            out = hvp_autograd(grads, params, v)
            return out if distributed is None else distributed.mean_grads(out)

        return product

    def _no_graph(self) -> str:
        return (
            f"{self.path} with hvp_method='autograd' needs a loss that can be differentiated, but "
            "closure(backward=False) returned one without a graph (the closure of a gradient approximation has none "
            "either); use hvp_method='forward'."
        )
