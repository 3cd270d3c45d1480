"""What later evaluations of a step change and nobody can put back: it is noticed, and said once."""

from __future__ import annotations

import functools
import itertools
import operator
import pickle
import sys
import types
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor, nn

from . import compat
from .reach import Place, Reach
from .side_effects import (
    FOREIGN,
    LEFT_ALONE,
    LONG,
    Members,
    Shadow,
    Snapshot,
    attributes_of,
    generator_state,
    is_a_user_s,
    package_of,
)
from .tape import is_iterator

#: So many things are looked at in an evaluation, and in one that is looked at closely.
_FEW, _MANY = 150, 50_000
#: So many evaluations are looked at closely, and then those whose number is a power of two.
_CLOSELY = 4
_DEPTH = 6
_BYTES = 1 << 26
_NUMBERS = (int, float, complex, bool, str, bytes)
_PLAIN = frozenset((*_NUMBERS, type(None)))
_MISSING = object()


class _Look:
    """Walks through a value and notes what lies in it, in order.

    Args:
        known: ids of what is put back, and so of no interest.
        most: so many things are looked at.
        kept: whether tensors are to be compared later, so that a copy of small ones is made.
    """

    def __init__(self, known: frozenset[int], most: int, kept: bool) -> None:
        self.found: list[Any] = []
        self._known, self._left, self._kept = known, most, kept
        self._seen: set[int] = set()

    def go(self, value: Any, depth: int = 0, inside: bool = False) -> None:
        """Note a value and what lies in it.

        Args:
            value: the value.
            depth: so many things lie around it.
            inside: look into it although it is put back itself.
        """
        self._left -= 1
        if isinstance(value, _NUMBERS) or self._left < 0 or depth > _DEPTH:
            self.found.append(value)
            return
        new = id(value) not in self._seen and (inside or id(value) not in self._known)
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self.found.append(Shadow(value, False, False) if self._kept and new else value)
            return
        self.found.append(value)
        if not new or isinstance(value, LEFT_ALONE):
            return
        if isinstance(value, (dict, list, tuple, set, deque)):
            self._container(value, depth)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, nn.Module):
            self.found.append(value.training)
            for part in itertools.chain(value.parameters(), value.buffers()):
                self.go(part, depth + 1)
            self._attributes(attributes_of(value), depth)
        elif (state := generator_state(value)) is not None:
            self.found.append(pickle.dumps(state))
        elif is_iterator(value):
            self._iterator(value, depth)
        elif isinstance(value, types.FunctionType):
            self._attributes(vars(value), depth)
        elif isinstance(value, type):
            if package_of(value) not in FOREIGN | sys.stdlib_module_names:
                self._attributes(Members.of_class(value), depth)
        elif is_a_user_s(value):
            self._attributes(vars(value), depth)
        elif own := Members.of_slots(value):
            self._attributes(own, depth)

    def _container(self, value: Any, depth: int) -> None:
        self.found.append(len(value))
        parts = _some(value, max(8, self._left))
        for part in parts:
            if type(part) in _PLAIN:  # most are
                self._left -= 1
                self.found.append(part)
            else:
                self.go(part, depth + 1)

    def _attributes(self, own: Any, depth: int) -> None:
        for name, value in list(own.items()):
            self.found.append(name)
            self.go(value, depth + 1)

    def _array(self, value: Any) -> None:
        self._left -= value.nbytes >> 12
        if self._left > 0 and not value.dtype.hasobject and value.nbytes <= _BYTES:
            self.found.append(zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data) if value.size else 0)

    def _iterator(self, value: Any, depth: int) -> None:
        """How far an iterator has come, where it tells."""
        self.found.append(operator.length_hint(value, -1))
        if isinstance(value, itertools.count):
            self.found.append(repr(value))
        elif isinstance(value, types.GeneratorType) and value.gi_frame is not None:
            self.found.append(value.gi_frame.f_lasti)
            for variable in list(value.gi_frame.f_locals.values()):
                self.go(variable, depth + 1)
        else:
            self.found.append(compat.yielded(value))


