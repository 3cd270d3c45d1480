"""Where a step is: what products with the Hessian are computed from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .evaluate import gradient
from .var import Var
from .vector_method import reductions_of


class StepPoint:
    """The parameters of a step with their gradients, evaluated as they are asked for; see ``linalg.hvp``.

    Args:
        var: the step.
        path: of the module that asks.
    """

    def __init__(self, var: Var, path: str) -> None:
        if var.closure is None:
            raise RuntimeError(f"{path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        self.closure, self.path = var.closure, path
        self.grads: list[Tensor] = var.get_grad()
        self.params = var.params
        reductions = reductions_of(var)
        self.total, self.mean = reductions.sum_scalar, reductions.mean_grads

    def gradient(self) -> list[Tensor]:
        """The gradient where the parameters have been moved to."""
        return gradient(self.closure, self.params)[1]

    @cached_property
    def grads_with_graph(self) -> list[Tensor]:
        """The gradient once more, so that it can be differentiated.

        Raises:
            RuntimeError: the loss has no graph.
        """
        with torch.enable_grad():
            loss = self.closure(False)
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise RuntimeError(
                    f"{self.path} with hvp_method='autograd' needs a loss that can be differentiated, but "
                    "closure(backward=False) returned one without a graph (the closure of a gradient approximation "
                    "has none either); use hvp_method='forward'."
                )
            taken = torch.autograd.grad(loss, self.params, create_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, taken, strict=True)]
