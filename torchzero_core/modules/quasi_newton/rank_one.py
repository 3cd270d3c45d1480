"""Methods that correct H by a matrix of rank one."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .base import QuasiNewtonH


class RankOne(QuasiNewtonH):
    """Base class of the methods H ← H + (s − Hy)c'/c'y, which differ in c alone; skipped when abs(c'y) ≤ tol·‖c‖‖y‖.

    After the update Hy = s, whatever c is. A subclass defines :meth:`covector`.
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        """c, up to a factor.

        Args:
            H: the approximation of the inverse Hessian.
            s: the difference of the parameters.
            y: the difference of the updates.
            Hy: their product.
            g_prev: the update before.
        """
        raise NotImplementedError(f"{type(self).__name__} has no covector(H, s, y, Hy, g_prev).")

    def update_H(
        self,
        H: Tensor,
        s: Tensor,
        y: Tensor,
        p: Tensor,
        g: Tensor,
        p_prev: Tensor,
        g_prev: Tensor,
        state: MutableMapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Tensor:
        Hy = H @ y
        return rank_one(H, s - Hy, self.covector(H, s, y, Hy, g_prev), y, settings["tol"])


def rank_one(H: Tensor, residual: Tensor, c: Tensor, y: Tensor, tol: float) -> Tensor:
    """H + residual·c'/c'y, in the memory of H; H as it is when |c'y| ≤ tol·‖c‖‖y‖ or something is not finite.

    Args:
        H: the approximation of the inverse Hessian.
        residual: s − Hy.
        c: the other vector.
        y: the difference of the updates.
        tol: the smallest cosine between c and y, where rounding is below it.
    """
    cy, tol = torch.dot(c, y), max(tol, 32 * torch.finfo(y.dtype).eps)
    column = residual / cy
    ok = (cy.abs() > tol * c.norm() * y.norm()) & (column.norm() * c.norm()).isfinite()
    return H.addr_(torch.where(ok, column, 0.0), torch.where(ok, c, 0.0))


class BroydenGood(RankOne):
    """Broyden's good method: H ← H + (s − Hy)c'/c'y with c = H's.

    The inverse of B + (y − Bs)s'/s's. It is made for equations; H is not symmetric, so a direction may point uphill.
    Skipped when abs(c'y) ≤ tol·‖c‖‖y‖.

    Reference: C. G. Broyden, Mathematics of Computation 19, 1965.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.BroydenGood())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return s @ H


class BroydenBad(RankOne):
    """Broyden's bad method: H ← H + (s − Hy)y'/y'y, the smallest change of H with which Hy = s.

    It is made for equations; H is not symmetric, so a direction may point uphill.

    Reference: C. G. Broyden, Mathematics of Computation 19, 1965.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.BroydenBad())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return y


class Greenstadt1(RankOne):
    """Greenstadt's first method: H ← H + (s − Hy)c'/c'y with the previous gradient c = g₀.

    H is not symmetric, so a direction may point uphill.
    Skipped when abs(c'y) ≤ tol·‖c‖‖y‖.

    Reference: J. Greenstadt, Mathematics of Computation 24, 1970.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Greenstadt1())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return g_prev


class Greenstadt2(RankOne):
    """Greenstadt's second method: H ← H + (s − Hy)c'/c'y with c = HHy.

    H is not symmetric, so a direction may point uphill.
    Skipped when abs(c'y) ≤ tol·‖c‖‖y‖.

    Reference: J. Greenstadt, Mathematics of Computation 24, 1970.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Greenstadt2())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return H @ Hy


class ColumnUpdatingMethod(RankOne):
    """Changes one column of H: H[:, j] ← H[:, j] + (s − Hy)/yⱼ with j = argmax abs(y).

    H is not symmetric, so a direction may point uphill.
    Skipped when abs(yⱼ) ≤ tol·‖y‖.

    Reference: V. L. R. Lopes and J. M. Martínez, Optimization Methods and Software 6, 1995.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.ColumnUpdatingMethod())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return torch.zeros_like(y).index_fill_(0, y.abs().argmax(0, keepdim=True), 1.0)


class McCormick(RankOne):
    """McCormick's method: H ← H + (s − Hy)s'/s'y.

    H is not symmetric, so a direction may point uphill.
    Skipped when abs(s'y) ≤ tol·‖s‖‖y‖.

    Reference: J. D. Pearson, Computer Journal 12, 1969, algorithm 2.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.McCormick())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return s


class Pearson(RankOne):
    """Pearson's method: H ← H + (s − Hy)(Hy)'/y'Hy.

    H is not symmetric, so a direction may point uphill.
    Skipped when abs(y'Hy) ≤ tol·‖Hy‖‖y‖.

    Reference: J. D. Pearson, Computer Journal 12, 1969, algorithm 3.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Pearson())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return Hy


class SR1(RankOne):
    """Symmetric rank one: H ← H + zz'/z'y with z = s − Hy, skipped when abs(z'y) ≤ tol·‖z‖‖y‖.

    H need not be positive definite, so a direction may point uphill; it learns negative curvature where there is some.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 6.2.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.SR1())
        >>> for _ in range(6):
        ...     p.grad = torch.tensor([1.0, 4.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-4)
        True
    """

    def covector(self, H: Tensor, s: Tensor, y: Tensor, Hy: Tensor, g_prev: Tensor) -> Tensor:
        return s - Hy
