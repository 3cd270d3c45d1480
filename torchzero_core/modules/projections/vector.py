"""All parameters as one vector."""

from __future__ import annotations

from torch import Tensor

from ...core import Modules, Passed, Var
from ...linalg import flatten, unflatten_as
from .base import Current, Projection


class VectorProjection(Projection):
    """Runs modules on all parameters joined into one vector, so that what works tensor by tensor sees them as one.

    Args:
        modules: what runs on the vector.
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure on the vector, for line searches and the like.
        project_grad: join the gradients even if nobody asks for them.

    Raises:
        ValueError: settings of the modules that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
        >>> a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
        >>> tz.Modular([a, b], tz.m.VectorProjection(tz.m.ClipNorm(1.0))).step()
        >>> a.detach(), b.detach()
        (tensor([-0.6000]), tensor([-0.8000]))
    """

    modules: Passed[Modules]
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Join."""
        return [flatten(tensors)]

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Cut."""
        return unflatten_as(tensors[0], var.params)
