"""What there is to choose from, as text: the modules by family, and what one of them does."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import torchzero_core as tz
from torchzero_core.core import Module
from torchzero_core.core.declare import fields_of
from torchzero_core.core.docstrings import explained, sections
from torchzero_core.core.near import did_you_mean, same
from torchzero_core.core.validate import hints_of

from .plain_text import plain_text


def modules() -> dict[str, type[Module]]:
    """Every module by name, without those that are only bases of others."""
    found = {n: c for n, c in vars(tz.m).items() if isinstance(c, type) and issubclass(c, Module)}
    return {n: c for n, c in found.items() if not is_base(c)}


def is_base(cls: type) -> bool:
    """Whether a class is there to be derived from."""
    return (inspect.getdoc(cls) or "").startswith("Base class")


def family_of(cls: type) -> str:
    """The family of a module: the folder that it stands in."""
    return cls.__module__.removeprefix("torchzero_core.modules.").split(".")[0]


def families() -> dict[str, list[str]]:
    """The names of the modules by family, those of aliases left out.

    Example:
        >>> families()["step_size"]
        ['LR', 'PolyakStepSize', 'RandomStepSize', 'StepSize', 'Warmup']
    """
    found: dict[str, list[str]] = {}
    for name, cls in modules().items():
        if name == cls.__name__:
            found.setdefault(family_of(cls), []).append(name)
    return {family: sorted(found[family]) for family in sorted(found)}


def family_called(name: str) -> str:
    """The family of a name, whatever its capitals and underscores.

    Raises:
        ValueError: there is none of this name; the sentence names the nearest.
    """
    known = list(families())
    found = same(name, known)
    if found is None:
        module = same(name, modules())
        if module is not None:
            hint = f" It is a module of the family {family_of(modules()[module])!r}."
        else:
            hint = did_you_mean(name, known, 1) or f" There are {', '.join(known)}."
        raise ValueError(f"no family is called {name!r}.{hint}")
    return found


def module_called(name: str) -> type[Module]:
    """The module of a name, whatever its capitals and underscores.

    Raises:
        ValueError: there is none of this name; the sentence names the nearest.
    """
    known = modules()
    bare = name.removeprefix("tz.m.").removeprefix("torchzero_core.m.")
    found = same(bare, known)
    if found is None:
        raise ValueError(getattr_message(bare))
    return known[found]


def getattr_message(name: str) -> str:
    """What ``tz.m`` says of a name that it does not have."""
    try:
        getattr(tz.m, name)
    except AttributeError as error:
        return str(error)
    return f"{name} is no module of its own; it is there to be derived from."


def line_of(name: str) -> str:
    """What a module does, in one line of plain text."""
    return plain_text((inspect.getdoc(modules()[name]) or "").splitlines()[0])


def describe(name: str, width: int = 100) -> str:
    """A module as plain text: what it does, its settings with defaults and ranges, the paper, an example.

    Args:
        name: of the module, whatever its capitals.
        width: where lines are broken.

    Raises:
        ValueError: there is no such module; the sentence names the nearest.

    Example:
        >>> print(describe("lion"))  # doctest: +ELLIPSIS
        Lion (optimizers)
        ...
        Settings:
          beta1  0.9   [0, 1)  ...
          beta2  0.99  [0, 1)  ...
        <BLANKLINE>
        Needs a closure: no
        ...
    """
    cls = module_called(name)
    parts = sections(inspect.getdoc(cls) or "")
    alias = [n for n, c in modules().items() if c is cls and n != cls.__name__]
    title = f"{cls.__name__} ({family_of(cls)})" + (f", also called {', '.join(alias)}" if alias else "")
    blocks = [title, _wrapped(plain_text(parts.pop("")), width)]
    if table := _table(cls, width):
        blocks.append(f"Settings:\n{table}")
    parts.pop("Args", None)
    blocks.append(f"Needs a closure: {_closure(cls)}")
    for heading in ("Raises", "Reference", "References"):
        if heading in parts:
            text = " ".join(plain_text(parts[heading]).split())
            blocks.append(textwrap.fill(f"{heading}: {text}", width, subsequent_indent="  "))
    if "Example" in parts:
        blocks.append(f"Example:\n{textwrap.indent(textwrap.dedent(parts['Example']).strip(chr(10)), '  ')}")
    return "\n\n".join(blocks)


def _wrapped(text: str, width: int) -> str:
    """Paragraphs broken into lines; what is indented stays as it is."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else textwrap.fill(p, width) for p in paragraphs)


def _closure(cls: type[Module]) -> str:
    needs = inspect.getattr_static(cls, "requires_closure")
    return ("yes" if needs else "no") if isinstance(needs, bool) else "where what is inside it does"


def _table(cls: type[Module], width: int) -> str:
    """The settings: name, default, what it may be, what it is."""
    rows = list(_rows(cls))
    if not rows:
        return ""
    widths = [min(max(len(row[i]) for row in rows), 28) for i in range(3)]
    lines = []
    for *cells, text in rows:
        head = "  " + "  ".join(f"{cell:<{size}}" for cell, size in zip(cells, widths, strict=True)) + "  "
        rest = " " * (6 if len(head) > width // 2 else len(head))
        lines.append(textwrap.fill(text, width, initial_indent=head, subsequent_indent=rest) if text else head.rstrip())
    return "\n".join(lines)


def _rows(cls: type[Module]) -> Iterator[tuple[str, str, str, str]]:
    texts = {name: " ".join(plain_text(text).split()) for name, text in explained(inspect.getdoc(cls) or "").items()}
    fields, hints = fields_of(cls), hints_of(cls)
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            default = "(required)"
        allowed = ""
        if name in fields and fields[name].range is not None:
            allowed = str(fields[name].range)
        elif name in cls.ranges:
            low, high, brackets = cls.ranges[name]
            allowed = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
        elif name in hints or parameter.annotation is not parameter.empty:
            allowed = _kind(hints.get(name, parameter.annotation))
        text = texts.get(name, "").partition(":")[2].strip()
        yield name, default, allowed, text


def _kind(hint: Any) -> str:
    """What a type allows, in words."""
    if isinstance(hint, str):
        return ""
    if hasattr(hint, "set_child"):
        return "module"
    if hint is type(None):
        return "None"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    members = [m for m in typing.get_args(hint) if typing.get_origin(m) or isinstance(m, type)]
    if isinstance(hint, type) and not members:
        return {bool: "True or False", int: "whole number", float: "number", str: "text"}.get(hint, "")
    kinds = {typing.get_origin(m) or m for m in members}
    words = [_kind(m) for m in members if not _is_list_of_modules(m)]
    return " or ".join(dict.fromkeys(w for w in words if w)) if typing.get_origin(hint) not in kinds else ""


def _is_list_of_modules(hint: Any) -> bool:
    return any(hasattr(member, "set_child") for member in typing.get_args(hint))


__all__ = [
    "describe",
    "families",
    "family_called",
    "family_of",
    "getattr_message",
    "is_base",
    "line_of",
    "module_called",
    "modules",
]
