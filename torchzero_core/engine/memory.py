"""Memory that runs out while a step is being written: what is left of it is made, so that it is a whole one."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from .numbers import compiled

#: What torch raises for want of memory: on the CPU it is no class of its own.
SHORT = (MemoryError, RuntimeError)


def go_on(function: Callable[..., Any], error: BaseException) -> Any:
    """Go on where a function of :func:`~.numbers.compiled` has stopped: the line that failed once more, then the rest.

    Each line of it writes nothing, or writes after it has all the memory that it needs. So nothing is done twice.

    Args:
        function: it was called, and has failed.
        error: what it raised.

    Returns:
        What it returns.

    Raises:
        RuntimeError: a line has failed twice; see :func:`failed_twice`.

    Example:
        >>> tries = []
        >>> def allocate():
        ...     tries.append(1)
        ...     if len(tries) == 1:
        ...         raise MemoryError
        ...     return 3
        >>> function = compiled("add", "x", ["x.append(1)", "y = allocate()", "return x, y"], {"allocate": allocate})
        >>> try:
        ...     function([])
        ... except SHORT as error:
        ...     go_on(function, error)
        ([1], 3)
    """
    source = function.source  # type: ignore[attr-defined]
    lines, space = source.splitlines()[1:], function.__globals__
    while True:
        stopped = _stopped(function, error)
        if stopped is None:
            raise error
        at, names = stopped
        traceback.clear_frames(error.__traceback__)  # they hold memory that the rest of the lines gives back
        lines = [line.strip() for line in lines[at:]]
        function = compiled(function.__name__, ", ".join(names), lines, space)
        try:
            return function(**names)
        except SHORT as again:
            error = again
        if (_stopped(function, error) or (0,))[0] == 0:
            error.failed_twice = True  # type: ignore[union-attr]
            raise error


def _stopped(function: Callable[..., Any], error: BaseException) -> tuple[int, dict[str, Any]] | None:
    """The line of a function at which an error was raised, its first one being 0, and its variables there."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is function.__code__:
            return trace.tb_lineno - 2, dict(trace.tb_frame.f_locals)
        trace = trace.tb_next
    return None


def failed_twice(error: BaseException) -> bool:
    """Whether an error is one of :func:`go_on`: what has been written by then is written."""
    return getattr(error, "failed_twice", False)


def twice(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, and once more where memory ran out.

    Args:
        function: it writes nothing before it has all the memory that it needs.
        *args: its arguments.
    """
    try:
        return function(*args)
    except SHORT:
        return function(*args)
