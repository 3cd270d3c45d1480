"""The one place through which anything asks what the other ranks know.

Whatever a module decides from goes through :class:`Reductions`: the loss a line search compares, gradients that a
module takes itself, inner products and norms over all parameters. Parameters that are spread over ranks themselves
(DTensor) are worked on shard by shard; :class:`Shards` says what has to be added up then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Reductions:
    """Does nothing: one process that holds everything. Subclasses talk to the other ranks.

    Example:
        >>> import torch
        >>> Reductions().mean_loss(torch.tensor(2.0))
        tensor(2.)
    """

    def mean_loss(self, loss: Tensor) -> Tensor:
        """The mean of the loss over the ranks that see different data."""
        return loss

    def mean_grads(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The mean over ranks of gradients that a module took itself (those of ``backward`` are reduced by DDP)."""
        return list(grads)

    def gather(self, vector: Tensor) -> tuple[Tensor, int]:
        """The vectors of all shards, one after the other in the same order everywhere, and where one's own starts."""
        return vector, 0

    def sum_scalar(self, value: Tensor) -> Tensor:
        """The sum over shards of an inner product or a squared norm."""
        return value

    def max_scalar(self, value: Tensor) -> Tensor:
        """The largest over shards."""
        return value


def local(t: Tensor) -> Tensor:
    """This rank's part of a tensor; it shares the memory."""
    return t.to_local() if hasattr(t, "device_mesh") else t  # type: ignore[attr-defined]


class Shards:
    """How tensors are spread over ranks.

    Args:
        mesh: the ranks.
        placements: what each dimension of the mesh does to the tensors.
    """

    def __init__(self, mesh: Any, placements: Sequence[Any]) -> None:
        self.mesh, self.placements = mesh, tuple(placements)


def shards_of(params: Sequence[Tensor]) -> Shards | None:
    """How the first of some tensors is spread; None where it lies on this rank alone."""
    mesh = getattr(params[0], "device_mesh", None)
    return None if mesh is None else Shards(mesh, params[0].placements)  # type: ignore[attr-defined]
