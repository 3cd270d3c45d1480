"""Methods that correct H by a symmetric matrix of rank two, made of s and Hy."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.vector_method import told
from .base import QuasiNewtonH


class Coefficients(NamedTuple):
    """Those of H ← scale·H + ss·ss' + sh·(s(Hy)' + Hys') + hh·Hyy'H; ``None`` leaves a term out."""

    ss: Tensor
    sh: Tensor | None = None
    hh: Tensor | None = None
    scale: Tensor | None = None


class RankTwo(QuasiNewtonH):
    """Base class of methods H ← a·H + b·ss' + c·(s(Hy)' + Hys') + d·Hyy'H, skipped when s'y ≤ tol·‖s‖‖y‖.

    A subclass defines :meth:`coefficients`. Where one of them is not finite the update is skipped too.
    """

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        """The factors of the terms.

        Args:
            sy: s'y.
            yHy: y'Hy.
            H: the approximation of the inverse Hessian.
            s: the difference of the parameters.
            Hy: the product of H and the difference of the updates.
            g_prev: the update before.
            settings: the settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no coefficients(sy, yHy, ...).")

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
        """The formula as s·w' + w·s' + hh·Hy(Hy)', which keeps H symmetric to the rounding of a sum."""
        sy, Hy = torch.dot(s, y), H @ y
        found = self.coefficients(sy, torch.dot(y, Hy), H, s, Hy, g_prev, settings)
        ok = (sy > settings["tol"] * s.norm() * y.norm()) & torch.stack(
            [c for c in found if c is not None]
        ).isfinite().all()
        sure = told(ok)
        if sure is False:
            return H
        w = 0.5 * found.ss * s if found.sh is None else 0.5 * found.ss * s + found.sh * Hy
        left, right = [s, w], [w, s]
        if found.hh is not None:
            left.append(Hy)
            right.append(found.hh * Hy)
        if found.scale is not None:
            H.mul_(found.scale if sure else torch.where(ok, found.scale, 1.0))
        if not sure:
            left, right = ([torch.where(ok, v, 0.0) for v in vectors] for vectors in (left, right))
        return H.addmm_(torch.stack(left, 1), torch.stack(right))


def reaches(a: Tensor, b: Tensor) -> Tensor:
    """Whether a ≥ b; they are equal to rounding after the first scaling of H.

    Args:
        a: a positive number.
        b: another one.
    """
    return a * (1 + torch.finfo(a.dtype).eps ** 0.5) >= b


class DFP(RankTwo):
    """The method of Davidon, Fletcher and Powell: H ← H + ss'/s'y − Hyy'H/y'Hy, skipped when s'y ≤ tol·‖s‖‖y‖.

    It asks for more exact searches than :class:`BFGS`, whose dual it is.

    Reference: R. Fletcher and M. J. D. Powell, Computer Journal 6, 1963.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.DFP(), tz.m.StrongWolfe(c2=0.1))
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        return Coefficients(ss=1 / sy, hh=-1 / yHy)


class FletcherVMM(RankTwo):
    """Fletcher's variable metric method: the formula of :class:`BFGS` when s'y ≥ y'Hy, that of :class:`DFP` otherwise.

    Skipped when s'y ≤ tol·‖s‖‖y‖.

    Reference: R. Fletcher, Computer Journal 13, 1970, doi:10.1093/comjnl/13.3.317.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.FletcherVMM(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        dual = reaches(sy, yHy)
        ss = torch.where(dual, 1 + yHy / sy, 1.0) / sy
        return Coefficients(ss, sh=torch.where(dual, -1 / sy, 0.0), hh=torch.where(dual, 0.0, -1 / yHy))


class Hoshino(RankTwo):
    """Hoshino's method: H ← H + [(1 + 2·y'Hy/s'y)·ss' − sy'H − Hys' − Hyy'H]/(s'y + y'Hy).

    It lies between :class:`BFGS` and :class:`DFP`. Skipped when s'y ≤ tol·‖s‖‖y‖.

    Reference: S. Hoshino, IMA J. Applied Mathematics 10, 1972, doi:10.1093/imamat/10.3.394.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.Hoshino(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        share = 1 / (sy + yHy)
        return Coefficients(ss=(1 + 2 * yHy / sy) * share, sh=-share, hh=-share)


#: The reference's spelling.
Horisho = Hoshino
