"""Which parameters of a model a method is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from ...core.kinds import hidden


class HiddenMatrices:
    """Accepts some parameters where they have two and more dimensions.

    Args:
        params: the parameters.
    """

    __name__ = "hidden_matrices"

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(params)
        self._ids = set(map(id, self.params))

    def __call__(self, param: Tensor) -> bool:
        """Whether a parameter is accepted."""
        return id(param) in self._ids and param.ndim >= 2

    def __reduce__(self) -> tuple[Any, ...]:
        return HiddenMatrices, (self.params,)  # ids mean nothing in a copy


def hidden_matrices(model: nn.Module) -> Callable[[Tensor], bool]:
    """A filter for methods like Muon that are meant for the hidden weights of a network.

    It accepts parameters of two and more dimensions, except the weights of embeddings (``nn.Embedding``,
    ``nn.EmbeddingBag``, and whatever shares them) and the head: the weight of the last ``nn.Linear`` (or convolution)
    in the order of ``model.modules()``. Where such a layer is parametrized (``weight_norm``, ``orthogonal``, ...), that
    goes for the parameters that its weight is made of.

    Args:
        model: the model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> accepts = hidden_matrices(model)
        >>> [name for name, p in model.named_parameters() if accepts(p)]
        ['1.weight']
    """
    return HiddenMatrices(hidden(model))
