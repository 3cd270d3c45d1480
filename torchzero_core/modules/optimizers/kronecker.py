"""Methods with a matrix for each dimension of a tensor: what Shampoo and SOAP share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.preconditioner import Preconditioner, State, as_batch
from ...linalg import add_gram_, gram, merge_dims, multiply_along, unfold


class Layout(NamedTuple):
    """How a tensor is seen: in which shape, and which dimensions of it have a matrix."""

    shape: tuple[int, ...]
    dims: tuple[int, ...]


@lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], merge_small: bool, max_dim: int, precondition_1d: bool) -> Layout:
    merged = merge_dims(shape, max_dim) if merge_small else shape
    if len(shape) == 1 and not precondition_1d:
        return Layout(merged, ())
    return Layout(merged, tuple(i for i, n in enumerate(merged) if 1 < n <= max_dim))


def layout(shape: Sequence[int], settings: Mapping[str, Any]) -> Layout:
    """How a tensor is seen by its settings merge_small, max_dim and precondition_1d.

    Args:
        shape: the tensor's shape.
        settings: its settings.

    Example:
        >>> settings = dict(merge_small=True, max_dim=2000, precondition_1d=True)
        >>> layout((50257, 768), settings)
        Layout(shape=(50257, 768), dims=(1,))
        >>> layout((64, 64, 3, 3), settings)
        Layout(shape=(64, 576), dims=(0, 1))
    """
    return _layout(tuple(shape), settings["merge_small"], settings["max_dim"], settings["precondition_1d"])


class Kronecker(Preconditioner):
    """Base class of methods with a matrix for each dimension that is longer than 1 and at most ``max_dim``.

    It reads the settings merge_small, max_dim and precondition_1d, and adds mat_i(u)·mat_i(u)' to the matrix of
    dimension i, weighted as :meth:`weights` says. Of a matrix only the lower triangle counts: above the diagonal a
    large one is not kept up to date.
    """

    def weights(self, settings: Mapping[str, Any]) -> tuple[float, float]:
        """What a matrix and the new term are multiplied with before they are added.

        Args:
            settings: those of a tensor.
        """
        raise NotImplementedError(f"{type(self).__name__} has no weights(settings).")

    def sizes(self, shape: Sequence[int], settings: Mapping[str, Any]) -> list[int]:
        seen = layout(shape, settings)
        return [seen.shape[i] for i in seen.dims]

    def accumulate_all(
        self,
        states: Sequence[State],
        matrices: Sequence[list[Tensor]],
        us: Sequence[Tensor],
        settings: Mapping[str, Any],
    ) -> None:
        seen, (old, new) = layout(us[0].shape, settings), self.weights(settings)
        if not seen.dims:
            return
        x = stacked(us, seen)
        for k, dim in enumerate(seen.dims):
            if len(us) == 1:
                add_gram_(matrices[0][k], unfold(x, dim)[0], beta=old, alpha=new)
            else:
                own = [of_tensor[k] for of_tensor in matrices]
                torch._foreach_mul_(own, old)
                torch._foreach_add_(own, list(gram(x, dim)), alpha=new)


def stacked(tensors: Sequence[Tensor], seen: Layout) -> Tensor:
    """Tensors of one shape in one with a first dimension for the batch; a single one may share its memory."""
    return as_batch(tensors).reshape(len(tensors), *seen.shape)


def multiply(x: Tensor, factors: Sequence[list[Tensor]], seen: Layout, *, transposed: bool = False) -> Tensor:
    """The product of every tensor of a batch with its factors, each along its dimension.

    Args:
        x: the batch.
        factors: those of each tensor.
        seen: the layout of the tensors.
        transposed: multiply with the transposed factors.
    """
    for k, dim in enumerate(seen.dims):
        matrices = as_batch([of_tensor[k] for of_tensor in factors])
        x = multiply_along(x, matrices.mT if transposed else matrices, dim)
    return x
