"""What there is to choose from, as text: the modules by family, and what one of them does."""

from __future__ import annotations

import inspect
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

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
    return (inspect.getdoc(cls) or "").startswith("Base ")


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
        elif (recipe := same(name, tz.recipes.RECIPES)) is not None:
            hint = f" It is a recipe: python -m tz_lightning recipe {recipe}"
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


def listing(family: str | None = None) -> str:
    """The modules by family, a line each.

    Args:
        family: one family alone, whatever its capitals.

    Raises:
        ValueError: there is no such family.

    Example:
        >>> print(listing("weight_decay"))
        weight_decay
          DirectWeightDecay  Shrinks the parameters at once, before the update is applied: p ← p − ...
          WeightDecay        Adds the gradient of a norm penalty to the update: u ← ...
    """
    chosen = families() if family is None else {family_called(family): families()[family_called(family)]}
    width = max(len(module) for members in chosen.values() for module in members)
    blocks = [
        "\n".join([title, *(f"  {module:<{width}}  {line_of(module)}" for module in members)])
        for title, members in chosen.items()
    ]
    return "\n\n".join(blocks)


def first_line(thing: Any) -> str:
    """The first sentence of a docstring, in plain text."""
    text = inspect.getdoc(thing) or ""
    return " ".join(plain_text(text.split("\n\n")[0]).split())


def recipe_lines() -> list[str]:
    """The recipes, a line each."""
    width = max(map(len, tz.recipes.RECIPES))
    return [f"{name:<{width}}  {first_line(recipe)}" for name, recipe in tz.recipes.RECIPES.items()]


def recipes_said() -> str:
    """The recipes, and how one of them is had as YAML."""
    return "\n".join([*recipe_lines(), "", "One of them as YAML, to be changed: python -m tz_lightning recipe adamw"])


def recipe_table() -> str:
    """The recipes as a table of the guide: name, what it is, its modules."""
    rows = ["| recipe | what it is | modules |", "| --- | --- | --- |"]
    for name, recipe in tz.recipes.RECIPES.items():
        modules = ", ".join(type(module).__name__ for module in recipe())
        rows.append(f"| `{name}` | {first_line(recipe)} | {modules} |")
    return "\n".join(rows)


def as_config(module: Module) -> dict[str, Any]:
    """A module as a configuration writes it: its class, and what differs from the defaults of its constructor.

    Args:
        module: the module.

    Example:
        >>> import torchzero_core as tz
        >>> as_config(tz.m.RMSprop(0.9, inner=tz.m.EMA()))
        {'class_path': 'RMSprop', 'init_args': {'smoothing': 0.9, 'inner': {'class_path': 'EMA'}}}
    """
    args: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        if name in module.children:
            args[name] = _child_config(module.children[name])
        elif name == "modules" and parameter.default == () and module.children:
            args[name] = [_child_config(child) for child in module.children.values()]
        elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            value = module.defaults.get(name, getattr(module, name, parameter.default) if name != "lr" else None)
            if value != parameter.default and value != {}:
                args[name] = value
    return {"class_path": type(module).__name__, **({"init_args": args} if args else {})}


def _child_config(child: Module) -> Any:
    return [as_config(m) for m in child.children.values()] if child.is_chain else as_config(child)


def chain_as_yaml(chain: Sequence[Module]) -> str:
    """A chain as the part of a configuration file that makes it.

    Args:
        chain: its modules.
    """
    modules = [as_config(module) for module in chain]
    config = {"optimizer": {"class_path": "ModularChain", "init_args": {"modules": modules}}}
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip()


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
    if name in tz.recipes.RECIPES and same(name, modules()) is None:
        recipe = tz.recipes.RECIPES[name]
        settings = "\n".join(
            f"  {plain_text(text).strip()}" for text in explained(inspect.getdoc(recipe) or "").values()
        )
        made = "\n".join(f"  {module!r}" for module in recipe())
        return f"{name} (recipe)\n\n{first_line(recipe)}\n\nSettings:\n{settings}\n\nThe chain:\n{made}"
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


def explanations(cls: Any) -> dict[str, str]:
    """What the docstring of a class says of each of its parameters, in plain text."""
    found = explained(inspect.getdoc(cls) or "")
    return {name: " ".join(plain_text(text).split()).partition(":")[2].strip() for name, text in found.items()}


def _rows(cls: type[Module]) -> Iterator[tuple[str, str, str, str]]:
    texts = explanations(cls)
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
        yield name, default, allowed, texts.get(name, "")


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
    "as_config",
    "chain_as_yaml",
    "describe",
    "explanations",
    "families",
    "family_called",
    "family_of",
    "first_line",
    "getattr_message",
    "is_base",
    "line_of",
    "listing",
    "module_called",
    "modules",
    "recipe_lines",
    "recipe_table",
]
