"""Cautious updates (Liang et al. 2024)."""

from __future__ import annotations

from typing import Literal

from ...core import Context, NonNegative, Target, Transform
from ...lang import Value


class Cautious(Transform):
    r"""Drops the elements of the update whose sign the gradient contradicts: u ← u·[u·g > 0].

    Placed after any optimizer it makes the cautious version of it.

    Args:
        normalize: divide by the share of elements that are kept in each tensor, so that the mean length of the step
            stays; only with mode "zero".
        eps: the least share to divide by.
        mode: what the other elements become: "zero" drops them, "grad" replaces them by the gradient, "backtrack"
            turns their sign.
        target: what is masked.

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.HeavyBall(0.9), tz.m.Cautious())
        >>> for grad in ([1.0, 1.0], [-0.5, 1.0]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-1.0000, -2.9000])
    """

    size_effect = "keeps"
    normalize: bool = False
    eps: NonNegative = 1e-6
    mode: Literal["zero", "grad", "backtrack"] = "zero"
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Value:
        h, g = ctx.settings, ctx.grads
        agrees = u * g > 0
        if h.mode == "grad":
            return agrees.where(u, g)
        if h.mode == "backtrack":
            return agrees.where(u, -u)
        kept = agrees.where(u, 0.0)
        return kept / agrees.float().mean().maximum(h.eps) if h.normalize else kept
