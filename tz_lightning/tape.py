"""Iterators that the evaluations of a step draw from."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any


class Tape:
    """An iterator whose items can be had again: what is drawn in the first evaluation is drawn in the later ones too.

    Everything else is the iterator's own.

    Args:
        source: the iterator.

    Attributes:
        items: what has been drawn, and the exceptions that came instead.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        self.source = source
        self.items: list[tuple[Any, BaseException | None]] = []
        self._place = 0

    def rewind(self) -> None:
        """Begin anew."""
        self._place = 0

    def __iter__(self) -> Tape:
        return self

    def __next__(self) -> Any:
        if self._place == len(self.items):
            try:
                self.items.append((next(self.source), None))
            except BaseException as error:
                self.items.append((None, error))
        item, raised = self.items[self._place]
        self._place += 1
        if raised is not None:
            raise raised
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def is_iterator(value: Any) -> bool:
    """Whether something is drawn from a value, which cannot be put back."""
    return isinstance(value, Iterator) and not isinstance(value, (io.IOBase, Tape))
