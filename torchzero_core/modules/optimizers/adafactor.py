"""Adafactor (Shazeer & Stern 2018)."""

from __future__ import annotations

import math
from typing import Annotated

from ...core import Context, NonNegative, Range, Slot, Transform
from ...lang import Operand, Value


class Adafactor(Transform):
    r"""Divides the update by the root of an average of squares of which only rows and columns are kept.

    .. math::
        R_t = \hat β_t R_{t-1} + (1-\hat β_t) \overline{u_t^2}^{row}, \quad
        C_t = \hat β_t C_{t-1} + (1-\hat β_t) \overline{u_t^2}^{col}, \quad 1 - \hat β_t = t^γ, \quad
        \hat V_t = \frac{R_t C_t}{\overline{R_t}}

        U_t = \frac{u_t}{\sqrt{\max(\hat V_t, ε_1^2)}}, \quad
        u ← \frac{\max(ε_2, RMS(p)) \min(lr, 1/\sqrt t)}{\max(1, RMS(U_t)/d)} U_t

    Rows and columns are those of the last two dimensions; a tensor with fewer keeps the square of each element. It
    stands at the end of a chain, without a learning rate behind it, and equals ``torch.optim.Adafactor``.

    Args:
        lr: the learning rate, which is that of the parameter groups.
        beta2_decay: γ, at most 0.
        eps1: ε₁, the least root, and the least mean of squares. torch takes the rounding of the parameters' dtype.
        eps2: ε₂, the least scale of a tensor.
        d: the largest root mean square of a step that is not clipped, at least 1.

    Reference:
        Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, arXiv:1804.04235.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.ones(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[1.0, 2.0], [2.0, 4.0]])  # of rank one, so that nothing is lost
        >>> optimizer = tz.Modular([p], tz.m.Adafactor(lr=0.5))
        >>> optimizer.step()
        >>> p.detach()
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
        >>> [tuple(optimizer.state[p]["Adafactor." + name].shape) for name in ("row_var", "col_var")]
        [(2, 1), (1, 2)]
    """

    lr: NonNegative = 1e-2
    beta2_decay: Annotated[float, Range(-math.inf, 0, "(]")] = -0.8
    eps1: NonNegative = 2.0**-23
    eps2: NonNegative = 1e-3
    d: Annotated[float, Range(1, math.inf, "[)")] = 1.0
    row_var = Slot(dims=-1)
    col_var = Slot(dims=-2)
    mean_var = Slot(dims=(-2, -1))

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h, t, p = ctx.state, ctx.settings, ctx.step, ctx.params
        square, new = u * u, t**h.beta2_decay
        s.row_var = row = (1 - new) * s.row_var + new * square.mean(-1)
        s.col_var = col = (1 - new) * s.col_var + new * square.mean(-2)  # of each element, where there are no columns
        s.mean_var = mean = (1 - new) * s.mean_var + new * square.mean((-2, -1))
        var = (ctx.of_shape(len) >= 2).where(row * col / mean.maximum(h.eps1), col)
        step = u / var.maximum(h.eps1 * h.eps1).sqrt()
        size = u.numel().maximum(1.0).sqrt()
        scale = (p.norm() / size).maximum(h.eps2) * (1 / t**0.5).minimum(h.lr)
        return step * (scale / (step.norm() / (size * h.d)).maximum(1.0))
