"""The floors of the house: who may import whom, and who may look into whom.

The source is read, not run, so what stands inside a function or under `TYPE_CHECKING` counts too. Places that break a
rule today are listed in `KNOWN_...`; a list may only shrink: a line in it that is no longer needed fails its test.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.imports import FLOORS, PACKAGES, Import, between, circles, floor, imports, level, module_name, modules, read
from docs.picture import picture

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"scipy", "nlopt", "nevergrad", "biteopt"}  # a module may import these inside the function that needs them
LIGHTNING = {"lightning", "torchmetrics", "jsonargparse", "yaml", "matplotlib"}
ALWAYS = {"torch", "numpy", "typing_extensions"} | set(sys.stdlib_module_names)
#: The only place that may look into Lightning, whose insides it is there to hide.
COMPAT = "tz_lightning.compat"

T = "torchzero_core."
#: What each floor may import of the others.
BELOW = {
    T + "linalg": set(),
    T + "lang": set(),
    T + "distributed": set(),
    T + "engine": {T + "lang", T + "distributed"},
    T + "core": {T + "engine", T + "lang", T + "distributed"},
    T + "modules": {T + "core", T + "lang", T + "linalg"},
    T + "optim": {T + "modules", T + "core", T + "linalg"},
    T + "recipes": {T + "modules", T + "core"},
    "torchzero_core": {T + "optim", T + "recipes", T + "modules", T + "core"},
    "tz_lightning": {"torchzero_core", *(T + name for name in ("core", "modules", "optim", "distributed"))},
}
#: Families of modules: folders that may not import each other.
FAMILIES = T + "modules"

MODULES = modules(ROOT)


@functools.cache
def all_imports() -> list[Import]:
    """All imports of the packages, read when a test asks: every process of the tests collects this file."""
    return read(ROOT)


def report(found: Iterable[str], known: Iterable[str] = ()) -> None:
    """Fail for what is found and not known, and for what is known and no longer found."""
    found, known = set(found), set(known)
    new, mended = sorted(found - known), sorted(known - found)
    text = ["this breaks a rule of the house:", *new] if new else []
    text += ["this is mended, so take it off the list of known places:", *mended] if mended else []
    assert not text, "\n  ".join(["", *text])


# -- imports -----------------------------------------------------------------------------------------------------------
def family(module: str) -> str:
    """The family a module belongs to; "" for what is in none."""
    parts = module.removeprefix(FAMILIES).split(".")
    return parts[1] if module.startswith(FAMILIES + ".") else ""


def complaint(one: Import) -> str | None:
    """What is wrong with an import, as a sentence."""
    where = f"{one.source}:{one.line}"
    top = one.target.split(".")[0]
    if top not in PACKAGES:
        if top in EXTRAS and one.where == "function":
            return None
        if top in ALWAYS or (top in LIGHTNING and one.source.startswith("tz_lightning")):
            return None if one.where == "top" else f"{where} hides an import of {one.target} ({one.where})"
        return f"{where} imports {one.target}, which is no dependency of its floor"
    here, there = floor(one.source), floor(one.target)
    if here != there and there not in BELOW[here]:
        beside = "above" if level(one.target) > level(one.source) else "not among what may be imported by"
        return f"{where} imports {one.target}, which is {beside} {here}"
    ours, theirs = family(one.source), family(one.target)
    if ours and here == there and theirs != ours:
        return f"{where} imports {one.target}, which is another family than {ours}"
    return None if one.where == "top" else f"{where} hides an import of {one.target} ({one.where})"


def test_imports_go_down_only_and_none_is_hidden():
    assert len(MODULES) > 80 and len(all_imports()) > 400
    report(line for one in all_imports() if (line := complaint(one)))


def test_no_circle():
    report(" <-> ".join(circle) for circle in circles(between(all_imports(), MODULES)))


def test_every_folder_has_a_floor():
    folders = {".".join(name.split(".")[:2]) for name in MODULES if name.startswith(T)}
    places = {place for places in FLOORS for place in places}
    report(f"{folder} is on no floor of docs/imports.py" for folder in folders - places)
    assert BELOW.keys() == places
    for place, below in BELOW.items():
        assert all(level(other) < level(place) for other in below)


@pytest.mark.parametrize(
    ("file", "source", "number"),
    [
        ("core/x.py", "import torch, math\nfrom .var import Var", 0),
        ("core/x.py", "from ..linalg import roots", 1),
        ("core/x.py", "from ..modules import Adam", 1),
        ("core/x.py", "def f():\n    from .var import Var", 1),
        ("core/x.py", "def f():\n    import math", 1),
        ("core/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .var import Var", 1),
        ("engine/x.py", "from ..core import Modular", 1),
        ("engine/backends/x.py", "from ..plan import Plan\nfrom ...lang import Value", 0),
        ("lang/x.py", "from .. import distributed", 1),
        ("linalg/x.py", "import torchzero_core.core.var", 1),
        ("linalg/x.py", "import scipy.linalg", 1),
        ("linalg/x.py", "def f():\n    import scipy.linalg", 0),
        ("modules/momentum/x.py", "from ...core import Var\nfrom ...linalg import cg\nfrom .ema import EMA", 0),
        ("modules/momentum/x.py", "from ..clipping import ClipNorm", 1),
        ("modules/momentum/x.py", "from .. import clipping", 1),
        ("modules/momentum/x.py", "def f():\n    from ..clipping import ClipNorm", 1),
        ("modules/momentum/x.py", "import torchzero_core as tz", 1),
        ("modules/momentum/x.py", "from ...engine import Segment", 1),
        ("modules/momentum/x.py", "from ...optim import minimize", 1),
        ("modules/momentum/__init__.py", "from ...core import Var\nfrom . import ema", 0),
        ("modules/__init__.py", "from .momentum import *", 0),
        ("optim/x.py", "from ..modules import Adam", 0),
        ("optim/x.py", "import lightning", 1),
        ("optim/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scipy", 1),
    ],
)
def test_the_check_sees_what_it_should(file, source, number):
    path = ROOT / "torchzero_core" / file
    name = module_name(path, ROOT)
    known = MODULES | {name: path, T + "optim": path, T + "linalg.roots": path}
    found = imports(name, source, package=path.name == "__init__.py", known=known)
    assert sum(complaint(one) is not None for one in found) == number


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f2"}, "f2": {"f"}}
    assert circles(graph) == [["a", "b", "c"], ["f", "f2"]]


# -- the picture of them -----------------------------------------------------------------------------------------------
SVG = "{http://www.w3.org/2000/svg}"


def drawn(tree):
    """The texts of the picture of a tree, and how often each kind of shape is in it."""
    root = ElementTree.fromstring(picture(tree))
    shapes = Counter(kind for node in root.iter() for kind in node.get("class", "").split())
    return [node.text for node in root.iter(f"{SVG}text")], shapes


def test_the_picture_shows_every_folder_and_nothing_wrong():
    texts, shapes = drawn(ROOT)
    assert {place.split(".")[-1] for place in map(floor, MODULES)} <= set(texts)
    assert {"clipping", "modular", "segment", "graph"} <= set(texts)
    assert not {"circle", "round", "up", "wrong"} & set(shapes)
    pairs = {(floor(a), floor(b)) for a, others in between(all_imports(), MODULES).items() for b in others}
    assert shapes["arrow"] == len({(a, b) for a, b in pairs if a != b})


def test_the_picture_shows_what_is_wrong(tmp_path):
    for name, text in {
        "core/a.py": "from . import b",
        "core/b.py": "def f():\n    from .a import g",
        "engine/c.py": "from ..core.a import x",
        "engine/d.py": "from .c import y",
    }.items():
        file = tmp_path / "torchzero_core" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    texts, shapes = drawn(tmp_path)
    assert "3 files, 2 of them in a circle, 1 hidden imports" in texts
    wrong = {kind: shapes[kind] for kind in ("circle", "round", "up", "wrong")}
    assert wrong == {"circle": 2, "round": 2, "up": 1, "wrong": 1}


# -- what is private ---------------------------------------------------------------------------------------------------
#: Where a class looks into another one today.
KNOWN_REACHES: set[str] = set()

#: Methods that a named tuple offers in public under such names.
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
#: What torch and torchmetrics have no public name for.
FOREIGN = {
    "_ConvNd",  # the class of all convolutions
    "_defaults",  # of a metric: the names of its states
    "_is_profiler_enabled",
    "_optimizer_load_state_dict_post_hooks",  # which an optimizer that loads by itself has to call
    "_optimizer_load_state_dict_pre_hooks",
}
TORCH = ("torch._foreach_", "torch._C", "torch._fused")


def is_private(name: object) -> bool:
    if not isinstance(name, str) or name in NAMED_TUPLE or name in FOREIGN:
        return False
    return name.startswith("_") and not name.startswith("__")


def own_members(cls: ast.ClassDef) -> set[str]:
    """The private names that a class itself defines: methods, class attributes, slots, assignments to self."""
    names: set[str] = set()
    for node in cls.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for part in ast.walk(target):
                    if isinstance(part, ast.Attribute) and is_self(part.value):
                        names.add(part.attr)
                    elif isinstance(part, ast.Name):
                        names.add(part.id)
            if "__slots__" in ast.unparse(node).split("=")[0] and node.value is not None:
                names |= {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
    return {name for name in names if is_private(name)}


def is_self(node: ast.AST) -> bool:
    """``self``, ``cls`` or ``super()``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls", "mcs")


