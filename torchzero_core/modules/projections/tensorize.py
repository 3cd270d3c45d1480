"""All parameters as one tensor with equal sides."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from ...core import Modules, Passed, Range, Var
from ...core.evaluate import uniform_settings
from ...linalg import flatten, unflatten_as
from .base import Current, Projection


class TensorizeProjection(Projection):
    """Runs modules on all parameters joined into one tensor with equal sides, padded with zeros.

    It has as few dimensions as ``max_side`` allows, so that what has a matrix for each dimension, such as Shampoo, has
    few small ones.

    Args:
        modules: what runs on the tensor.
        max_side: the largest side, at least 2.
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure on the tensor, for line searches and the like.
        project_grad: join the gradients even if nobody asks for them.

    Raises:
        ValueError: settings that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> a, b = torch.zeros(3, 5, requires_grad=True), torch.zeros(5, requires_grad=True)
        >>> a.grad, b.grad = torch.ones(3, 5), torch.ones(5)
        >>> shapes = tz.m.PrintShape(print_fn=print)
        >>> tz.Modular([a, b], tz.m.TensorizeProjection(shapes, max_side=6)).step()  # 20 elements in 25
        shapes = [(5, 5)]
        >>> b.detach()
        tensor([-1., -1., -1., -1., -1.])
    """

    modules: Passed[Modules]
    max_side: Annotated[int, Range(2, float("inf"), "[)")]
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Join and pad."""
        vector = flatten(tensors)
        side, dims = equal_sides(vector.numel(), uniform_settings(self, var.params)["max_side"])
        out = vector.new_zeros(side**dims)
        out[: vector.numel()] = vector
        return [out.view([side] * dims)]

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Cut."""
        return unflatten_as(tensors[0].reshape(-1)[: sum(p.numel() for p in var.params)], var.params)


def equal_sides(n: int, max_side: int) -> tuple[int, int]:
    """The least side, and the number of dimensions, of a tensor with equal sides and room for n elements.

    Args:
        n: how many elements.
        max_side: the largest side; the fewest dimensions with which it is enough are taken.

    Example:
        >>> equal_sides(20, 100), equal_sides(20, 6), equal_sides(27, 4), equal_sides(0, 4)
        ((20, 1), (5, 2), (3, 3), (0, 1))
    """
    dims = 1
    while max_side**dims < n:
        dims += 1
    side = round(n ** (1 / dims))
    while side**dims < n:
        side += 1
    while side and (side - 1) ** dims >= n:
        side -= 1
    return side, dims
