"""The method of Polak and Ribière."""

from __future__ import annotations

from ...lang import Value
from .base import ConjugateGradientBase


class PolakRibiere(ConjugateGradientBase):
    """Conjugate gradients of Polak and Ribière: β = g'(g − g₀)/g₀'g₀, by default not below zero (PR+).

    The update is −d with d = −g + β·d₀. Put a line search after it, :class:`StrongWolfe` with c2=0.1 for example.

    Args:
        clip_beta: replace a negative β by zero.
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters.
        inner: a module that replaces g in the new direction; β is computed from the plain update.

    Reference: Polak and Ribière, Revue française d'informatique et de recherche opérationnelle 3, 1969; Gilbert and
    Nocedal, SIAM J. Optimization 2, 1992.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.PolakRibiere(), tz.m.StrongWolfe(c2=0.1))
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    clip_beta: bool = True

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        """g'(g − g₀)/g₀'g₀."""
        return g.global_dot(g - g0) / g0.global_dot(g0)
