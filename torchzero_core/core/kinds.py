"""What kinds of parameters a model has: norms, biases, embeddings, the head, hidden matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList


def embeddings(model: nn.Module) -> list[nn.Module]:
    """The layers that look rows up in a table."""
    return [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]


def head(model: nn.Module) -> list[nn.Module]:
    """The last linear layer or convolution, in a list; none in a model without one."""
    within = {id(m) for lists in model.modules() if isinstance(lists, ParametrizationList) for m in lists.modules()}
    kinds_of_head = (nn.Linear, nn.modules.conv._ConvNd)
    layers = [m for m in model.modules() if isinstance(m, kinds_of_head) and id(m) not in within]
    return list[nn.Module](layers[-1:])


def hidden(model: nn.Module) -> list[nn.Parameter]:
    """All parameters but those of embeddings and of the head.

    A layer's parameters are not looked up by the name ``weight``: that of a parametrized layer is computed anew at each
    look, and is no parameter.
    """
    excluded = {id(p) for layer in [*embeddings(model), *head(model)] for p in layer.parameters()}
    return [p for p in model.parameters() if id(p) not in excluded]


def is_norm(layer: nn.Module) -> bool:
    """Whether it is a normalisation: one of torch's, or a class that is called one."""
    return "norm" in type(layer).__name__.lower()


def _norms(model: nn.Module) -> list[Tensor]:
    own = [p for layer in model.modules() if is_norm(layer) for p in layer.parameters(recurse=False)]
    return [p for p in own if is_lazy(p) or p.ndim <= 1]


def is_bias(name: str) -> bool:
    """Whether a name is that of a bias, such as ``bias``, ``in_proj_bias``, ``bias_hh_l0``."""
    return "bias" in name.removesuffix(".original").rsplit(".", 1)[-1].split("_")


def _biases(model: nn.Module) -> list[Tensor]:
    return [p for name, p in model.named_parameters(remove_duplicate=False) if is_bias(name)]


#: The kinds by name.
KINDS: dict[str, Callable[[nn.Module], Iterable[Tensor]]] = {
    "norms": _norms,
    "biases": _biases,
    "embeddings": lambda model: [p for layer in embeddings(model) for p in layer.parameters()],
    "head": lambda model: [p for layer in head(model) for p in layer.parameters()],
    "hidden_matrices": lambda model: [p for p in hidden(model) if p.ndim >= 2],
}


def kinds(model: nn.Module) -> dict[str, list[str]]:
    """The names of a model's parameters by kind; one may be of several kinds, or of none.

    - ``norms``: weights and biases of normalisation layers, torch's and those whose class is called one,
    - ``biases``: whatever is called a bias (``bias``, ``in_proj_bias``, ``bias_hh_l0``), that of norms too,
    - ``embeddings``: of ``nn.Embedding`` and ``nn.EmbeddingBag``, and whatever shares them,
    - ``head``: of the last ``nn.Linear`` or convolution,
    - ``hidden_matrices``: those with two and more dimensions that belong neither to embeddings nor to the head.

    Args:
        model: the model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 9))
        >>> for kind, names in kinds(model).items():
        ...     print(f"{kind}: {', '.join(names)}")
        norms: 2.weight, 2.bias
        biases: 1.bias, 2.bias, 3.bias
        embeddings: 0.weight
        head: 3.weight, 3.bias
        hidden_matrices: 1.weight
    """
    chosen = {kind: set(map(id, choose(model))) for kind, choose in KINDS.items()}
    return {kind: [name for name, p in model.named_parameters() if id(p) in ids] for kind, ids in chosen.items()}
