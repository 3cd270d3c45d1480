"""Whether a function is still the same one: all that it refers to, looked at without calling it."""

from __future__ import annotations

import builtins
import functools
import operator
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

#: Larger things are not looked through.
MOST = 1000
#: So many elements of a tensor are compared.
SAMPLE = 4096
#: Of what these packages hold nothing changes that a loss depends on, their random numbers aside.
STATELESS = ("torch", "math", "numpy", "builtins", "operator", "itertools", "functools", "collections", "typing")
#: How often a tensor has been changed in place.
changes = operator.attrgetter("_version")
_VALUES = (int, float, complex, str, bytes, bool, types.NoneType, types.EllipsisType, torch.dtype, torch.device, range)
_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
_BARE = frozenset(vars(nn.Module())) - {"training"}
_HOOKS = tuple(name for name in _BARE if name.endswith("_hooks"))


class Sight:
    """What a function refers to at one moment: numbers and words by their value, tensors by what they hold.

    It holds nothing of it but weak references, so that a batch is freed when nobody else needs it.

    Args:
        values: numbers, words and code, in the order of the walk.
        tensors: the tensors.
    """

    def __init__(self, values: list[Any], tensors: Sequence[Tensor]) -> None:
        self._values = values
        self._tensors = [(weakref.ref(t), changes(t), _digest(t)) for t in tensors]

    def same(self, other: Sight | None) -> bool:
        """Whether nothing has changed in between; never where it could not be seen.

        Args:
            other: of another moment.
        """
        if other is None or len(self._tensors) != len(other._tensors):
            return False
        for (a, version, digest), (b, version_b, digest_b) in zip(self._tensors, other._tensors, strict=True):
            tensor = a()
            if tensor is None or tensor is not b() or version != version_b or not torch.equal(digest, digest_b):
                return False
        pairs = zip(self._values, other._values, strict=False)
        return len(self._values) == len(other._values) and all(
            x is y or (type(x) is type(y) and x == y) for x, y in pairs
        )


def look(function: Any, params: Iterable[Tensor]) -> Sight | None:
    """All that a function refers to, or None where something of it can change without being seen.

    Args:
        function: the function.
        params: tensors that are left out, since somebody else looks at what they hold.

    Example:
        >>> x = torch.ones(2)
        >>> def loss():
        ...     return (x ** 2).sum()
        >>> before = look(loss, [])
        >>> before.same(look(loss, []))
        True
        >>> _ = x.add_(1)
        >>> before.same(look(loss, []))
        False
        >>> look(iter([1]).__next__, []) is None
        True
    """
    walk = _Walk(params)
    try:
        walk.go(function)
        return Sight(walk.values, walk.tensors)
    except _Unseen:
        return None


class _Unseen(Exception):
    """Something that can change without being seen."""


def _digest(tensor: Tensor) -> Tensor:
    """A sample of the elements: who writes to ``.data`` or through numpy leaves no other trace."""
    most = max(2, int(SAMPLE ** (1 / max(tensor.ndim, 1))))
    return tensor.detach()[tuple(slice(None, None, -(-n // most) or 1) for n in tensor.shape)].clone()


class _Walk:
    """One look.

    Args:
        params: tensors that are left out.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.values: list[Any] = []
        self.tensors: list[Tensor] = []
        self._seen = {id(p) for p in params}

    def go(self, thing: Any) -> None:
        """Look at one thing and at what it refers to.

        Raises:
            _Unseen: it can change without being seen.
        """
        if type(thing) in _VALUES:
            self.values.append(thing)
            return
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if len(self._seen) > MOST:
            raise _Unseen
        if type(thing) in _TENSORS:
            if thing.is_inference() or thing.layout is not torch.strided:
                raise _Unseen
            self.tensors.append(thing)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, types.MethodType):
            self.go(thing.__func__)
            self.go(thing.__self__)
        elif type(thing) is functools.partial:
            self.go([thing.func, thing.args, thing.keywords])
        elif isinstance(thing, nn.Module):
            self._module(thing)
        elif type(thing) in (list, tuple, torch.Size):
            self.values.append(len(thing))
            for part in thing:
                self.go(part)
        elif type(thing) in (dict, types.MappingProxyType):
            self._mapping(thing)
        elif not (isinstance(thing, Optimizer) or _stateless(thing)):
            raise _Unseen

    def _mapping(self, mapping: Mapping[Any, Any]) -> None:
        self.values.append(len(mapping))
        for key, value in mapping.items():
            self.go(key)
            self.go(value)

    def _function(self, function: types.FunctionType) -> None:
        if _stateless(function):
            return
        for cell in function.__closure__ or ():
            try:
                self.go(cell.cell_contents)
            except ValueError:  # it is still empty
                self.values.append(None)
        self.go([function.__defaults__, function.__kwdefaults__, vars(function)])
        self._code(function.__code__, function.__globals__)

    def _code(self, code: types.CodeType, names: Mapping[str, Any]) -> None:
        self.values.append(code)
        for name in code.co_names:  # of global names and of attributes
            if name in names:
                self.go(names[name])
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                self._code(inner, names)

    def _module(self, module: nn.Module) -> None:
        own = vars(module)
        if any(own.get(name) for name in _HOOKS):
            raise _Unseen
        if not _stateless(type(module)):
            self.go(type(module).forward)
        self.values.append(module.training)
        for name in own.keys() - _BARE:
            self.values.append(name)
            self.go(own[name])
        for part in ("_parameters", "_buffers", "_modules"):
            self._mapping(own[part])


def _stateless(thing: Any) -> bool:
    """Whether it is a function, class or module of a package that keeps nothing."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
    elif isinstance(thing, (types.BuiltinFunctionType, types.FunctionType, type)):
        if isinstance(getattr(thing, "__self__", None), Iterable):  # a method such as next or pop of somebody's object
            return False
        name = thing.__module__ or ""
    else:
        return type(thing).__module__ == builtins.__name__ and type(thing).__name__ == "ellipsis"
    return name.split(".")[0] in STATELESS