def reaches(name: str, source: str) -> Iterator[tuple[str, int]]:
    """Accesses to private members of something else than oneself: what is accessed, and the line."""
    tree = ast.parse(source)
    defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}

    def walk(node: ast.AST, own: frozenset[str]) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.ClassDef):
            own = own | own_members(node)
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            text = ast.unparse(node)
            named = isinstance(node.value, ast.Name) and node.value.id in defined
            if not (is_self(node.value) or named or node.attr in own or text.startswith(TORCH)):
                yield text, node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            attr = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            by_name = node.func.id in ("getattr", "setattr", "hasattr", "delattr")
            if by_name and is_private(attr) and not is_self(node.args[0]) and attr not in own:
                yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in PACKAGES):
            yield from ((f"import {a.name}", node.lineno) for a in node.names if is_private(a.name))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, own)

    if name != COMPAT:
        yield from walk(tree, frozenset())


def test_nobody_looks_into_another_class():
    found = {f"{name}: {text}" for name, file in MODULES.items() for text, _ in reaches(name, file.read_text())}
    report(found, KNOWN_REACHES)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class A:\n    def f(self): return self._x, super()._y, self.__z", []),
        ("class A:\n    __slots__ = ('_x',)\n    def f(self, other): return other._x", []),
        ("class A:\n    def __init__(self): self._x = 1\n    def f(self, other): return other._x", []),
        ("class A:\n    def _x(self): ...\nclass B:\n    def f(self, a): return a._x", ["a._x"]),
        ("class A:\n    def f(self, a): a._x = 1", ["a._x"]),
        ("def f(a): return a.b._c.d", ["a.b._c"]),
        ("def f(a): return a._replace(x=1), a.__dict__, torch._foreach_add(a, a)", []),
        ("def f(a): return torch._dynamo.reset()", ["torch._dynamo"]),
        ("def f(a): return getattr(a, '_x', None)", ["getattr(a, '_x', None)"]),
        ("class A:\n    def f(self): return getattr(self, '_x')", []),
        ("class A:\n    _x = 1\ndef f(): return A._x", []),
        ("from .a import _b", ["import _b"]),
        ("from torch.overrides import _b", []),
    ],
)
def test_the_check_of_what_is_private(source, found):
    assert [text for text, _ in reaches("x", source)] == found


