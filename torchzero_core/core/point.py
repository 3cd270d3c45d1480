"""Where a step is: what products with the Hessian are computed from."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .closure import detached
from .evaluate import gradient, kept_grads
from .graph_grads import graph_grads
from .var import NoGraph, Var
from .vector_method import reductions_of


class StepPoint:
    """The parameters of a step with their gradients, evaluated as they are asked for; a ``Point`` of ``linalg.hvp``.

    Args:
        var: the step.
        path: of the module that asks.
        instead: what a user can do where the loss has no graph.
    """

    def __init__(self, var: Var, path: str, instead: str = "hvp_method='forward'") -> None:
        if var.closure is None:
            raise RuntimeError(f"{path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        self.var, self.closure = var, var.closure
        self.no_graph = (
            f"{path} needs a loss that can be differentiated, but closure(backward=False) returned one without a graph "
            f"(the closure of a gradient approximation, or in a projection, has none either); use {instead}. A closure "
            "of your own takes the argument backward, calls loss.backward() only if it is true, and returns the loss "
            "undetached."
        )
        if var.modular is not None:
            var.modular.transaction.keep(var.params)  # products move them
        reductions = reductions_of(var)
        self.total, self.mean = reductions.sum_scalar, reductions.mean_grads

    @property
    def params(self) -> list[Tensor]:
        """The parameters; once their gradients are known, those that have one."""
        return self.var.params

    @property
    def grads(self) -> list[Tensor]:
        """The gradient here."""
        return self.var.get_grad()

    def gradient(self) -> list[Tensor]:
        """The gradient where the parameters have been moved to."""
        return gradient(self.closure, self.params)[1]

    @cached_property
    def grads_with_graph(self) -> list[Tensor]:
        """The gradient here, which can be differentiated; zeros for parameters that the loss does not depend on.

        Where nothing has evaluated the gradient yet, it becomes that of the step.

        Raises:
            RuntimeError: the loss has no graph.
        """
        if self.var.grad is None and self.var.changes_grads:
            self.var.get_grad()  # the graph leads to those that they were made of
        if self.var.grad is None:
            try:
                grads = list(self.var.get_grad(create_graph=True))
            except NoGraph as error:
                raise RuntimeError(self.no_graph) from error
            self.var.grad = self.mean([g.detach() for g in grads])
            return grads
        with torch.enable_grad():  # evaluated before, without a graph
            loss = self.closure(False)
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise RuntimeError(self.no_graph)
            taken = graph_grads(loss, self.params, create_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, taken, strict=True)]


def number_of(loss: Any, var: Var) -> Tensor:
    """A loss that a closure returned, the same on all ranks.

    Args:
        loss: what the closure returned.
        var: the step.
    """
    number = detached(loss)
    return number if var.modular is None else var.modular.distributed.mean_loss(number)


def loss_after(var: Var, update: list[Tensor], scratch: str, *, backward: bool = False) -> float:
    """The loss where an update leads, infinite where it is not a number; parameters and gradients are put back.

    The graph of an evaluation where the step starts can be used on: it notices nothing of the way there and back.

    Args:
        var: the step.
        update: what is subtracted from the parameters.
        scratch: the name of the memory in which the parameters are kept meanwhile.
        backward: with gradients, which a deterministic closure then has for the start of the next step.
    """
    assert var.closure is not None
    start = var.scratch(scratch)
    data = [p.data for p in var.params]
    torch._foreach_copy_(start, data)
    if var.modular is not None:
        var.modular.transaction.lend(data, start)
    try:
        torch._foreach_sub_(data, update)
        with kept_grads(var.params if var.modular is None else var.modular.all_params):
            loss = float(number_of(var.closure(backward), var))
        return math.inf if math.isnan(loss) else loss
    finally:
        torch._foreach_copy_(data, start)
