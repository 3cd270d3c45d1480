"""What settings may be: numbers in their ranges, words that are known, values that go together."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .declare import Range, fields_of


class Checked(Protocol):
    """What has settings that are checked."""

    defaults: dict[str, Any]

    @property
    def bounds(self) -> Mapping[str, tuple[float, float, str]]:
        """Ranges by setting."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse values that no range can tell from good ones."""


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
    words, bounds = choices(type(module)), {**USUAL, **module.bounds}
    for name, value in values.items():
        if isinstance(value, str):
            if name in words and value not in words[name].words:
                raise ValueError(f"{_assigned(where, name, repr(value))} must be {words[name]}.")
        elif name in bounds:
            check_range(name, value, Range(*bounds[name]), where)
    module.check_settings({**module.defaults, **values, **(beside or {})})


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


USUAL: dict[str, tuple[float, float, str]] = {
    "lr": (0, math.inf, "[)"),
    "eps": (0, math.inf, "[)"),
    "beta": (0, 1, "[)"),
    "beta1": (0, 1, "[)"),
    "beta2": (0, 1, "[)"),
    "shampoo_beta": (0, 1, "[)"),
    "momentum": (0, 1, "[]"),
    "smoothing": (0, 1, "[]"),
}
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
                members = (
                    typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
                )
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