# -- length ------------------------------------------------------------------------------------------------------------
LONGEST = 60
#: Functions that may be longer; each has its reason.
KNOWN_LONG = {
    T + "linalg.cg.cg": "one loop whose lines all need the same ten names",
}


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """The functions of a file and their lines, without those of the docstring."""

    def walk(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            path = (*path, node.name)
            if not isinstance(node, ast.ClassDef):
                first = node.body[0]
                text = ast.get_docstring(node, clean=False)
                doc = 0 if text is None else (first.end_lineno or 0) - first.lineno + 1
                yield ".".join(path), (node.end_lineno or 0) - node.lineno + 1 - doc
        for child in ast.iter_child_nodes(node):
            yield from walk(child, path)

    yield from walk(ast.parse(source), ())


def test_no_function_is_longer_than_a_screen():
    files = MODULES | {module_name(f, ROOT): f for d in ("benchmarks", "docs") for f in sorted((ROOT / d).glob("*.py"))}
    found = {
        f"{name}.{function}" for name, file in files.items() for function, n in lengths(file.read_text()) if n > LONGEST
    }
    report(found, KNOWN_LONG)


def test_lengths_are_counted_without_the_docstring():
    body = "\n".join(["    x = 1"] * 5)
    assert list(lengths(f'def f():\n    """A.\n\n    B.\n    """\n{body}\n')) == [("f", 6)]
    nested = (
        "class A:\n    async def f(\n        self,\n    ):\n        def g():\n            return 1\n        return g\n"
    )
    assert list(lengths(nested)) == [("A.f", 6), ("A.f.g", 2)]
