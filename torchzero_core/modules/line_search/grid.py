"""Line search over a grid."""

from __future__ import annotations

from torch import Tensor

from ...core import Count, Finite, Var
from .base import LineSearch
from .scalar import NO_DECREASE


class GridLineSearch(LineSearch):
    """Tries ``num`` step sizes, evenly spaced from ``start`` to ``end``, and takes the best.

    Where all of them are worse than staying the step is zero.

    Args:
        start: the first step size.
        end: the last step size.
        num: how many.

    Raises:
        ValueError: a step with settings that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.GridLineSearch(0.0, 1.0, 5))
        >>> _ = optimizer.step(closure)
        >>> optimizer.last_step.step_size
        0.5
    """

    start: Finite
    end: Finite
    num: Count

    def search(self, update: list[Tensor], var: Var) -> float:
        """The best step size of the grid; 0 where all are worse than staying."""
        h = self.common_settings(var)
        phi = self.make_objective(var)
        start, end, num = h["start"], h["end"], h["num"]
        for i in range(num):
            phi(start + (end - start) * i / max(num - 1, 1))
        alpha = phi.best.alpha
        return alpha if alpha != 0 else self.fail(NO_DECREASE)
