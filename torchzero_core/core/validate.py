"""What settings may be: numbers in their ranges, words that are known, values that go together."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from .declare import Check, Range, fields_of

T = TypeVar("T")


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
    words, ranges, hints = choices(type(module)), module.ranges, hints_of(type(module))
    for name, value in values.items():
        value = plain(value)
        if name in hints and name not in module.checks:
            check_kind(name, value, hints[name], where)
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
        elif _numeric(hints[name]) if name in hints else isinstance(value, (int, float)):
            whole = name in hints and float not in kinds_of(hints[name])
            check_range(name, value, ANY_WHOLE if whole else ANY_NUMBER, where)
    module.check_settings({**module.defaults, **settled(type(module), {**values, **(beside or {})})})


def plain(value: Any) -> Any:
    """A number of another library, or of Python's ``decimal`` and ``fractions``, as Python's own; the rest as it is."""
    if value is None or isinstance(value, (bool, str, Tensor)) or type(value) in (int, float):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return value.item() if value.size == 1 else value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if hasattr(type(value), "__float__") else value


def as_float(number: float) -> float:
    """A number as a float; whole ones that none can hold are infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def settled(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that have been checked as the module reads them: numbers as Python's own, whole ones as ints.

    Args:
        cls: the module's class.
        values: some of its settings.
    """
    hints = hints_of(cls)
    return {name: _settled(value, hints.get(name)) for name, value in values.items()}


#: The largest whole number up to which floats have all of them.
_LARGE = 2**53


def _settled(value: Any, hint: Any) -> Any:
    value = plain(value)
    if hint is None or isinstance(value, (bool, str)) or value is None:
        return value
    kinds = kinds_of(hint)
    if isinstance(value, int):  # kernels take no whole number that is this large
        return float(value) if abs(value) > _LARGE and float in kinds and int not in kinds else value
    if isinstance(value, (float, Tensor)) and int in kinds and float not in kinds:
        return int(value)
    return value


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
    kinds, operand = kinds_of(hint), _is_operand(hint)
    if not all(kind in _NAMES for kind in kinds):
        return
    words = [w for m in _members(hint) if typing.get_origin(m) is typing.Literal for w in typing.get_args(m)]
    if value is None:
        fits = types.NoneType in kinds
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value in words:
        fits = True
    elif isinstance(value, bool):
        fits = bool in kinds
    elif isinstance(value, str):
        fits = typing.Literal in kinds  # which words are known is looked at elsewhere
    elif isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            shape = "a complex one" if value.is_complex() else f"of shape {tuple(value.shape)}"
            raise ValueError(
                f"{where.replace('(', ': ')}{name} must be a number or a tensor with one element, not {shape}."
            )
        fits = bool({float, bool} & set(kinds)) or (int in kinds and _whole(value))
    elif isinstance(value, (int, float)):
        fits = float in kinds or (bool in kinds and value in (0, 1)) or (int in kinds and _whole(value))
    else:
        fits = (Callable in kinds and callable(value)) or (Mapping in kinds and isinstance(value, Mapping))
        fits = fits or _fits_tuple(value, hint)
    if not fits:
        names = [_NAMES[k] for k in kinds if k is not typing.Literal] + ["a module", "a list of modules"] * operand
        allowed = " or ".join(dict.fromkeys([*map(repr, words), *names]))
        raise ValueError(f"{_assigned(where, name, _shown(value))} must be {allowed}.")


def _shown(value: Any) -> str:
    """A value in a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _whole(value: Any) -> bool:
    """Whether a number is whole; infinities and NaN pass, since they are in no range of whole numbers."""
    if isinstance(value, Tensor) and value.device.type != "cpu" and not value.is_floating_point():
        return True  # its value may have to be waited for
    return isinstance(value, int) or not math.isfinite(value) or float(value).is_integer()


#: What kinds are called.
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    types.NoneType: "None",
    typing.Literal: "a word that it knows",
    tuple: "a pair of numbers",
    Sequence: "a list of numbers",
    Mapping: "a dict",
    Callable: "a function",
}


def _fits_tuple(value: Any, hint: Any) -> bool:
    """Whether it is a list of numbers, of a tuple as many as its type says."""
    if not isinstance(value, (tuple, list)):
        return False
    sizes = [len(typing.get_args(m)) for m in _members(hint) if typing.get_origin(m) is tuple]
    numbers = [plain(v) for v in value]
    fits = len(value) in sizes or Sequence in kinds_of(hint)
    return fits and all(isinstance(v, (int, float)) and v == v for v in numbers)


def _remembered(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """What a function says of a type is found once: it is asked for at each setting of each module that is made."""
    known = functools.lru_cache(1024)(function)

    @functools.wraps(function)
    def look(hint: Any) -> T:
        try:
            return known(hint)
        except TypeError:  # it has no hash
            return function(hint)

    return look


def _members(hint: Any) -> Sequence[Any]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


@_remembered
def _is_operand(hint: Any) -> bool:
    """Whether it may also be a module, which is then no setting."""
    return any(hasattr(member, "set_child") for member in _members(hint))


@_remembered
def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The kinds of values that a type allows, those aside that make a module of an operand.

    Args:
        hint: the type.
    """
    operand = _is_operand(hint)
    members = [m for m in _members(hint) if not (operand and not isinstance(m, type))]
    return tuple(typing.get_origin(m) or m for m in members if not hasattr(m, "set_child"))


def _numeric(hint: Any) -> bool:
    return bool({int, float} & set(kinds_of(hint)))


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
    if isinstance(value, bool) and allowed not in (ANY_NUMBER, ANY_WHOLE):
        raise ValueError(f"{_assigned(where, name, repr(value))} must be a number.")
    if not isinstance(value, (int, float, Tensor)):
        return
    if isinstance(value, Tensor):
        check_kind(name, value, float, where)
        value = value.item()
    number = as_float(value)
    if not allowed.holds(number) or (isinstance(value, int) and math.isinf(number)):
        raise ValueError(f"{_assigned(where, name, f'{number:g}')} is out of range: {name} must be in {allowed}.")


def _assigned(where: str, name: str, value: str) -> str:
    return f"{where}{name}={value}{')' if where.endswith('(') else ''}"


#: What is said of no range: NaN is in none.
ANY_NUMBER = Range(-math.inf, math.inf)
#: An infinity is no whole number.
ANY_WHOLE = Range(-math.inf, math.inf, "()")
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


_ALL_HINTS: dict[Any, dict[str, Any]] = {}


def hints_of(cls: Any) -> Mapping[str, Any]:
    """The types of a class's settings, as they are declared or as its constructors take them.

    A setting that a hand-written constructor makes of a parameter of the same name is held to that parameter's type.

    Args:
        cls: a module's class.
    """
    if cls not in _ALL_HINTS:
        written: dict[str, Any] = {}
        declared: dict[str, Any] = {}
        for base in reversed(cls.__mro__[:-1]):
            (declared if fields_of(base) else written).update(_hints(base))
        _ALL_HINTS[cls] = {**written, **declared}
    return _ALL_HINTS[cls]


def _hints(cls: Any) -> dict[str, Any]:
    """The types of the settings that a class's own constructor takes."""
    if "__init__" not in vars(cls):
        return {}
    if fields := fields_of(cls):
        return {name: field.hint for name, field in fields.items()}
    try:
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError):  # a user's module may annotate with names that only a type checker knows
        return {}
    params = inspect.signature(cls.__init__).parameters
    may_be_none = {name for name in hints if name in params and params[name].default is None}
    return {name: typing.Union[hint, None] if name in may_be_none else hint for name, hint in hints.items()}  # noqa: UP007
