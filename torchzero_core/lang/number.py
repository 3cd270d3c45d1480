"""Numbers that the host knows before a step: settings, step counts, and what is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from .ops import PYTHON, Operation, Symbol, is_number


class Numbers(Protocol):
    """Whoever keeps the numbers of a trace."""

    def number(self, op: Operation, args: tuple[Any, ...], value: Any) -> Number:
        """The number that is computed so; the same one each time."""

    def guard(self, number: Number, cast: Callable[[Any], Any]) -> Any:
        """The value it has now, on which the trace from then on depends."""


class Number(Symbol):
    """A number that the host knows before the step: arithmetic makes further ones, a branch on it is a guard.

    ``bool(x)``, ``int(x)`` and ``float(x)`` give the value it has now and make the trace valid only while that stays
    the same; everything else keeps the trace valid for all values.

    Attributes:
        trace: where it belongs.
        index: its place among the numbers of the trace; operands come before results.
        op: what computes it; None for one that is given.
        args: what it is computed from.
        source: where the step finds one that is given.
        label: what a user calls one that is given.
        whole: whether it is the same for all tensors of a step, whatever the parameter groups say.
        settled: whether it follows from settings alone.
        value: what it is now.
    """

    __slots__ = ("args", "index", "label", "op", "settled", "source", "trace", "value", "whole")

    def __init__(
        self,
        trace: Numbers,
        index: int,
        value: Any,
        *,
        op: Operation | None = None,
        args: tuple[Any, ...] = (),
        source: str = "",
        label: str = "",
        whole: bool = False,
    ) -> None:
        self.trace, self.index, self.value, self.op, self.args = trace, index, value, op, args
        self.source, self.label = source, label
        self.settled: bool = source[:1] == "S" if op is None else all(a.settled for a in args if isinstance(a, Number))
        self.whole: bool = whole if op is None else all(a.whole for a in args if isinstance(a, Number))

    def build(self, op: Operation, *args: Any) -> Any:
        """The result of an operation: a number, or a value where another operand is one."""
        for a in args:
            if isinstance(a, Symbol) and not isinstance(a, Number):
                return a.build(op, *args)
        if not all(isinstance(a, Number) or is_number(a) for a in args):
            return NotImplemented
        args = tuple(a if isinstance(a, Number) else plain(a) for a in args)
        value = op.on_numbers(*(a.value if isinstance(a, Number) else a for a in args))
        return self.trace.number(op, args, value)

    @property
    def known(self) -> Any:
        """The number that it is now."""
        return self.value

    def __bool__(self) -> bool:
        return bool(self.trace.guard(self, bool))

    def __float__(self) -> float:
        return float(self.trace.guard(self, float))

    def __int__(self) -> int:
        return int(self.trace.guard(self, int))

    __index__ = __int__

    def __eq__(self, other: object) -> Any:
        return self.eq(other)

    def __ne__(self, other: object) -> Any:
        return self.ne(other)

    __hash__ = object.__hash__

    def leaves(self) -> list[Number]:
        """The given numbers that it is computed from."""
        return [n for n in _needed([self]) if n.op is None]

    def __repr__(self) -> str:
        if self.op is None:
            return self.label
        return f"{self.op.name}({', '.join(map(repr, self.args))})"


class Guard(NamedTuple):
    """A condition of a trace: a number, taken as a truth value, a whole number or as it is, has a certain value."""

    number: Number
    cast: Callable[[Any], Any]
    value: Any

    def __repr__(self) -> str:
        return f"{self.number!r} = {self.value!r}"


#: Settings, step counts and the facts about all tensors together, as a step has them.
Host: TypeAlias = tuple[Sequence[Any], Sequence[int], Sequence[float]]


def plain(x: Any) -> float | int:
    """A constant as Python's own number."""
    return int(x) if isinstance(x, (int, np.integer)) else float(x)


def _needed(numbers: Sequence[Number]) -> list[Number]:
    found: dict[int, Number] = {}
    pending = list(numbers)
    while pending:
        n = pending.pop()
        if n.index not in found:
            found[n.index] = n
            pending += [a for a in n.args if isinstance(a, Number)]
    return [found[i] for i in sorted(found)]


def host_function(
    numbers: Sequence[Number], guards: Sequence[Guard] = (), *, settings_hold: bool = False
) -> Callable[..., tuple[Any, ...] | None]:
    """A function of settings, counts and facts that computes numbers, each of which is worked out once.

    Args:
        numbers: what it returns, in order.
        guards: under which conditions; elsewhere it returns None.
        settings_hold: leave out conditions on settings alone: they have been seen to hold.
    """
    guards = [g for g in guards if not (settings_hold and g.number.settled)]
    namespace: dict[str, Any] = {**PYTHON, "as_it_is": as_it_is}
    tests = []
    for i, guard in enumerate(guards):
        namespace[f"expected{i}"] = guard.value
        tests.append(f"{guard.cast.__name__}(n{guard.number.index}) == expected{i}")
    results = "".join(f"n{n.index}, " for n in numbers)
    code = {"python": "", "numpy": ""}
    needed = _needed([*numbers, *(g.number for g in guards)])
    given = [f"n{n.index}, " for n in needed if n.op is None and is_number(n.value) and n.settled]
    if given and not settings_hold:  # a number may have become none
        tests.insert(0, f"None not in ({''.join(given)})")
    for n in needed:
        args = [f"n{a.index}" if isinstance(a, Number) else f"({a!r})" for a in n.args]
        for kind in code:
            text = n.source if n.op is None else getattr(n.op, kind).format(*args)
            code[kind] += f"n{n.index} = {text}; "

    @cache
    def compiled(kind: str) -> Callable[..., tuple[Any, ...] | None]:
        result = f"({results}) if {' and '.join(tests)} else None" if tests else f"({results})"
        exec(f"def {kind}(S, N, W): {code[kind]}return {result}", namespace)
        return namespace[kind]

    quick = compiled("python")

    def run(S: Sequence[Any], N: Sequence[int], W: Sequence[float]) -> tuple[Any, ...] | None:
        try:
            return quick(S, N, W)
        except TypeError:  # what was a number is none any more
            return None
        except (ArithmeticError, ValueError):  # an infinity or no number at all: floating point knows what to do
            try:
                with np.errstate(all="ignore"):
                    return compiled("numpy")(
                        [_double(s) for s in S], list(map(np.float64, N)), list(map(np.float64, W))
                    )
            except (TypeError, ValueError):  # a word
                return None

    return run


def as_it_is(x: Any) -> Any:
    """What a guard on a word looks at."""
    return x


def _double(setting: Any) -> Any:
    return np.float64(setting) if is_number(setting) else setting
