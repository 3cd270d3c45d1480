"""Who imports whom: read from the source, not from what a run happens to load.

Imports inside functions and under ``TYPE_CHECKING`` count like any other; :attr:`Import.where` tells them apart.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("torchzero_core", "tz_lightning")
#: The floors from the ground up: those of one tuple know nothing of each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("torchzero_core.linalg", "torchzero_core.lang", "torchzero_core.distributed"),
    ("torchzero_core.engine",),
    ("torchzero_core.core",),
    ("torchzero_core.modules",),
    ("torchzero_core.optim", "torchzero_core.recipes"),
    ("torchzero_core",),
    ("tz_lightning",),
)


class Import(NamedTuple):
    """One imported name.

    Attributes:
        source: the module that imports.
        target: the module it comes from, or the dotted name where that is none of ours.
        line: where it stands.
        where: "top", "function" or "type checking".
    """

    source: str
    target: str
    line: int
    where: str


def module_name(file: Path, root: Path) -> str:
    """The dotted name of a file below ``root``."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, Path]:
    """The file of every module of the packages below ``root``."""
    return {module_name(f, root): f for package in PACKAGES for f in sorted((root / package).rglob("*.py"))}


def floor(module: str) -> str:
    """The floor's package that a module belongs to."""
    places = [place for places in FLOORS for place in places]
    return max((p for p in places if module == p or module.startswith(p + ".")), key=len)


def level(module: str) -> int:
    """How high a module stands."""
    place = floor(module)
    return next(i for i, places in enumerate(FLOORS) if place in places)


def imports(name: str, source: str, *, package: bool, known: Mapping[str, Path]) -> Iterator[Import]:
    """The imports of one module.

    Args:
        name: its dotted name.
        source: its text.
        package: whether it is an ``__init__``.
        known: all modules of ours, so that the name of a submodule is told from that of a class.
    """
    home = name.split(".") if package else name.split(".")[:-1]

    def ours(target: str) -> str:
        """The module that a dotted name lies in."""
        if target.split(".")[0] not in PACKAGES:
            return target
        parts = target.split(".")
        while parts and ".".join(parts) not in known:
            parts.pop()
        return ".".join(parts) or target

    def walk(node: ast.AST, where: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(name, ours(alias.name), node.lineno, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) + 1 - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:  # "from . import x" may name a submodule
                yield Import(name, ours(".".join([*base, alias.name])), node.lineno, where)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            where = "function"
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            where = "type checking"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, where)

    yield from walk(ast.parse(source), "top")


def read(root: Path) -> list[Import]:
    """All imports of the packages below ``root``."""
    known = modules(root)
    return [
        found
        for name, file in known.items()
        for found in imports(name, file.read_text(), package=file.name == "__init__.py", known=known)
    ]


def between(found: list[Import], known: Mapping[str, Path]) -> dict[str, set[str]]:
    """For each module, those of ours that it imports."""
    graph: dict[str, set[str]] = {name: set() for name in known}
    for one in found:
        if one.target in known and one.target != one.source:
            graph[one.source].add(one.target)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of modules that import each other, directly or by way of others (Tarjan 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    out = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            at = stack.index(node)
            circle = stack[at:]
            del stack[at:]
            if len(circle) > 1:
                out.append(sorted(circle))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return out
