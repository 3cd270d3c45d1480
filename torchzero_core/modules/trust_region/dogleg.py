"""Powell's dogleg."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Model, Radius, to_boundary


class Dogleg(Radius):
    r"""Powell's dogleg method: along −g to the minimum of the model on it, and from there towards Newton's step.

    .. math::
        s_U = -\frac{g'g}{g'Bg} g, \qquad s_B = -B^{-1}g, \qquad
        s = s_U + t (s_B - s_U) \;\text{ with }\; ‖s‖ = Δ

    Newton's step itself is taken where it lies within the region. Where B is not positive definite, the step is the one
    along −g alone, to the boundary if the curvature there is negative. The true Hessian is best far from saddles, and
    that of :class:`BFGS` is always positive definite.

    Raises:
        ValueError: settings that differ between parameter groups.
        TypeError: a ``hess`` that has no Hessian.
        RuntimeError: a loss that has no graph, without ``hess``.

    Reference: M. J. D. Powell, "A hybrid method for nonlinear equations", 1970; Nocedal and Wright, Numerical
    Optimization, 2006, section 4.1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.Dogleg(tz.m.BFGS()))
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def within(self, model: Model, radius: float) -> tuple[Tensor, bool]:
        """The step of the dogleg."""
        g = model.g
        if not bool(g.any()):
            return torch.zeros_like(g), False
        newton = model.B.definite_solve(g)
        if newton is not None and model.norm(newton) < radius:
            return -newton, False
        square, curvature = model.dot(g, g), model.dot(g, model.B @ g)
        length = model.norm(g)
        if not curvature > 0 or square / curvature * length >= radius:
            return -(radius / length) * g, True
        cauchy = -(square / curvature) * g
        if newton is None or not bool(newton.isfinite().all()):
            return cauchy, False
        along = -newton - cauchy
        return cauchy + to_boundary(model, cauchy, along, radius)[1] * along, True