def _some(container: Any, most: int) -> Iterable[Any]:
    """What lies in a container; some of it, from all over, where that is much."""
    if isinstance(container, dict):
        if len(container) * 2 <= most:
            return itertools.chain.from_iterable(list(container.items()))
        half = most // 4
        return [*itertools.islice(container.values(), half), *itertools.islice(reversed(container.values()), half)]
    if len(container) <= most:
        return list(container)
    if isinstance(container, (list, tuple)):
        return [*container[:: -(-len(container) // most)], container[-1]]
    return list(itertools.islice(container, most))


def _same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(map(_same_thing, before, after))


def _same_thing(a: Any, b: Any) -> bool:
    if isinstance(a, Shadow):
        return a.tensor is b and a.fresh()
    if a is b:
        return True
    return type(a) is type(b) and isinstance(a, _NUMBERS) and (a == b or (a != a and b != b))


class Outside:
    """Notices what evaluations change beyond what is put back.

    Args:
        module: the model.
        who: whose evaluations they are, as the message says it.
    """

    def __init__(self, module: nn.Module, who: str) -> None:
        self._module, self._who = module, who
        self._reach: tuple[Any, Reach] | None = None
        self._looks = 0
        self._said = False

    @contextmanager
    def watching(self, function: Any, start: Snapshot, end: Snapshot) -> Iterator[None]:
        """Within it an evaluation is made; a change that it leaves behind is said, the first time.

        Args:
            function: what is evaluated.
            start: what is put back before the evaluation.
            end: what is put back after it.
        """
        if self._said:
            yield
            return
        self._looks += 1
        closely = self._looks <= _CLOSELY or self._looks & (self._looks - 1) == 0
        places = self._places(function, start)
        known = start.things.known | end.things.known
        most = (_MANY if closely else _FEW) // max(1, len(places)) + 1
        before = [self._look(place, known, most, kept=True) for place in places]
        yield
        after = [self._look(place, known, most, kept=False) for place in places]
        changed = [p.name for p, a, b in zip(places, before, after, strict=True) if not _same(a, b)]
        if changed:
            self._say(list(dict.fromkeys(changed)))

    def _look(self, place: Place, known: frozenset[int], most: int, *, kept: bool) -> list[Any]:
        look = _Look(known, most, kept)
        try:
            value = place.read()
        except (LookupError, ValueError):
            value = _MISSING
        look.go(value, inside=isinstance(place, _Inner))
        return look.found

    def _places(self, function: Any, start: Snapshot) -> list[Place]:
        beyond = start.things.beyond
        if self._reach is None or self._reach[0] != function:  # methods are equal where they are the same
            self._reach = function, Reach([function], self._module)
        return [*self._reach[1].places, *(_Inner(self._name_of(v), functools.partial(_itself, v)) for v in beyond)]

    def _name_of(self, value: Any) -> str:
        """What a large attribute is called."""
        what = f"an array of {value.nbytes >> 10} KB" if isinstance(value, np.ndarray) else f"{len(value)} entries"
        for path, part in self._module.named_modules():
            for name, held in vars(part).items():
                if held is value:
                    return f"{_WITHIN} '{f'{path}.' if path else ''}{name}' ({what})"
        return f"{_WITHIN} a {type(value).__name__} ({what})"

    def _say(self, changed: list[str]) -> None:
        self._said = True
        *others, last = changed
        what = f"{', '.join(others)} and {last}" if others else last
        if all(name.startswith(_WITHIN) for name in changed):
            why = f"What lies in more than {LONG} entries or in large arrays is not put back: keep it in a buffer"
        else:
            why = "Only what belongs to the model or to the batch is put back: keep it in an attribute of the model"
        warnings.warn(
            f"{self._who} changes {what} each time the loss is evaluated, which is several times a step. {why}, or "
            "change it only where tz_lightning.is_reevaluation() is false.",
            UserWarning,
            stacklevel=2,
        )


#: How the name begins of what is an attribute itself.
_WITHIN = "what lies in"


def _itself(value: Any) -> Any:
    return value


class _Inner(Place):
    """What is put back itself, but not what lies in it."""
