"""Adagrad with the full matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, StateKind
from ...core.preconditioner import Preconditioner, State, averaging_weights
from ...linalg import inverse_root


class FullMatrixAdagrad(Preconditioner):
    """Adagrad with the outer products of updates instead of their squares: GG ← GG + uu', out = GG^(−½)·u.

    GG starts as I. With ``decay`` it is GG ← decay·GG + uu', with ``beta`` GG ← beta·GG + (1−beta)·uu', so
    ``FullMatrixAdagrad(beta=0.999, inner=tz.m.EMA(0.9))`` is full-matrix Adam. A tensor of n elements has n² numbers
    in GG and as many in the root, and a refresh costs about 10·n³ operations.

    Where a decomposition fails the last good root stays; after five failures in a row there is an error.

    Args:
        beta: factor of an exponential moving average of uu'. None: a sum.
        decay: factor of the sum before each addition.
        sqrt: False: out = GG⁻¹·u.
        concat_params: treat all parameters as one vector; it starts anew when another set of parameters has
            gradients. False: one matrix for each parameter.
        update_freq: compute the root every so many steps of a parameter, from its first on.
        inner: a module that gives what the root is multiplied with; GG sees the plain update.
        eps: smallest eigenvalue that is used.
        stagger: spread the roots of the parameters over the ``update_freq`` steps.

    Raises:
        ValueError: both ``beta`` and ``decay``; settings that differ between parameter groups although
            ``concat_params`` makes them one vector.
        RuntimeError: a matrix could not be decomposed five times in a row.

    Reference: Duchi, Hazan and Singer, JMLR 12, 2011; Agarwal et al., Efficient full-matrix adaptive regularization,
    2018, arXiv:1806.02958.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.FullMatrixAdagrad(), tz.m.LR(1.0))
        >>> for _ in range(50):
        ...     p.grad = torch.tensor([1.0, 9.0]) * p.detach()
        ...     optimizer.step()
        >>> bool(p.abs().max() < 1e-3)
        True
    """

    kept = {"GG": StateKind.VALUES, "factor": StateKind.VALUES}

    beta: Beta | None = None
    decay: NonNegative | None = None
    sqrt: bool = True
    concat_params: bool = False
    update_freq: Count = 1
    inner: Child | None = None
    _: KW_ONLY
    eps: NonNegative = 1e-12
    stagger: bool = False

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        super().check_settings(settings)
        averaging_weights("FullMatrixAdagrad", settings)

    def sizes(self, shape: Sequence[int], settings: Mapping[str, Any]) -> list[int]:
        return [math.prod(shape)]

    def accumulate(self, state: State, matrices: list[Tensor], u: Tensor, settings: Mapping[str, Any]) -> None:
        old, new = averaging_weights("FullMatrixAdagrad", settings)
        g = u.reshape(-1)
        matrices[0].addr_(g, g, beta=old, alpha=new)

    def arguments(self, shape: Sequence[int], settings: Mapping[str, Any]) -> tuple[int, float]:
        return 2 if settings["sqrt"] else 1, settings["eps"]

    def refresh(self, matrices: Tensor, factors: list[Tensor], *arguments: Any) -> tuple[Tensor, Tensor]:
        p, eps = arguments
        return inverse_root(matrices, p, eps=eps)

    def precondition(self, state: State, factors: list[Tensor], x: Tensor, settings: Mapping[str, Any]) -> Tensor:
        return (factors[0] @ x.reshape(-1)).view(x.shape)
