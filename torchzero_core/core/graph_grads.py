"""Gradients of what a closure has returned, taken through its graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def graph_grads(
    value: Tensor, params: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None
) -> tuple[Tensor | None, ...]:
    """Differentiate a loss that a closure has returned.

    Args:
        value: the loss.
        params: the parameters.
        create_graph: make the gradients differentiable.
        retain_graph: keep the graph for another pass; as ``create_graph`` by default.

    Returns:
        The gradients; None for parameters that the loss does not depend on.

    Raises:
        RuntimeError: the closure has gone backward through the graph, which frees it.
    """
    try:
        return torch.autograd.grad(
            value, params, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
        )
    except RuntimeError as error:
        if "a second time" not in str(error):
            raise
        raise RuntimeError(
            "The closure has freed the graph of what it returned, which is to be differentiated here: it calls "
            "loss.backward() where backward is false. Call it only if backward is true, as in `if backward: "
            "optimizer.zero_grad(); loss.backward()`; and compute in the closure whatever depends on the parameters."
        ) from error
