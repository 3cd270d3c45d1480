"""The method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .base import QuasiNewtonH


class BFGS(QuasiNewtonH):
    """BFGS: H ← (I − sy'/s'y) H (I − ys'/s'y) + ss'/s'y, skipped when s'y ≤ tol·‖s‖‖y‖.

    The direction is H·u. H has n² elements for n parameters; see :class:`LBFGS` for many parameters.

    Args:
        init_scale: H starts as ``init_scale``·I. "auto": as I, scaled by s'y/y'y before its first update.
        tol: smallest cosine between s and y that is learnt from, and smallest max|y|.
        tol_reset: start anew when max|y| ≤ tol. False: keep H as it is.
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters.
        beta: keep an exponential moving average of H with this factor instead of H itself.
        update_freq: update H every so many steps.
        scale_first: multiply the first direction, and that after a reset, by 1/max(1, ‖u‖₁).
        scale_second: multiply the second direction by 1/max(1, ‖u‖₁).
        concat_params: treat all parameters as one vector. False: one matrix for each parameter.
        inner: a module that gives what H is multiplied with; H learns from the plain update.

    Raises:
        ValueError: settings that differ between parameter groups although ``concat_params`` makes them one vector.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 6.1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.BFGS(), tz.m.StrongWolfe())
        >>> for _ in range(40):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-10
        True
    """

    def update_H(
        self,
        H: Tensor,
        s: Tensor,
        y: Tensor,
        p: Tensor,
        g: Tensor,
        p_prev: Tensor,
        g_prev: Tensor,
        state: MutableMapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Tensor:
        """The formula as one symmetric update of rank two, s·w' + w·s'."""
        sy, Hy = torch.dot(s, y), H @ y
        curvature = torch.dot(y, Hy) / sy
        ok = (sy > settings["tol"] * s.norm() * y.norm()) & curvature.isfinite()
        w = torch.where(ok, (0.5 * (1 + curvature) * s - Hy) / sy, 0.0)
        s = torch.where(ok, s, 0.0)
        return H.addmm_(torch.stack([s, w], 1), torch.stack([w, s]))
