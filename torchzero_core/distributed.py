"""The one place through which a module asks what the other ranks know.

Whatever a module decides from goes through these reductions: the loss a line search compares, gradients that a
module takes itself, inner products and norms over all parameters when those are sharded. The default answers with
what it is given, as on a single process.
"""

from __future__ import annotations

from collections.abc import Sequence

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
