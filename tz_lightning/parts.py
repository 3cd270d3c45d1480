"""Several optimizers as one, each for some of the parameters, as a configuration file can spell it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchzero_core.optim import Split

from .chain import grouped, parameters_of

#: The part of the parameters that no other key means.
REST = "rest"


class SplitOptimizer(Split):
    """A :class:`~torchzero_core.optim.Split` whose optimizers are chosen by kinds and names of parameters.

    Args:
        params: a model, (name, tensor) pairs, or the tensors of the model that a command line trains.
        parts: for each kind, name or pattern of names, as in :func:`torchzero_core.groups`, what makes the optimizer of
            these parameters; ``rest`` means all others. Of several keys that fit a parameter the last one has it.

    Raises:
        TypeError: a part that is no function.
        ValueError: a key that fits no parameter, or for which none is left; a parameter that no key means.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from tz_lightning import SplitOptimizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 1))
        >>> optimizer = SplitOptimizer(model, {
        ...     "hidden_matrices": lambda params: tz.Modular(params, tz.m.Muon(), tz.m.LR(0.02)),
        ...     "rest": lambda params: torch.optim.AdamW(params, lr=1e-3),
        ... })
        >>> [(type(inner).__name__, len(inner.param_groups[0]["params"])) for inner in optimizer.optimizers]
        [('Modular', 1), ('AdamW', 5)]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]] | nn.Module,
        parts: dict[str, Callable[[Iterable], Optimizer]],  # as Lightning spells it
    ) -> None:
        if not parts:
            raise ValueError("SplitOptimizer(parts=...) needs an optimizer for some parameters, or for 'rest'.")
        for key, make in parts.items():
            if not callable(make):
                raise TypeError(
                    f"SplitOptimizer(parts=...): {key!r} takes a function that makes an optimizer of parameters, such "
                    f"as tz_lightning.recipes.adamw, and not {make!r}."
                )
        members = _members(params, parts)
        with parameters_of(params) if isinstance(params, nn.Module) else nullcontext():
            super().__init__(*(make(members[key]) for key, make in parts.items()))


def _members(params: Any, parts: dict[str, Any]) -> dict[str, list[Tensor]]:
    """The parameters of each part."""
    keys = {key: {"part": key} for key in parts if key != REST}
    members: dict[str, list[Tensor]] = {key: [] for key in parts}
    left: list[str] = []
    try:
        groups = grouped(params, keys, "SplitOptimizer(parts=...)")
    except ValueError as error:
        raise ValueError(str(error).replace("groups: ", "SplitOptimizer: parts: ", 1)) from None
    for group in groups:
        key = group.get("part", REST)
        if key in members:
            members[key] += [p for _, p in group["params"]]
        else:
            left += [name for name, _ in group["params"]]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ValueError(
            f"SplitOptimizer: no part has {', '.join(left[:3])}{more}: give what is left an optimizer under {REST!r}."
        )
    if empty := [key for key, found in members.items() if not found]:
        raise ValueError(f"SplitOptimizer: no parameter is left for {empty[0]!r}; the other keys have all of them.")
    return members
