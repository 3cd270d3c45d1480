"""Nesterov's momentum."""

from __future__ import annotations

from ...core import Context, Finite, Fraction, Slot, Target, Transform
from ...lang import Value


class NAG(Transform):
    r"""Nesterov's accelerated gradient.

    .. math:: v_1 = u_1, \quad v_t = momentum·v_{t-1} + (1-damp) u_t, \quad u ← u_t + momentum·v_t

    Equals ``torch.optim.SGD(momentum=momentum, nesterov=True)``. With ``lerp``, v is an exponential moving average
    that starts at zero and u ← v + (1 − momentum)·(u − v).

    Args:
        momentum: in [0, 1].
        dampening: damp, how much of each new update but the first is left out of v.
        lerp: the form with averages.
        target: what is accumulated.

    Reference:
        Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.ones(1)
        >>> tz.Modular([p], tz.m.NAG(0.5), tz.m.LR(1.0)).step()
        >>> p.item()
        -1.5
    """

    size_effect = "keeps"
    momentum: Fraction = 0.9
    dampening: Finite = 0
    lerp: bool = False
    target: Target = "update"
    velocity = Slot()
    kernel = "nag"
    kernel_needs = {"lerp": False}

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        new = u if h.dampening == 0 else (1 - h.dampening) * u
        if h.lerp:
            s.velocity = v = s.velocity.lerp(new, 1 - h.momentum)
            return v.lerp(u, 1 - h.momentum)
        s.velocity = v = u if ctx.first else h.momentum * s.velocity + new
        return u + h.momentum * v
