"""Settings: where each comes from, what it may be."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .home import Home
from .overrides import Overrides


class Configured(Protocol):
    """What has settings."""

    path: str
    defaults: dict[str, Any]
    overrides: Overrides

    @property
    def home(self) -> Home | None:
        """The optimizer that it is part of."""


#: Keys that torch, its schedulers and Lightning put into groups; they are no module's settings.
FOREIGN_KEYS = {
    "params", "param_names", "name", "lr", "initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "lr_scale",
    "max_momentum", "base_momentum", "momentum", "betas",
}  # fmt: skip
#: Ranges by the name of a setting: (low, high, brackets).
BOUNDS: dict[str, tuple[float, float, str]] = {
    "lr": (0, math.inf, "[)"),
    "eps": (0, math.inf, "[)"),
    "beta": (0, 1, "[)"),
    "beta1": (0, 1, "[)"),
    "beta2": (0, 1, "[)"),
    "shampoo_beta": (0, 1, "[)"),
    "momentum": (0, 1, "[]"),
    "smoothing": (0, 1, "[]"),
}


def validate(cls: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuse settings that are out of range.

    Raises:
        ValueError: naming the setting, its value and the range.
    """
    check_words(cls, values, where)
    for name, value in values.items():
        bounds = cls.bounds.get(name, BOUNDS.get(name))
        if bounds is None or isinstance(value, (bool, str)) or value is None:
            continue
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(
                f"{where}{name} must be a number or a tensor with one element, not of shape {tuple(value.shape)}."
            )
        if not isinstance(value, (int, float, Tensor)):
            continue
        low, high, brackets = bounds
        number = float(value)
        inside = (low <= number if brackets[0] == "[" else low < number) and (
            number <= high if brackets[1] == "]" else number < high
        )
        if not inside:
            close = ")" if where.endswith("(") else ""
            shown = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
            raise ValueError(f"{where}{name}={number:g}{close} is out of range: {name} must be in {shown}.")


def check_words(cls: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuse words that a setting does not know.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    allowed = choices(cls)
    for name, value in values.items():
        if isinstance(value, str) and name in allowed and value not in allowed[name].words:
            close = ")" if where.endswith("(") else ""
            raise ValueError(f"{where}{name}={value!r}{close} must be {allowed[name]}.")


@dataclass(frozen=True)
class Choice:
    """What a setting may be that some words are allowed for."""

    words: tuple[str, ...]
    others: tuple[str, ...]

    def __str__(self) -> str:
        words = ", ".join(map(repr, self.words))
        return " or ".join([words, *self.others]) if self.others else f"one of {words}"


_KINDS = {int: "a number", float: "a number", types.NoneType: "None", Sequence: "a list"}
_CHOICES: dict[Any, dict[str, Choice]] = {}


def choices(cls: type) -> dict[str, Choice]:
    """The words that each setting may be, where a constructor's annotation lists them in a ``Literal``.

    A setting that may also be some other string is left out.
    """
    if cls in _CHOICES:
        return _CHOICES[cls]
    out: dict[str, Choice] = {}
    for base in cls.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        try:
            hints = typing.get_type_hints(base.__init__)  # type: ignore[misc]
        except (NameError, TypeError):  # a user's module may annotate with names that only a type checker knows
            continue
        for name, hint in hints.items():
            members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
            words = [w for m in members if typing.get_origin(m) is typing.Literal for w in typing.get_args(m)]
            if words and str not in members and name not in out:
                kinds = [_KINDS.get(typing.get_origin(m) or m) for m in members]
                out[name] = Choice(tuple(words), tuple(dict.fromkeys(k for k in kinds if k)))
    _CHOICES[cls] = out
    return out


def find(group: Mapping[str, Any], module: Configured, name: str) -> Any:
    """The value that a parameter group gives to a module's setting, or ``MISSING``.

    The most specific key counts: the module's path and the setting ("RMSprop.inner.EMA.momentum", or the end of it
    from any module name on, "EMA.momentum"), then the setting's own name, then the ``betas`` of torch.
    """
    best, length = MISSING, -1
    for key, value in group.items():
        if "." in key and len(key) > length and (f".{module.path}.{name}").endswith(f".{key}"):
            best, length = value, len(key)
    if best is not MISSING:
        return best
    home = module.home
    if name in group and name != "params" and not (name == "lr" and home is not None and home.lr_scales_update):
        return group[name]
    place = {"beta1": 0, "beta2": 1}.get(name)
    if place is not None and module.defaults[name] is not None and place < len(group.get("betas", ())):
        return group["betas"][place]
    return MISSING


MISSING: Any = object()


class Settings:
    """``module.settings``: maps a parameter to the module's settings for it.

    Order: :meth:`Module.set_param_groups`, then the keys of the parameter group, then the constructor.
    """

    __slots__ = ("_cache", "_module", "_version")

    def __init__(self, module: Configured) -> None:
        self._module = module
        self._cache: dict[Any, dict[str, Any]] = {}
        self._version = -1

    def forget(self) -> None:
        """Resolve everything anew at the next look."""
        self._cache.clear()

    def __getitem__(self, param: Tensor) -> dict[str, Any]:
        module = self._module
        home = module.home
        if home is None:
            return self._resolve(param, {})
        if self._version != home.settings_version:
            self._cache.clear()
            self._version = home.settings_version
        params = home.all_params
        real = params.real_param(param)
        group = params.group_index(real)
        key = (group, module.overrides.places(real)) if module.overrides else group
        if key not in self._cache:
            self._cache[key] = self._resolve(real, home.param_groups[group])
        return self._cache[key]

    def _resolve(self, param: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        module = self._module
        values = dict(module.defaults)
        for name in values:
            found = find(group, module, name)
            if found is not MISSING:
                values[name] = found
        return values | module.overrides.values(param)


def given(group: Mapping[str, Any], module: Configured) -> dict[str, Any]:
    """The settings of a module that a parameter group gives a value to."""
    found = {name: find(group, module, name) for name in module.defaults}
    return {name: value for name, value in found.items() if value is not MISSING}


def unknown_keys(group: Mapping[str, Any], modules: Iterable[Configured]) -> list[str]:
    """The keys of a group that no module of the chain knows."""
    modules = list(modules)
    names = {name for m in modules for name in m.defaults} | FOREIGN_KEYS
    paths = [f".{m.path}.{name}" for m in modules for name in m.defaults]
    return [
        key
        for key in group
        if key not in names and not ("." in key and any(path.endswith(f".{key}") for path in paths))
    ]
