"""What the methods share that know the Hessian by its products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import StepInfo, Var
from ...core.evaluate import gradient, uniform_settings
from ...core.vector_method import Unit, VectorMethod, reductions_of
from ...linalg import hvp_autograd, hvp_central, hvp_forward


@dataclass(eq=False)
class System:
    """The system of a step: products with H, the solver's tolerance, and where to say how it went."""

    product: Callable[[list[Tensor]], list[Tensor]]
    info: StepInfo
    tol: float = 0.0

    def on(self, unit: Unit) -> Callable[[Tensor], Tensor]:
        """Products with vectors."""
        return lambda v: unit.vector(self.product(unit.tensors(v)))


class HessianProducts(VectorMethod):
    """Base of methods that know the Hessian by its products; ``unit.given`` is their :class:`System`.

    A subclass has the settings ``hvp_method`` and ``h``.
    """

    requires_closure = True
    starts_anew = False

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """With autograd the module takes the gradient itself, so that it can be differentiated again."""
        return self.defaults["hvp_method"] != "autograd"

    def prepare(self, var: Var) -> System:
        """Evaluate the gradient of the step, if nothing has done so yet, in the way that the products need it."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        return System(self._products(var, uniform_settings(self, var.params)), var.info)

    def _products(self, var: Var, settings: Mapping[str, Any]) -> Callable[[list[Tensor]], list[Tensor]]:
        """v ↦ H·v; evaluates the gradient of the step if nothing has done so yet."""
        method, h, closure = settings["hvp_method"], settings["h"], var.closure
        assert closure is not None
        if method == "autograd":
            grads = graph_of_gradient(self, var, "hvp_method='forward'")
            mean, params = reductions_of(var).mean_grads, var.params  # those that have a gradient
            return lambda v: mean(hvp_autograd(grads, params, v))
        at = var.get_grad()
        if var.modular is not None:
            var.modular.transaction.keep(var.params)  # each product moves them
        params, total = var.params, reductions_of(var).sum_scalar
        if method == "forward":
            return lambda v: hvp_forward(lambda: gradient(closure, params)[1], params, v, at, h, total)
        return lambda v: hvp_central(lambda: gradient(closure, params)[1], params, v, h, total)


def graph_of_gradient(module: VectorMethod, var: Var, instead: str) -> list[Tensor]:
    """The gradient of the step with its graph; zeros for parameters that the loss does not depend on.

    Args:
        module: who asks.
        var: the step.
        instead: what a user can do where the loss has no graph.

    Raises:
        RuntimeError: the loss has no graph.
    """
    closure = var.closure
    assert closure is not None
    no_graph = (
        f"{module.path} needs a loss that can be differentiated, but closure(backward=False) returned one without a "
        f"graph (the closure of a gradient approximation has none either); use {instead}."
    )
    if var.grad is None:
        try:
            grads = var.get_grad(create_graph=True)
        except RuntimeError as error:
            if "graph of the loss" in str(error):
                raise RuntimeError(no_graph) from error
            raise
        var.grad = reductions_of(var).mean_grads([g.detach() for g in grads])
        return list(grads)
    with torch.enable_grad():  # evaluated before, without a graph
        loss = closure(False)
        if not (isinstance(loss, Tensor) and loss.requires_grad):
            raise RuntimeError(no_graph)
        taken = torch.autograd.grad(loss, var.params, create_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(var.params, taken, strict=True)]
