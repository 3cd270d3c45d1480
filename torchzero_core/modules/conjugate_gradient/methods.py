"""Nonlinear conjugate gradients: the formulas of β.

g is the gradient, g₀ the previous one, y = g − g₀, and d₀ the previous descent direction.
"""

from __future__ import annotations

from typing import Literal

from ...core import Child, Count, Transform
from ...lang import Value
from .base import ConjugateGradientBase


class _ResetFirst(Transform):
    """The order of settings of most methods."""

    reset_interval: Count | Literal["auto"] | None = None


class _Method(ConjugateGradientBase, _ResetFirst):
    """What most methods are made of."""


class _InnerFirst(Transform):
    """The order of settings of the method of conjugate descent."""

    inner: Child | None = None


class FletcherReeves(_Method):
    """Conjugate gradients of Fletcher and Reeves: β = g'g/g₀'g₀.

    By default it starts anew after one step more than there are parameters, or it may get stuck in short steps.

    Args:
        reset_interval: start anew every so many steps; "auto": after one step more than there are parameters. None:
            never.

    Reference: Fletcher and Reeves, Computer Journal 7, 1964.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.FletcherReeves(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    reset_interval: Count | Literal["auto"] | None = "auto"

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        return g.global_dot(g) / g0.global_dot(g0)


class HestenesStiefel(_Method):
    """Conjugate gradients of Hestenes and Stiefel: β = g'y/d₀'y.

    Reference: Hestenes and Stiefel, J. Research of the National Bureau of Standards 49, 1952.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.HestenesStiefel(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        y = g - g0
        return g.global_dot(y) / d0.global_dot(y)


class DaiYuan(_Method):
    """Conjugate gradients of Dai and Yuan: β = g'g/d₀'y.

    With a search that meets the Wolfe conditions every direction points downhill.

    Reference: Dai and Yuan, SIAM J. Optimization 10, 1999.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.DaiYuan(reset_interval="auto"), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        return g.global_dot(g) / d0.global_dot(g - g0)


class HybridHS_DY(_Method):
    """Conjugate gradients between Hestenes-Stiefel and Dai-Yuan: β = max(0, min(β_HS, β_DY)).

    Reference: Dai and Yuan, Annals of Operations Research 103, 2001.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.HybridHS_DY(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        y = g - g0
        dy = d0.global_dot(y)
        return (g.global_dot(y) / dy).minimum(g.global_dot(g) / dy).maximum(0.0)


class LiuStorey(_Method):
    """Conjugate gradients of Liu and Storey: β = −g'y/d₀'g₀.

    Reference: Liu and Storey, J. Optimization Theory and Applications 69, 1991.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.LiuStorey(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        return -g.global_dot(g - g0) / d0.global_dot(g0)


class HagerZhang(_Method):
    """Conjugate gradients of Hager and Zhang: β = (y − 2d₀·y'y/d₀'y)'g/d₀'y.

    With exact inner products every direction points downhill, whatever the search.

    Reference: Hager and Zhang, SIAM J. Optimization 16, 2005.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.HagerZhang(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        y = g - g0
        dy = d0.global_dot(y)
        return (g.global_dot(y) - 2 * y.global_dot(y) * d0.global_dot(g) / dy) / dy


class ConjugateDescent(ConjugateGradientBase, _InnerFirst):
    """Conjugate gradients of Fletcher, conjugate descent: β = −g'g/d₀'g₀.

    Reference: R. Fletcher, Practical Methods of Optimization, volume 1, 1987.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.ConjugateDescent(reset_interval="auto"), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-6
        True
    """

    def beta(self, g: Value, g0: Value, d0: Value) -> Value:
        return -g.global_dot(g) / d0.global_dot(g0)
