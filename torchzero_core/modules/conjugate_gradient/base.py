"""Nonlinear conjugate gradients: everything but the formula of β."""

from __future__ import annotations

from typing import Literal

from ...core import Child, Context, Count, Slot, Transform
from ...lang import Value


class ConjugateGradientBase(Transform):
    """Base class of nonlinear conjugate gradient methods: d = −u + β·d₀, and the update is −d.

    A subclass defines :meth:`beta`. The first direction is −u; so is one for which β is not finite, as after a step
    in which the gradient was zero or not finite. Inner products go over all parameters.

    Args:
        clip_beta: replace a negative β by zero.
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters.
        inner: a module that replaces u in the new direction; β is computed from the plain update.

    Example:
        >>> import torch, torchzero_core as tz
        >>> class FletcherReeves(tz.m.ConjugateGradientBase):
        ...     def beta(self, g, g0, d0):
        ...         return g.global_dot(g) / g0.global_dot(g0)
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], FletcherReeves(reset_interval="auto"), tz.m.LR(0.1))
        >>> for _ in range(2):
        ...     p.grad = torch.tensor([1.0, 4.0]) * p.detach()
        ...     optimizer.step()
        >>> p.detach()
        tensor([0.7733, 0.4265])
    """

    clip_beta: bool = False
    reset_interval: Count | Literal["auto"] | None = None
    inner: Child | None = None
    prev_dir = Slot()
    prev_grad = Slot()

    @property
    def has_scale(self) -> bool:  # type: ignore[override]
        """Only with a child that gives the length."""
        return "inner" in self.children

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        """The factor of the previous direction, one number for all parameters.

        Args:
            g: the update (the gradient).
            g0: the previous one.
            d0: the previous descent direction, so that g0·d0 < 0 after a step that went downhill.
        """
        raise NotImplementedError(f"{type(self).__name__} has no beta(g, g0, d0).")

    def rule(self, u: Value, ctx: Context) -> Value:
        """The new direction with its sign turned."""
        state = ctx.state
        direction = ctx.child("inner", u)
        if not self._restarts(ctx):
            previous = state.prev_dir
            beta = self.beta(u, state.prev_grad, -previous)
            if ctx.settings.clip_beta:
                beta = beta.maximum(0.0)
            direction = beta.isfinite().where(direction + beta * previous, direction)
        state.prev_dir = direction
        state.prev_grad = u
        return direction

    def _restarts(self, ctx: Context) -> bool:
        if ctx.first:
            return True
        interval = ctx.settings.reset_interval
        if interval is None:
            return False
        if isinstance(interval, str):
            interval = ctx.whole.numel + 1
        return bool((ctx.step - 1) % interval == 0)


#: The reference's spelling.
ConguateGradientBase = ConjugateGradientBase
