"""What Rprop is made of (Riedmiller & Braun 1993): step sizes and steps back where signs change."""

from __future__ import annotations

import math
from typing import Annotated

from ...core import Context, NonNegative, OpenFraction, Positive, Range, Slot, Target, Transform
from ...lang import Operand, Value


class SignConsistencyMask(Transform):
    r"""Where the update has the sign of the one before: u ← [u·u_prev > 0]. All zeros at the first step.

    Args:
        target: what is compared and replaced.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.SignConsistencyMask())
        >>> for grad in ([3.0, -0.1], [5.0, 0.2]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-1.,  0.])
    """

    target: Target = "update"
    prev = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        agree = u.sign() * ctx.state.prev.sign()
        ctx.state.prev = u
        return (agree > 0).float()


class _StepSizes(Transform):
    """What the two share: a step size for each element, which follows the changes of a sign."""

    nplus: Annotated[float, Range(1, math.inf, "[)")] = 1.2
    nminus: OpenFraction = 0.5
    lb: NonNegative = 1e-6
    ub: Positive = 50
    alpha: Positive = 1
    prev = Slot()
    lrs = Slot(init="alpha")

    def sizes(self, current: Value, ctx: Context) -> Value:
        """The step sizes of this step."""
        s, h = ctx.state, ctx.settings
        agree = current.sign() * s.prev.sign()
        factor = (agree > 0).where(h.nplus, (agree < 0).where(h.nminus, 1.0))
        sizes: Value = (s.lrs * factor).clamp(h.lb, h.ub)
        s.prev, s.lrs = current, sizes
        return sizes


class ScaleLRBySignChange(_StepSizes):
    r"""Gives each element of the update a factor that grows while its sign stays, and shrinks where it changes.

    .. math::
        lr ← clamp\left(lr · \begin{cases} nplus & c·c_{prev} > 0 \\ nminus & c·c_{prev} < 0 \\ 1 & \text{else}
        \end{cases}\right), \quad u ← lr·u

    Args:
        nplus: what a factor grows by, at least 1.
        nminus: what it shrinks by, in (0, 1).
        lb: the least factor.
        ub: the largest factor.
        alpha: the factors at first.
        use_grad: c is the gradient; otherwise the update.
        target: what is scaled.

    Reference:
        Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ScaleLRBySignChange())
        >>> for grad in ([1.0, 1.0], [1.0, -1.0]):  # 1 and 1.2; 1 and -0.5
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-2.2000, -0.5000])
    """

    ub: Positive = 50.0
    alpha: Positive = 1.0
    use_grad: bool = False
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return self.sizes(ctx.grads if ctx.settings.use_grad else u, ctx) * u


class SignConsistencyLRs(_StepSizes):
    r"""The factors of :class:`ScaleLRBySignChange` as the update: u ← lr.

    Args:
        nplus: what a factor grows by, at least 1.
        nminus: what it shrinks by, in (0, 1).
        lb: the least factor.
        ub: the largest factor.
        alpha: the factors at first.
        target: whose signs are followed, and what is replaced.

    Reference:
        Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.SignConsistencyLRs())
        >>> for grad in ([1.0, 1.0], [1.0, -1.0]):  # 1 and 1.2; 1 and 0.5
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-2.2000, -1.5000])
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return self.sizes(u, ctx)


class BacktrackOnSignChange(Transform):
    r"""Takes back the last update of elements whose sign has changed, or leaves them where they are.

    .. math:: u_t ← \begin{cases} -u_{t-1} & c_t·c_{t-1} < 0 \\ u_t & \text{else} \end{cases}

    u on the right are the updates that come in.

    Args:
        use_grad: c is the gradient; otherwise the update.
        backtrack: take the last update back; otherwise such elements become 0.
        target: what is replaced.

    Reference:
        Riedmiller & Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", 1993.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.BacktrackOnSignChange())
        >>> for grad in ([3.0, 1.0], [1.0, -2.0]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-4.,  0.])
    """

    use_grad: bool = False
    backtrack: bool = True
    target: Target = "update"
    prev = Slot()
    prev_grad = Slot()

    def rule(self, u: Value, ctx: Context) -> Operand:
        s, h = ctx.state, ctx.settings
        prev = s.prev
        if h.use_grad:
            flips = ctx.grads.sign() * s.prev_grad.sign() < 0
            s.prev_grad = ctx.grads
        else:
            flips = u.sign() * prev.sign() < 0
        if h.backtrack or not h.use_grad:
            s.prev = u
        return flips.where(-prev if h.backtrack else 0.0, u)
