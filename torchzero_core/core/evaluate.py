"""Evaluating a closure at other points without a trace: gradients are put back, settings are checked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.params import Params
from .closure import Closure, Evaluations
from .module import Module


def remembering(exact: Closure, known: Evaluations, params: Sequence[Tensor]) -> Closure:
    """A closure that is evaluated with gradients once at each point that is remembered.

    Args:
        exact: what is evaluated; the same function every time.
        known: what was evaluated.
        params: the parameters whose gradients it computes.
    """

    def closure(backward: bool = True) -> Any:
        if not backward:
            return exact(False)
        kept = known.find(params, exact)
        if kept is not None:
            return known.recall(kept, params)
        loss = exact(True)
        if loss is not None:
            known.note(params, loss, exact)
        return loss

    return closure


def uniform_settings(module: Module, params: Sequence[Tensor], names: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of a module that decides for all parameters at once.

    Args:
        module: the module.
        params: the parameters.
        names: the settings that must be the same for all of them; all settings by default.

    Raises:
        ValueError: a setting differs between parameter groups.

    Example:
        >>> import torch
        >>> from torchzero_core.core import Module
        >>> uniform_settings(Module(dict(c=1e-4)), [torch.zeros(1)])
        {'c': 0.0001}
    """
    first = module.settings[params[0]]
    home = module.home
    if home is not None and len(home.param_groups) == 1 and not module.overrides:
        return first
    derived = params.derived if isinstance(params, Params) and home is not None else {}
    key = module, "uniform", None if names is None else tuple(names)
    if home is not None and derived.get(key) == home.settings_version:
        return first
    for p in params[1:]:
        other = module.settings[p]
        if other is first:
            continue
        for name in first if names is None else names:
            if other[name] is not first[name] and other[name] != first[name]:
                raise ValueError(
                    f"{module.path} takes one {name} for all parameters, but the parameter groups set "
                    f"{name}={first[name]!r} and {name}={other[name]!r}; give every group the same value."
                )
    if home is not None:
        derived[key] = home.settings_version
    return first


class KeptGrads:
    """What :func:`kept_grads` returns. It is no generator, which would take as long as all that it does.

    Args:
        params: the parameters whose ``grad`` to keep.
    """

    __slots__ = ("_grads", "_params")

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params, self._grads = params, [p.grad for p in params]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for p, g in zip(self._params, self._grads, strict=True):
            p.grad = g


def kept_grads(params: Sequence[Tensor]) -> KeptGrads:
    """Evaluations inside leave no gradients: every ``p.grad`` is the same tensor again, also after an error.

    A closure that writes gradients into the same memory every time does so here too: whoever needs the values of
    before has a copy.

    Args:
        params: the parameters whose ``grad`` to keep.

    Example:
        >>> import torch
        >>> p = torch.ones(1, requires_grad=True)
        >>> p.grad = torch.tensor([5.0])
        >>> with kept_grads([p]):
        ...     p.grad = None
        ...     (p**2).sum().backward()
        >>> p.grad
        tensor([5.])
    """
    return KeptGrads(params)


def gradient(closure: Callable[..., Any], params: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Evaluate loss and gradient where the parameters are, leaving every ``p.grad`` as it was.

    Args:
        closure: ``closure(backward=True)``.
        params: the parameters whose gradients to take.

    Returns:
        The loss and the gradients, which are the caller's; zeros where the closure computed none.

    Example:
        >>> import torch
        >>> p = torch.tensor([3.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum()
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> loss, grads = gradient(closure, [p])
        >>> loss.item(), grads, p.grad
        (9.0, [tensor([6.])], None)
    """
    with kept_grads(params):
        loss = closure(True)
        return loss, [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in params]
