"""Parameter groups by kind and by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .kinds import KINDS, is_bias, kinds
from .near import did_you_mean, near


class Groups(list[dict[str, Any]]):
    """Parameter groups, for any torch optimizer; printed they are a table."""

    def __str__(self) -> str:
        rows = []
        for group in self:
            names = [name for name, _ in group["params"]]
            size = sum(p.numel() for _, p in group["params"] if not is_lazy(p))
            values = ", ".join(f"{k}={v}" for k, v in group.items() if k not in ("params", "name"))
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            rows.append((group["name"], f"{len(names)} tensors", f"{size:,} parameters", values, shown))
        widths = [max(len(row[i]) for row in rows) for i in range(4)] if rows else []
        return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, [*widths, 0], strict=True)) for row in rows)


def groups(
    model: nn.Module | Iterable[tuple[str, Tensor]],
    settings: Mapping[str, Mapping[str, Any]],
    params: Iterable[Tensor] | None = None,
) -> Groups:
    r"""Parameter groups of a model by kind and by name, each with settings of its own.

    A key of ``settings`` says which parameters:

    - a kind: ``norms``, ``biases``, ``embeddings``, ``head`` or ``hidden_matrices``; see
      :func:`~torchzero_core.kinds`,
    - a name, or a pattern of names with ``*``, ``?`` and ``[...]``: ``encoder.*.weight``; a ``*`` also stands for dots,
    - ``re:`` and a regular expression that a part of the name fits: ``re:layers\.[01]\.``.

    A parameter that several keys fit gets the settings of all of them, of which a later one wins. What no key fits is
    the group "default". Any setting of any module may stand in a group ("weight_decay", "lr", "Adam.beta1"); the
    optimizer refuses those that no module knows.

    Args:
        model: the model, or names and parameters, of which only ``biases`` is a kind that can be told.
        settings: for each key the settings of its parameters.
        params: only these, where not all parameters of the model are optimized.

    Returns:
        The groups, with names of parameters. ``print(groups(...))`` shows which parameters are in each.

    Raises:
        ValueError: a key that fits no parameter, with those that are like it; a regular expression that is none.
        TypeError: settings that are not given by name.

    Example:
        >>> import torchzero_core as tz
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 9))
        >>> found = tz.groups(model, {"norms": {"weight_decay": 0}, "biases": {"weight_decay": 0}})
        >>> print(found)
        default       2 tensors  52 parameters                  0.weight, 2.weight
        norms+biases  4 tensors  21 parameters  weight_decay=0  0.bias, 1.weight, 1.bias, 2.bias
        >>> optimizer = tz.Modular(found, *tz.recipes.adamw(lr=1e-3))
    """
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"groups are settings by name or kind, as in {{'norms': {{'weight_decay': 0}}}}, not {settings!r}."
        )
    wanted = None if params is None else set(map(id, params))
    every = list(model.named_parameters() if isinstance(model, nn.Module) else model)
    named = [(name, p) for name, p in every if wanted is None or id(p) in wanted]
    if wanted is not None and len(named) < len(wanted):
        raise ValueError(f"{len(wanted) - len(named)} of the parameters do not belong to the model.")
    named_biases = {"biases": [name for name, _ in named if is_bias(name)]}
    of_kind = kinds(model) if isinstance(model, nn.Module) else named_biases
    fitting: dict[str, list[str]] = {name: [] for name, _ in named}
    for key, values in settings.items():
        if not isinstance(values, Mapping):
            raise TypeError(f"groups: {key!r} has settings by name, as in {{'weight_decay': 0}}, not {values!r}.")
        if "params" in values:
            raise TypeError(f"groups: {key!r} says which parameters are meant, so it has no 'params'.")
        try:
            meant = _fitting(str(key), list(fitting), of_kind)
        except ValueError as error:
            raise ValueError(f"groups: {error}") from None
        for name in meant:
            fitting[name].append(str(key))
    return _joined(named, fitting, settings)


def _joined(
    named: list[tuple[str, Tensor]], fitting: Mapping[str, list[str]], settings: Mapping[str, Mapping[str, Any]]
) -> Groups:
    """One group for all parameters whose settings are the same."""
    keys_of: list[tuple[dict[str, Any], set[str], list[tuple[str, Tensor]]]] = []
    for name, p in named:
        values = {k: v for key in fitting[name] for k, v in settings[key].items()}
        known = next((entry for entry in keys_of if entry[0] == values), None)
        if known is None:
            known = (values, set(), [])
            keys_of.append(known)
        known[1].update(fitting[name])
        known[2].append((name, p))
    order = {str(key): place for place, key in enumerate(settings)}
    keys_of.sort(key=lambda entry: (bool(entry[0]), sorted(order[key] for key in entry[1])))
    found, taken = Groups(), set[str]()
    for values, keys, members in keys_of:
        label = base = "+".join(sorted(keys, key=order.__getitem__)) if values else "default"
        while label in taken:  # callbacks tell groups apart by their names
            label = f"{base} ({len(taken)})"
        taken.add(label)
        found.append({"params": members, "name": label, **values})
    return found


def choose(model: nn.Module, key: str) -> list[Tensor]:
    """The parameters of a model that a kind, a name or a pattern means, as for :func:`groups`.

    Args:
        model: the model.
        key: the kind, the name or the pattern.

    Raises:
        ValueError: it fits no parameter.

    Example:
        >>> from torch import nn
        >>> [tuple(p.shape) for p in choose(nn.Linear(3, 2), "biases")]
        [(2,)]
    """
    named = dict(model.named_parameters())
    return [named[name] for name in _fitting(key, list(named), kinds(model))]


def _fitting(key: str, names: list[str], of_kind: Mapping[str, list[str]]) -> list[str]:
    """The names that a key means."""
    if key in of_kind:
        found = [name for name in of_kind[key] if name in names]
        if not found:
            there = ", ".join(kind for kind, members in of_kind.items() if members) or "none of the kinds"
            raise ValueError(f"the model has no {key}; it has {there}.")
        return found
    if key in KINDS:
        raise ValueError(f"which parameters are {key} only the model says, and names alone were given.")
    if key.startswith("re:"):
        try:
            pattern = re.compile(key[3:])
        except re.error as error:
            raise ValueError(f"{key!r} is no regular expression: {error}.") from None
        found = [name for name in names if pattern.search(name)]
    else:
        found = [name for name in names if fnmatchcase(name, key)]
    if not found:
        raise ValueError(f"no parameter has a name like {key!r}.{_hint(key, names)}")
    return found


def _hint(key: str, names: list[str]) -> str:
    """What may have been meant."""
    if kind := near(key, KINDS, 1, 0.7):
        return f" Did you mean the kind {kind[0]!r}?"
    inside = [name for name in names if fnmatchcase(name, f"*.{key}") or fnmatchcase(name, f"{key}.*")]
    if inside and key.startswith("re:") is False:
        wider = f"*.{key}" if fnmatchcase(inside[0], f"*.{key}") else f"{key}.*"
        return f" Did you mean {wider!r}, which fits {inside[0]!r}?"
    bare = key.removeprefix("re:").strip("*^$.")
    if hint := did_you_mean(bare, names, 2, 0.5):
        return hint
    return f" There are {', '.join(names[:5])}{', …' if len(names) > 5 else ''}; and the kinds {', '.join(KINDS)}."
