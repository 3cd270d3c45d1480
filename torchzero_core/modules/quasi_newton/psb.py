"""Powell's symmetric Broyden method."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .base import QuasiNewtonB


class PSB(QuasiNewtonB):
    """Powell's symmetric Broyden method: B ← B + (rs' + sr')/s's − (r's)ss'/(s's)² with r = y − Bs.

    The smallest symmetric change of B with which Bs = y. The direction solves Bx = u. B need not be positive definite,
    so a direction may point uphill. Skipped when the result would not be finite, as where s is zero.

    Reference: M. J. D. Powell, A new algorithm for unconstrained optimization, in Nonlinear Programming, 1970.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.PSB(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def update_B(
        self,
        B: Tensor,
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
        ss, r = torch.dot(s, s), y - B @ s
        w = r / ss - 0.5 * (torch.dot(r, s) / ss) * s / ss
        ok = (w.norm() * s.norm()).isfinite()
        s, w = torch.where(ok, s, 0.0), torch.where(ok, w, 0.0)
        return B.addmm_(torch.stack([s, w], 1), torch.stack([w, s]))
