"""What is minimised over: tensors in some structure, or the parameters of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Unknowns:
    """The unknowns of a problem as leaf tensors, and tensors as what ``x0`` was.

    Tensors are copied. A model is not: its trainable parameters are the unknowns themselves.

    Args:
        x0: a tensor, an array or numbers, a list, tuple or dict of such, nested or not, or a model.

    Attributes:
        leaves: the tensors that an optimizer moves.
        model: the model, where ``x0`` is one.
        form: the structure of ``x0`` with the position of a leaf in place of each tensor; a dict by name of a model.

    Raises:
        TypeError: something in ``x0`` that is no tensor of floating-point numbers.
        ValueError: there is nothing to minimise over.

    Example:
        >>> import torch
        >>> x = Unknowns({"a": torch.ones(2), "b": [torch.zeros(1)]})
        >>> len(x.leaves), x.like_x0([torch.ones(2), torch.zeros(1)])
        (2, {'a': tensor([1., 1.]), 'b': [tensor([0.])]})
    """

    def __init__(self, x0: Any) -> None:
        self.model = x0 if isinstance(x0, nn.Module) else None
        self.leaves: list[Tensor] = []
        self._grads: list[Tensor | None] = []
        if self.model is not None:
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            self.leaves = [p for _, p in named]
            self._grads = [p.grad for p in self.leaves]
            self.form: Any = {name: i for i, (name, _) in enumerate(named)}
        else:
            self.form = self._read(x0)
        if not any(leaf.numel() for leaf in self.leaves):
            raise ValueError("x0 has no numbers to minimise over" + (", or all are frozen." if self.model else "."))
        if any(leaf.is_meta for leaf in self.leaves):
            raise ValueError("x0 is on the device 'meta', where tensors have a shape and no numbers.")

    def _read(self, x0: Any) -> Any:
        """The structure of x0 with the position of a leaf in place of each tensor."""
        if isinstance(x0, Mapping):
            return {name: self._read(value) for name, value in x0.items()}
        if isinstance(x0, (list, tuple)) and any(isinstance(v, (Tensor, Mapping, list, tuple)) for v in x0):
            return _sequence_like(x0, [self._read(value) for value in x0])
        try:
            leaf = torch.as_tensor(x0).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            hint = " For the parameters of a model give the model itself." if isinstance(x0, Iterator) else ""
            raise TypeError(
                f"x0 is a tensor, an array, a list or dict of them, or a model, not {type(x0).__name__}.{hint}"
            ) from error
        if leaf.dtype is torch.int64 and isinstance(x0, (int, list, tuple)):  # numbers as they are typed
            leaf = leaf.to(torch.get_default_dtype())
        if leaf.layout is not torch.strided:
            raise TypeError("x0 has a sparse tensor: give it as x0.to_dense().")
        if leaf.is_complex():
            raise TypeError(
                f"x0 has a tensor of {leaf.dtype}. Give torch.view_as_real(x0), and let fun take "
                "torch.view_as_complex(x)."
            )
        if not leaf.is_floating_point():
            raise TypeError(f"x0 has a tensor of {leaf.dtype}, which has no gradient: give it a dtype such as float64.")
        self.leaves.append(leaf.clone().requires_grad_())
        return len(self.leaves) - 1

    def bind(self, fun: Callable[..., Any]) -> Callable[[], Any]:
        """The function of the unknowns as one that takes nothing.

        Args:
            fun: of the unknowns in the structure of x0; with a model, a function of the model or of nothing.

        Raises:
            TypeError: it is a function of nothing, without a model.
        """
        if self.model is None:
            if not _can_take_one(fun):
                raise TypeError(
                    "fun takes no argument, and it is called with x, which has the structure of x0. For a loss of a "
                    "model give the model as x0."
                )
            point = self.like_x0(self.leaves)
            return lambda: fun(point)
        return (lambda: fun(self.model)) if _takes_an_argument(fun) else fun

    def like_x0(self, tensors: Sequence[Tensor | None]) -> Any:
        """Tensors in the structure of ``x0``; those of a model as a dict by the names of its parameters.

        Args:
            tensors: one for each leaf.
        """

        def build(form: Any) -> Any:
            if isinstance(form, dict):
                return {name: build(value) for name, value in form.items()}
            if isinstance(form, (list, tuple)):
                return _sequence_like(form, [build(value) for value in form])
            return tensors[form]

        return build(self.form)

    def copies(self) -> list[Tensor]:
        """Where the unknowns are now."""
        return [leaf.detach().clone() for leaf in self.leaves]

    def move(self, values: Sequence[Tensor]) -> None:
        """Put the unknowns somewhere.

        Args:
            values: one tensor for each leaf.
        """
        with torch.no_grad():
            for leaf, value in zip(self.leaves, values, strict=True):
                leaf.copy_(value)

    def return_grads(self) -> None:
        """Give the parameters of a model the gradients that they had."""
        for leaf, grad in zip(self.leaves, self._grads, strict=False):
            leaf.grad = grad

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.leaves)


def _sequence_like(example: Any, values: list[Any]) -> Any:
    """A list or tuple like another one; a named tuple keeps its names."""
    if isinstance(example, list):
        return values
    return type(example)(*values) if hasattr(example, "_fields") else tuple(values)


def _takes_an_argument(fun: Callable[..., Any]) -> bool:
    """Whether a function has to be given something."""
    parameters = _positional(fun)
    return parameters is None or any(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)


def _can_take_one(fun: Callable[..., Any]) -> bool:
    """Whether a function can be given something."""
    return _positional(fun) != []


def _positional(fun: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters that a function takes by position; None where it does not say."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]


__all__ = ["Unknowns"]
