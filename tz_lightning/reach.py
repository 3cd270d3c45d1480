"""What a function can reach beside its arguments, as its code says: globals, variables of functions around it."""

from __future__ import annotations

import dis
import functools
import inspect
import operator
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from .side_effects import FOREIGN, package_of

#: A function whose code names it says itself what happens in later evaluations.
_ASKS = "is_reevaluation"
_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
#: What is called around a forward pass.
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
#: So many functions are looked at.
_MOST = 200


@dataclass(frozen=True)
class Place:
    """Somewhere beyond the model where a value lies.

    Attributes:
        name: what a message calls it.
        read: gives the value; raises LookupError or ValueError where there is none.
    """

    name: str
    read: Callable[[], Any]


def constant(name: str, value: Any) -> Place:
    """The place of a thing that is always the same one."""
    return Place(name, lambda: value)


@dataclass(frozen=True)
class _Names:
    """What a code object names, that of inner functions included."""

    globals: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=1024)
def _names_of(code: types.CodeType) -> _Names:
    names: dict[str, None] = {}
    attributes: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname.endswith(("_GLOBAL", "_NAME")) and isinstance(instruction.argval, str):
            names[instruction.argval] = None
        elif instruction.opname.endswith(("_ATTR", "_METHOD")):
            attributes.add(instruction.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found = _names_of(inner)
            names.update(dict.fromkeys(found.globals))
            attributes |= found.attributes
    return _Names(tuple(names), frozenset(attributes))


class Reach:
    """The places that functions can reach, and those that they call as far as their code shows it.

    Functions of other packages are not looked into, and none whose code asks ``is_reevaluation()``.

    Args:
        functions: where it begins.
        module: the model: methods that the code names and forward passes belong to what it calls.

    Attributes:
        places: what was found.
    """

    def __init__(self, functions: Iterable[Any], module: nn.Module) -> None:
        self.places: list[Place] = []
        self._seen: dict[int, Any] = {}
        self._noted: set[tuple[str, int]] = set()
        self._types: dict[type, None] = {}
        self._attributes: set[str] = set()
        self._roots = {package_of(type(module))}
        self._queue = [function for given in functions for function in _plain(given)]
        self._roots |= {(function.__module__ or "").partition(".")[0] for function in self._queue}
        for part in module.modules():
            self._add_type(type(part), called=True)
            self._queue += [
                function for name in _HOOKS for hook in vars(part)[name].values() for function in _plain(hook)
            ]
        while self._queue and len(self._seen) < _MOST:
            self._look_at(self._queue.pop())
        self._seen.clear()

    def _is_own(self, name: str | None, file: str) -> bool:
        """Whether code is the user's, and not that of another package.

        Args:
            name: of its module.
            file: where it stands.
        """
        package = (name or "").partition(".")[0]
        if package in FOREIGN or package in sys.stdlib_module_names:
            return False
        return package in self._roots or not file.startswith(_LIBRARIES)

    def _look_at(self, function: types.FunctionType) -> None:
        if id(function) in self._seen or not self._is_own(function.__module__, function.__code__.co_filename):
            return
        self._seen[id(function)] = function
        names = _names_of(function.__code__)
        silent = _ASKS in names.globals or _ASKS in names.attributes
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__":
                place = Place(f"{name!r} of the function around it", functools.partial(getattr, cell, "cell_contents"))
                self._add(place, names, silent)
        for name in names.globals:
            place = Place(f"the global {name!r}", functools.partial(operator.getitem, function.__globals__, name))
            self._add(place, names, silent)
        if not silent:
            for name, value in _defaults(function):
                self._add(constant(f"the default of {name!r}", value), names, silent)
        for name in names.attributes - self._attributes:
            self._queue += [found for cls in self._types for found in _method(cls, name)]
        self._attributes |= names.attributes

    def _add(self, place: Place, names: _Names, silent: bool) -> None:
        """Note a place, or go where it leads."""
        try:
            value = place.read()
        except (LookupError, ValueError):
            value = None  # there is nothing yet
        if isinstance(value, types.ModuleType):
            for name in names.attributes & vars(value).keys() if self._is_own(value.__name__, _file(value)) else ():
                inner = f"the global '{value.__name__}.{name}'"
                self._add(Place(inner, functools.partial(operator.getitem, vars(value), name)), _Names(), silent)
            return
        self._queue += _plain(value)
        self._add_type(value if isinstance(value, type) else type(value))
        if not silent and (place.name, id(value)) not in self._noted:
            self._noted.add((place.name, id(value)))
            self.places.append(place)

    def _add_type(self, cls: type, called: bool = False) -> None:
        """A class whose methods may be called.

        Args:
            cls: the class.
            called: whether its forward pass is.
        """
        for base in cls.__mro__:
            if base in self._types or package_of(base) in FOREIGN | {"builtins", "abc", "typing"}:
                continue
            self._types[base] = None
            for name in self._attributes | ({"forward"} if called else set()):
                self._queue += _method(base, name)


def _file(module: types.ModuleType) -> str:
    return getattr(module, "__file__", None) or ""


def _plain(value: Any) -> Iterator[types.FunctionType]:
    """The functions with code of their own behind a value that can be called."""
    if isinstance(value, types.MethodType):
        value = value.__func__
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _plain(part)
        return
    if isinstance(value, property):
        value = value.fget
    while isinstance(value, types.FunctionType) or hasattr(type(value), "__wrapped__"):
        if isinstance(value, types.FunctionType):
            yield value
        inner = inspect.getattr_static(value, "__wrapped__", None)
        if inner is None or inner is value:
            return
        value = inner


def _method(cls: type, name: str) -> list[types.FunctionType]:
    """A method of a class itself, and not of its bases."""
    own = vars(cls).get(name)
    return list(_plain(getattr(own, "__func__", own)))


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code = function.__code__
    values = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(values) : code.co_argcount]
    yield from zip(names, values, strict=True)
    yield from (function.__kwdefaults__ or {}).items()
