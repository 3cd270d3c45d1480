"""Thomas' optimal method."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .base import QuasiNewtonH
from .rank_one import rank_one


class ThomasOptimalMethod(QuasiNewtonH):
    """Thomas' optimal method: H ← H + (s − Hy)c'/c'y with c = H'd, where d = (R + ½‖s‖·I)s.

    R, a bound of the error of H that starts as I, becomes (1 + ‖s‖)·(‖s‖·I + R − dd'/d's). H is not symmetric, so a
    direction may point uphill. H keeps its value when abs(c'y) ≤ tol·‖c‖‖y‖.

    Reference: S. W. Thomas, Sequential estimation techniques for quasi-Newton algorithms, thesis, Cornell, 1975.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ThomasOptimalMethod())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def on_reset(self, matrix: Tensor, state: MutableMapping[str, Any], settings: Mapping[str, Any]) -> Tensor:
        state.pop("R", None)
        return super().on_reset(matrix, state, settings)

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
        R = state["R"] if "R" in state else torch.eye(len(s), dtype=s.dtype, device=s.device)
        length = s.norm()
        d = R @ s + 0.5 * length * s
        new = R.addr(d / torch.dot(d, s), d, alpha=-1)
        new.diagonal().add_(length)
        new *= 1 + length
        state["R"] = torch.where(new.isfinite().all(), new, R)  # R grows by a factor a step where s never goes
        return rank_one(H, s - H @ y, d @ H, y, settings["tol"])
