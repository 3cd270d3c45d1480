"""Random directions: kept, or drawn again from their seeds whenever they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...lang import Distribution as Distribution


def draw_(out: Tensor, distribution: str, generator: torch.Generator) -> Tensor:
    """Fill a tensor with independent numbers of mean 0 and variance 1 (on the sphere: uncorrelated ones).

    Args:
        out: the tensor.
        distribution: "gaussian" or "normal"; "rademacher": ±1; "uniform": on [−√3, √3]; "sphere": uniformly on the
            sphere of radius √n of the tensor's n elements.
        generator: of the tensor's device.

    Example:
        >>> draw_(torch.zeros(3), "rademacher", torch.Generator().manual_seed(0)).abs()
        tensor([1., 1., 1.])
    """
    if distribution == "rademacher":
        return out.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    if distribution == "uniform":
        return out.uniform_(-(3**0.5), 3**0.5, generator=generator)
    out.normal_(generator=generator)
    if distribution == "sphere" and out.numel():
        out.mul_(out.numel() ** 0.5 / out.norm())
    return out


class Directions(Protocol):
    """One or more directions, each one tensor for each parameter."""

    def __len__(self) -> int:
        """The number of directions."""

    def write(self, i: int, out: Sequence[Tensor]) -> None:
        """Copy direction i into tensors."""

    def accumulate(self, i: int, out: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        """Add direction i, each tensor times its factor, to tensors."""


class Kept:
    """Directions that are held in memory.

    Args:
        tensors: the directions.
    """

    def __init__(self, tensors: list[list[Tensor]]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors)

    def write(self, i: int, out: Sequence[Tensor]) -> None:
        """Copy direction i into ``out``."""
        torch._foreach_copy_(list(out), self.tensors[i])

    def accumulate(self, i: int, out: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        """Add direction i times ``factors`` to ``out``."""
        for o, u, f in zip(out, self.tensors[i], factors, strict=True):
            o.addcmul_(u, f)


class Seeded:
    """Directions of which only the seeds are held: memory of the largest tensor, whatever their number.

    Args:
        seeds: one for each direction.
        distributions: one for each parameter.
    """

    def __init__(self, seeds: Sequence[int], distributions: Sequence[str]) -> None:
        self.seeds, self.distributions = list(seeds), list(distributions)

    def __len__(self) -> int:
        return len(self.seeds)

    def _generators(self, i: int, tensors: Sequence[Tensor]) -> dict[torch.device, torch.Generator]:
        devices = {t.device for t in tensors}
        return {d: torch.Generator("cpu" if d.type == "meta" else d).manual_seed(self.seeds[i]) for d in devices}

    def write(self, i: int, out: Sequence[Tensor]) -> None:
        """Draw direction i into ``out``."""
        generators = self._generators(i, out)
        for o, distribution in zip(out, self.distributions, strict=True):
            draw_(o, distribution, generators[o.device])

    def accumulate(self, i: int, out: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        """Draw direction i again, one tensor at a time, and add it times ``factors`` to ``out``."""
        generators = self._generators(i, out)
        for o, distribution, f in zip(out, self.distributions, factors, strict=True):
            o.addcmul_(draw_(torch.empty_like(o), distribution, generators[o.device]), f)
