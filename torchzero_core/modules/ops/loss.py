"""The update beside the loss."""

from __future__ import annotations

import math

import torch

from ...core import Context, Finite, Module, NonNegative, Transform, Var
from ...core.evaluate import uniform_settings
from ...core.point import loss_after, number_of
from ...lang import Operand, Value


class _WithLoss(Transform):
    """What the operations with the loss share."""

    requires_closure = True

    def loss(self, ctx: Context) -> Value:
        """The loss at the start of the step."""
        return ctx.loss_with_gradients if ctx.settings.backward else ctx.loss


class FillLoss(_WithLoss):
    """Every element of the update becomes the loss: u ← alpha·loss.

    Args:
        alpha: a factor.
        backward: where the loss is not known yet, let its evaluation compute the gradients too.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.FillLoss(alpha=0.5))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), p.item()
        (9.0, -1.5)
    """

    alpha: Finite = 1
    backward: bool = True

    def rule(self, u: Value, ctx: Context) -> Operand:
        return ctx.settings.alpha * self.loss(ctx)


class MulByLoss(_WithLoss):
    """Multiplies the update by the loss: u ← u·max(alpha·loss, min_value).

    Args:
        alpha: a factor of the loss.
        min_value: the least value to multiply with.
        backward: where the loss is not known yet, let its evaluation compute the gradients too.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Sign(), tz.m.MulByLoss())
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), p.item()
        (9.0, -6.0)
    """

    alpha: Finite = 1
    min_value: NonNegative | None = 1e-8
    backward: bool = True

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u * _at_least(ctx.settings.min_value, ctx.settings.alpha * self.loss(ctx))


class DivByLoss(_WithLoss):
    """Divides the update by the loss: u ← u/max(alpha·loss, min_value).

    Args:
        alpha: a factor of the loss.
        min_value: the least value to divide by.
        backward: where the loss is not known yet, let its evaluation compute the gradients too.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Sign(), tz.m.DivByLoss(alpha=0.5))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), round(p.item(), 4)
        (9.0, 2.7778)
    """

    alpha: Finite = 1
    min_value: NonNegative | None = 1e-8
    backward: bool = True

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u / _at_least(ctx.settings.min_value, ctx.settings.alpha * self.loss(ctx))


def _at_least(low: Operand | None, x: Value) -> Value:
    return x if low is None else x.maximum(low)


class NegateOnLossIncrease(Module):
    """Looks at the loss where the update leads: if it is higher there, or not finite, the update is turned round.

    Put it last, behind the learning rate: it evaluates the loss at p − u, which costs one evaluation a step.

    Args:
        backtrack: u ← −u where the loss increases; False: u ← 0.

    Raises:
        ValueError: parameter groups set ``backtrack`` differently.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.LR(2.0), tz.m.NegateOnLossIncrease(backtrack=False))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), p.item()  # 1 − 2·2 would be −3
        (1.0, 1.0)
    """

    backtrack: bool = True
    one_piece = True
    requires_closure = True

    def step(self, var: Var) -> Var:
        """Evaluate the loss at the end of the step."""
        if not var.params:
            return var
        update, backtrack = var.get_update(), uniform_settings(self, var.params)["backtrack"]
        before, after = float(number_of(var.get_loss(), var)), loss_after(var, update, f"{self.path}.start")
        if after > before or not math.isfinite(after):
            torch._foreach_neg_(update) if backtrack else torch._foreach_zero_(update)
        return var
