"""Stochastic rounding of new parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.memory import twice
from .module import Module

#: What float32 has more than bfloat16.
BITS = 16


class StochasticRounding(Module):
    r"""Rounds new bfloat16 parameters up or down at random, so that they are right on average.

    .. math:: P(\text{up}) = \frac{x - ⌊x⌋}{⌈x⌉ - ⌊x⌉}

    with the neighbours ⌊x⌋ and ⌈x⌉ of x in bfloat16. To the nearest, a step smaller than half the distance to the next
    number, 1/512 of the parameter, is lost, each time. It belongs to an optimizer and is no part of its chain.

    Args:
        seed: of its generator; None: drawn from torch's.

    Reference: S. Gupta et al., "Deep learning with limited numerical precision", ICML 2015, arXiv:1502.02551.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(dict(seed=seed))
        self.path = "Modular.rounding"

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether it is for parameters of a dtype; wider ones are rounded to the nearest."""
        return dtype is torch.bfloat16

    def store(self, params: list[Tensor], values: list[Tensor]) -> None:
        """Write values of float32 to parameters.

        Args:
            params: of bfloat16.
            values: what they are to be on average.
        """
        for p, x in zip(params, values, strict=True):
            twice(self._store, p, x)

    def _store(self, p: Tensor, x: Tensor) -> None:
        noise, finite = torch.empty_like(x, dtype=torch.int32), x.isfinite()  # all the memory, before anything is drawn
        noise.random_(1 << BITS, generator=self.generator(x.device))
        rounded = noise.add_(x.view(torch.int32)).bitwise_and_(-1 << BITS).view(torch.float32)
        p.copy_(torch.where(finite, rounded, x, out=rounded))

    def subtract(self, params: Sequence[Tensor], update: Sequence[Tensor]) -> None:
        """p ← p − u.

        Args:
            params: the parameters, of any dtype.
            update: what is subtracted.
        """
        for p, u in zip(params, update, strict=True):
            if self.takes(p.dtype):
                self.store([p], [twice(_difference, p, u)])
            else:
                p.sub_(u)


def _difference(p: Tensor, u: Tensor) -> Tensor:
    return p.detach().float() - u.float()
