"""The method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .rank_two import Coefficients, RankTwo


class BFGS(RankTwo):
    """BFGS: H ← (I − sy'/s'y) H (I − ys'/s'y) + ss'/s'y, skipped when s'y ≤ tol·‖s‖‖y‖.

    The direction is H·u. H has n² elements for n parameters; see :class:`LBFGS` for many parameters.

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

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        return Coefficients(ss=(1 + yHy / sy) / sy, sh=-1 / sy)
