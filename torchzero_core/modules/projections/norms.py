"""The norms of the tensors as the space."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core import Modules, Passed, Var
from .base import Current, Projection


class TensorNormsProjection(Projection):
    """Runs modules on the vector of the norms of all tensors; what they make of it are the tensors' new norms.

    With ``project_params`` the vector is that of the norms of the parameters: each keeps its direction, and the modules
    choose how long it is, with the derivatives of the loss with respect to the lengths as their gradient.

    Args:
        modules: what runs on the vector of norms.
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure on the norms of the parameters, for line searches and the like.
        project_grad: take the norms of the gradients even if nobody asks for them.

    Raises:
        ValueError: settings of the modules that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> a, b = (torch.zeros(2, requires_grad=True) for _ in range(2))
        >>> a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])
        >>> tz.Modular([a, b], tz.m.TensorNormsProjection(tz.m.ClipValue(1.0))).step()
        >>> a.detach(), b.detach()
        (tensor([-0.6000, -0.8000]), tensor([ 0.0000, -0.5000]))
    """

    modules: Passed[Modules]
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """The norms, or how fast those of the parameters change in the direction of the tensors."""
        if self.project_params and current != "params":
            directions = _directions([p.detach() for p in var.params])
            return [_vector([(t * d).sum() for t, d in zip(tensors, directions, strict=True)])]
        return [_vector([t.norm() for t in tensors])]

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Directions with the new norms."""
        if current == "params" or self.project_params:
            source = [p.detach() for p in var.params]
        else:
            source = var.peek_update() if self.project_update else var.get_grad()
        lengths = tensors[0].unbind()
        return [d * n.to(d) for d, n in zip(_directions(source), lengths, strict=True)]


def _directions(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor divided by its norm; zeros stay."""
    out = []
    for t in tensors:
        norm = t.norm()
        out.append(t * torch.where(norm > 0, 1 / norm, 0.0))
    return out


def _vector(numbers: list[Tensor]) -> Tensor:
    first = numbers[0]
    dtype = first.dtype
    for n in numbers[1:]:
        dtype = torch.promote_types(dtype, n.dtype)
    return torch.stack([n.to(device=first.device, dtype=dtype) for n in numbers])
