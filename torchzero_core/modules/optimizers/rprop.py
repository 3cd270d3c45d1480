"""Rprop (Riedmiller & Braun 1993)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from ...core import Context, NonNegative, OpenFraction, Positive, Range, Slot, Transform
from ...lang import Value


class Rprop(Transform):
    r"""Resilient propagation: only the sign of the update counts, and each element has a step size of its own.

    A step size Δ grows while the sign stays and shrinks where it changes, and within [lb, ub]:

    .. math::
        Δ ← clamp\left(Δ · \begin{cases} nplus & u·u_{prev} > 0 \\ nminus & u·u_{prev} < 0 \\ 1 & \text{else}
        \end{cases}\right), \quad u ← Δ·sign(u)

    An element whose sign has changed does not follow its update: it takes its last step back, or stays where it is;
    at the next step its Δ stays. With ``backtrack=False`` it equals ``torch.optim.Rprop(lr=alpha)``. It is made for
    gradients without noise.

    Args:
        nplus: what a step size grows by, at least 1.
        nminus: what it shrinks by, in (0, 1).
        lb: the least step size.
        ub: the largest step size.
        backtrack: take the last step back where the sign has changed; otherwise such elements stay.
        alpha: the step sizes at first.

    Reference:
        Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Rprop())
        >>> for grad in ([3.0, -0.1], [5.0, 0.2]):  # 1 and 1.2; 1 and back
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-2.2000,  0.0000])
    """

    size_effect = "own"
    nplus: Annotated[float, Range(1, math.inf, "[)")] = 1.2
    nminus: OpenFraction = 0.5
    lb: NonNegative = 1e-6
    ub: Positive = 50
    backtrack: bool = True
    alpha: Positive = 1
    prev = Slot()
    allowed = Slot(init=1.0, mask=True)
    magnitudes = Slot(init="alpha")

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        if settings["lb"] > settings["ub"]:
            raise ValueError(f"Rprop(lb={settings['lb']}, ub={settings['ub']}): lb must not be larger than ub.")

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        agree = u.sign() * s.prev.sign()
        grows, flips = s.allowed & (agree > 0), s.allowed & (agree < 0)
        factor = grows.where(h.nplus, flips.where(h.nminus, 1.0))
        size = (s.magnitudes * factor).clamp(h.lb, h.ub)
        step = u.sign() * size
        out = flips.where(-s.prev if h.backtrack else 0.0, step)
        s.prev, s.allowed, s.magnitudes = step, ~flips, size
        return out
