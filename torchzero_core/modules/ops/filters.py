"""Which parameters of a model a method is for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def hidden_matrices(model: nn.Module) -> Callable[[Tensor], bool]:
    """A filter for methods like Muon that are meant for the hidden weights of a network.

    It accepts parameters of two and more dimensions, except the weights of embeddings (``nn.Embedding``,
    ``nn.EmbeddingBag``, and whatever shares them) and the head: the weight of the last ``nn.Linear`` (or convolution)
    in the order of ``model.modules()``.

    Args:
        model: the model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
        >>> accepts = hidden_matrices(model)
        >>> [name for name, p in model.named_parameters() if accepts(p)]
        ['1.weight']
    """
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    excluded = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    excluded |= {id(m.weight) for m in layers[-1:]}
    hidden = {id(p) for p in model.parameters() if p.ndim >= 2 and id(p) not in excluded}

    def accepts(param: Tensor) -> bool:
        return id(param) in hidden

    return accepts
