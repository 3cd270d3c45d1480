"""What settings may be: numbers in their ranges, words that are known, values that go together."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from .declare import Check, Range, fields_of


class Checked(Protocol):
    """What has settings that are checked."""

    defaults: dict[str, Any]

    @property
    def ranges(self) -> Mapping[str, tuple[float, float, str]]:
        """Ranges by setting."""

    @property
    def checks(self) -> Mapping[str, Check]:
        """Checks by setting."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse values that do not go together."""


def validate(module: Checked, values: Mapping[str, Any], where: str, beside: Mapping[str, Any] | None = None) -> None:
    """Refuse values that a module's settings may not have.

    Args:
        module: the module.
        values: some of its settings, from the constructor or from a group.
        where: where they stand, the beginning of the sentence about a bad one.
        beside: other settings that are not the constructor's, and have been checked.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    words, ranges, fields = choices(type(module)), module.ranges, fields_of(type(module))
    for name, value in values.items():
        if name in fields:
            check_kind(name, value, fields[name].hint, where)
        if name in module.checks:
            try:
                module.checks[name].refuse(name, value)
            except ValueError as error:
                raise ValueError(f"{where.replace('(', ': ')}{error}") from None
        if isinstance(value, str):
            if name in words and value not in words[name].words:
                raise ValueError(f"{_assigned(where, name, repr(value))} must be {words[name]}.")
        elif name in ranges:
            check_range(name, value, Range(*ranges[name]), where)
    module.check_settings({**module.defaults, **values, **(beside or {})})


def check_kind(name: str, value: Any, hint: Any, where: str) -> None:
    """Refuse what is of no kind that a setting may have; only numbers, truth values, None and words are told apart.

    Args:
        name: of the setting.
        value: its value.
        hint: its type.
        where: where it stands, the beginning of the sentence.

    Raises:
        ValueError: naming the setting, its value and what it may be.
    """
    kinds = [typing.get_origin(m) or m for m in _members(hint)]
    if not all(kind in _NAMES for kind in kinds):
        return
    if value is None:
        fits = types.NoneType in kinds
    elif isinstance(value, (bool, np.bool_)):
        fits = bool in kinds
    elif isinstance(value, str):
        fits = typing.Literal in kinds  # which words are known is looked at elsewhere
    elif isinstance(value, Real) and not {float, bool} & set(kinds):
        fits = int in kinds and (float(value).is_integer() or not math.isfinite(value))  # in no range
    else:
        fits = isinstance(value, (Real, Tensor)) or hasattr(value, "__float__")
    if not fits:
        words = [repr(w) for m in _members(hint) for w in typing.get_args(m)]
        allowed = " or ".join(dict.fromkeys([*words, *(_NAMES[k] for k in kinds if k is not typing.Literal)]))
        raise ValueError(f"{_assigned(where, name, repr(value))} must be {allowed}.")


#: What kinds are called.
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    types.NoneType: "None",
    typing.Literal: "a word that it knows",
}


def _members(hint: Any) -> Sequence[Any]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def check_range(name: str, value: Any, allowed: Range, where: str) -> None:
    """Refuse a number that is out of range; what is no number passes.

    Args:
        name: of the setting.
        value: its value.
        allowed: where it must be.
        where: where it stands, the beginning of the sentence.

    Raises:
        ValueError: naming the setting, its value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        return
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"{where}{name} must be a number or a tensor with one element, not of shape {tuple(value.shape)}."
        )
    if not allowed.holds(number := float(value)):
        raise ValueError(f"{_assigned(where, name, f'{number:g}')} is out of range: {name} must be in {allowed}.")


def _assigned(where: str, name: str, value: str) -> str:
    return f"{where}{name}={value}{')' if where.endswith('(') else ''}"


#: The range of the learning rate that every parameter group has.
LR_RANGE = Range(0, math.inf, "[)")


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
    """The words that each setting may be, where its declaration or a constructor lists them in a ``Literal``.

    A setting that may also be some other string is left out.

    Args:
        cls: a module's class.
    """
    if cls not in _CHOICES:
        out: dict[str, Choice] = {}
        for base in cls.__mro__[:-1]:
            for name, hint in _hints(base).items():
                members = _members(hint)
                words = [w for m in members if typing.get_origin(m) is typing.Literal for w in typing.get_args(m)]
                if words and str not in members and name not in out:
                    kinds = [_KINDS.get(typing.get_origin(m) or m) for m in members]
                    out[name] = Choice(tuple(words), tuple(dict.fromkeys(k for k in kinds if k)))
        _CHOICES[cls] = out
    return _CHOICES[cls]


def _hints(cls: Any) -> dict[str, Any]:
    """The types of the settings that a class's own constructor takes."""
    if "__init__" not in vars(cls):
        return {}
    if fields := fields_of(cls):
        return {name: field.hint for name, field in fields.items()}
    try:
        return typing.get_type_hints(cls.__init__)
    except (NameError, TypeError):  # a user's module may annotate with names that only a type checker knows
        return {}
