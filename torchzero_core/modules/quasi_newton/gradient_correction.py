"""Correction of the gradient for a search that was not exact."""

from __future__ import annotations

from ...core import Context, Slot, Target, Transform
from ...lang import Value


class GradientCorrection(Transform):
    """The gradient at the minimum along the last step: u − y·(s'u)/(s'y).

    s and y are the differences of parameters and of updates between steps. On a quadratic this is what the gradient
    would be if the last search had been exact, so quasi-Newton and conjugate gradient methods behind it see what their
    theory assumes. The first update, and one for which the correction is not finite, stays as it is. Inner products go
    over all parameters.

    Args:
        target: what is corrected.

    Reference: S. Hoshino, IMA J. Applied Mathematics 10, 1972.

    Example:
        >>> import torch, torchzero_core as tz
        >>> a = torch.tensor([1.0, 4.0])
        >>> p = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.GradientCorrection(), tz.m.LR(0.1))
        >>> for _ in range(2):
        ...     p.grad = a * p.detach()
        ...     optimizer.step()
        >>> ((torch.tensor([0.9, 0.6]) - p.detach()) / 0.1).round(decimals=4)  # across the first step, (1, 4)
        tensor([ 0.7385, -0.1846])
    """

    target: Target = "update"
    prev_params = Slot()
    prev_update = Slot()

    def rule(self, u: Value, ctx: Context) -> Value:
        state, out = ctx.state, u
        if not ctx.first:
            s, y = ctx.params - state.prev_params, u - state.prev_update
            factor = s.global_dot(u) / s.global_dot(y)
            out = factor.isfinite().where(u - factor * y, u)
        state.prev_params, state.prev_update = ctx.params, u
        return out
