"""Pearson's methods of projected directions."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...core import Child, Count, NonNegative, Positive
from ...core.vector_method import VectorMethod
from .base import QuasiNewtonH


class ProjectedNewtonRaphson(QuasiNewtonH):
    """Pearson's projected Newton-Raphson method: H ← H − Hyy'H/y'Hy, and R ← R + (s − Ry)(Hy)'/y'Hy from R = I on.

    H takes the differences of gradients out of the space of directions, one after the other, while R learns the inverse
    Hessian; at each reset H ← R, and R goes on learning. In between H has no inverse, and nothing of it is left after n
    steps. Skipped when y'Hy ≤ tol·‖s‖‖y‖ or y'Hy ≤ tol·‖Hy‖‖y‖.

    Args:
        reset_interval: H ← R every so many steps; "auto": after one step more than there are parameters. None: never.

    Reference: J. D. Pearson, Computer Journal 12, 1969, doi:10.1093/comjnl/12.2.171, algorithm 7.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.ProjectedNewtonRaphson(), tz.m.StrongWolfe())
        >>> for _ in range(100):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    reset_interval: Count | Literal["auto"] | None = "auto"
    forgets: ClassVar[bool] = False

    def on_reset(self, matrix: Tensor, state: MutableMapping[str, Any], settings: Mapping[str, Any]) -> Tensor:
        return state["R"].clone() if "R" in state else matrix

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
        Hy, yH = H @ y, y @ H  # H is not symmetric once it has been R
        share = _share(s, y, Hy, settings["tol"])
        state["R"] = R.addr(torch.where(share > 0, (s - R @ y) * share, 0.0), torch.where(share > 0, Hy, 0.0))
        return _project(H, Hy, yH, share)


class _Order(VectorMethod):
    """The order of the settings of the projected gradient method."""

    tol: NonNegative = 1e-10
    reset_interval: Count | Literal["auto"] | None = None
    update_freq: Count = 1
    scale_first: bool = False
    concat_params: bool = True
    inner: Child | None = None


class ProjectedGradientMethod(QuasiNewtonH, _Order):
    """Pearson's projected gradient method: H ← H − Hyy'H/y'Hy from H = I on, and the direction H·u.

    H takes the differences of gradients out of the space of directions, so that on a quadratic with an exact search
    each direction is conjugate to those before. Nothing of H is left after n steps; it starts anew at the next. Skipped
    when y'Hy ≤ tol·‖s‖‖y‖ or y'Hy ≤ tol·‖Hy‖‖y‖.

    Args:
        reset_interval: start anew every so many steps. None or "auto": after one step more than there are parameters.
        init_scale: H starts as ``init_scale``·I. "auto": as I, scaled by s'y/y'y before its first update.

    Reference: J. D. Pearson, Computer Journal 12, 1969, doi:10.1093/comjnl/12.2.171.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.ProjectedGradientMethod(), tz.m.StrongWolfe(c2=0.1))
        >>> for _ in range(100):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    reset_interval: Count | Literal["auto"] | None = None
    scale_first: bool = False
    init_scale: Positive | Literal["auto"] = 1.0

    @property
    def has_scale(self) -> bool:  # type: ignore[override]
        """Only with a child that gives the length."""
        return "inner" in self.children

    def reset_every(self, n: int, settings: Mapping[str, Any]) -> int | None:
        interval = super().reset_every(n, settings)
        return n + 1 if interval is None else interval

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
        Hy = H @ y
        return _project(H, Hy, Hy, _share(s, y, Hy, settings["tol"]))


def _share(s: Tensor, y: Tensor, Hy: Tensor, tol: float) -> Tensor:
    """1/y'Hy; zero where y'Hy is so small that rounding may have made it."""
    yHy = torch.dot(y, Hy)
    ok = (yHy > tol * s.norm() * y.norm()) & (yHy > tol * Hy.norm() * y.norm()) & (1 / yHy).isfinite()
    return torch.where(ok, 1 / yHy, 0.0)


def _project(H: Tensor, Hy: Tensor, yH: Tensor, share: Tensor) -> Tensor:
    """H − Hyy'H·share, in the memory of H."""
    ok = share > 0
    return H.addr_(torch.where(ok, Hy * share, 0.0), torch.where(ok, yH, 0.0), alpha=-1)
