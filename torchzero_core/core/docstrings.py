"""What a docstring says of a setting is said once: a class takes over what its bases say of theirs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

_ARGS = re.compile(r"\nArgs:\n(?P<body>.*?)(?=\n\S|\Z)", re.S)
_ENTRY = re.compile(r"^    \*{0,2}(?P<name>\w+):.*(?:\n(?=     |\n).*)*", re.M)
_HEADING = re.compile(r"(Args|Attributes|Raises|Returns|References?|Example):(.*)")
_AFTER = re.compile(r"\n(?:Raises|References?|Example):")


def inherit_args(cls: Any, names: Iterable[str]) -> None:
    """Complete the section Args of a class with the parameters that only its bases explain, in order.

    Args:
        cls: the class; it stays as it is where it has no docstring or explains all that can be explained.
        names: its parameters.

    Example:
        >>> class Base:
        ...     '''A base.
        ...
        ...     Args:
        ...         scale: a factor.
        ...     '''
        >>> class Sub(Base):
        ...     '''A subclass.
        ...
        ...     Reference: none.
        ...     '''
        >>> inherit_args(Sub, ["scale"])
        >>> print(Sub.__doc__)
        A subclass.
        <BLANKLINE>
            Args:
                scale: a factor.
        <BLANKLINE>
            Reference: none.
        <BLANKLINE>
    """
    written, names = vars(cls).get("__doc__"), list(names)
    if not written:
        return
    text = inspect.cleandoc(written)
    own = explained(text)
    if all(name in own for name in names):
        return
    known: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        known.update(explained(inspect.cleandoc(vars(base).get("__doc__") or "")))
    entries = [known[name] for name in names if name in known]
    if len(entries) == len(own):
        return
    section = "\nArgs:\n" + "\n".join(entries) + "\n"
    if _ARGS.search(text):
        text = _ARGS.sub(lambda _: section, text, count=1)
    elif after := _AFTER.search(text):
        text = f"{text[: after.start()]}{section}{text[after.start() :]}"
    else:
        text = f"{text}\n{section}"
    indent = re.search(r"\n( +)\S", written)  # Python 3.13 takes it away
    cls.__doc__ = text.replace("\n", f"\n{indent[1]}").replace(f"\n{indent[1]}\n", "\n\n") if indent else text


def sections(text: str) -> dict[str, str]:
    r"""The parts of a docstring by their headings, what stands before the first one under "".

    Args:
        text: the docstring, cleaned of its indentation.

    Example:
        >>> sections("Doubles.\n\nArgs:\n    x: a number.\n\nReference: none.")
        {'': 'Doubles.\n', 'Args': '    x: a number.\n', 'Reference': ' none.'}
    """
    found, heading = {"": ""}, ""
    for line in text.splitlines():
        if head := _HEADING.match(line):
            heading = head[1]
            found[heading] = f"{found.get(heading, '')}{head[2]}"
        else:
            found[heading] += f"\n{line}" if found[heading] else line
    return found


def explained(text: str) -> dict[str, str]:
    """The entries of the section Args by name.

    Args:
        text: a docstring, cleaned of its indentation.
    """
    section = _ARGS.search(text)
    return {m["name"]: m[0].rstrip() for m in _ENTRY.finditer(section["body"])} if section else {}
