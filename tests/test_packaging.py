"""The package as others meet it: layers that import downwards only, and archives that install and import."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"scipy", "nlopt", "nevergrad"}  # a module may import these inside the function that needs them
ALWAYS = {"torch", "numpy", "typing_extensions"} | set(sys.stdlib_module_names)
LIGHTNING = {"lightning", "torchmetrics", "jsonargparse", "yaml", "matplotlib"}


def package_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(file: Path, source: str | None = None) -> Iterator[tuple[str, bool]]:
    """Yield (absolute name imported, whether that happens when the file is imported)."""
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            # "from . import x" may name a submodule, so the names count too
            yield from ((".".join([*base, alias.name]), at_import) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
            yield from walk(child, at_import and not later)

    yield from walk(ast.parse(source if source is not None else file.read_text()), True)


def allowed_prefixes(name: str) -> list[str] | None:
    """The packages of this project that the module ``name`` may import; None where anything goes."""
    parts = name.split(".")
    core, linalg = "torchzero_core.core", "torchzero_core.linalg"
    if parts[0] == "tz_lightning":
        return ["tz_lightning", "torchzero_core"]
    if len(parts) == 1 or name == "torchzero_core.modules":
        return ["torchzero_core"]
    lang, engine, ranks = "torchzero_core.lang", "torchzero_core.engine", "torchzero_core.distributed"
    if parts[1] == "modules":
        return [core, linalg, lang, ".".join(parts[:3])]
    if parts[1] == "core":
        return [core, engine, lang, ranks]
    if parts[1] == "engine":
        return [engine, lang, ranks]
    if parts[1] == "optim":
        return [core, linalg, "torchzero_core.modules", "torchzero_core.optim"]
    return [".".join(parts[:2])]


def complaints(file: Path, source: str | None = None) -> list[str]:
    """What the imports of one file break, as sentences."""
    name = module_name(file)
    found = []
    for target, at_import in imports(file, source):
        top = target.split(".")[0]
        if top in ("torchzero_core", "tz_lightning"):
            allowed = allowed_prefixes(name)
            if not any(target == prefix or target.startswith(prefix + ".") for prefix in allowed):
                found.append(f"{name} imports {target}, which is above it or beside it")
        elif top not in ALWAYS and not (top in LIGHTNING and name.startswith("tz_lightning")):
            if top in EXTRAS and not at_import:
                continue
            found.append(f"{name} imports {target}, which is no dependency of its layer")
    return found


@pytest.mark.parametrize("package", ["torchzero_core", "tz_lightning"])
def test_imports_go_down_only(package):
    files = package_files(package)
    assert files
    found = [line for file in files for line in complaints(file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "number"),
    [
        ("core/x.py", "import torch, math\nfrom .var import Var", 0),
        ("core/x.py", "from ..linalg import roots", 1),
        ("core/x.py", "from ..modules import Adam", 1),
        ("linalg/x.py", "import torchzero_core.core.var", 1),
        ("linalg/x.py", "import scipy.linalg", 1),
        ("linalg/x.py", "def f():\n    import scipy.linalg", 0),
        ("modules/momentum/x.py", "from ...core import Var\nfrom ...linalg import cg\nfrom .ema import EMA", 0),
        ("modules/momentum/x.py", "from ..clipping import ClipNorm", 1),
        ("modules/momentum/x.py", "def f():\n    from ..clipping import ClipNorm", 1),
        ("modules/momentum/x.py", "import torchzero_core as tz", 1),
        ("modules/momentum/x.py", "from ...optim import minimize", 1),
        ("modules/momentum/__init__.py", "from ...core import Var\nfrom . import ema", 0),
        ("modules/__init__.py", "from .momentum import *", 0),
        ("optim/x.py", "from ..modules import Adam", 0),
        ("optim/x.py", "import lightning", 1),
        ("optim/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import scipy", 0),
    ],
)
def test_the_check_sees_what_it_should(file, source, number):
    assert len(complaints(ROOT / "torchzero_core" / file, source)) == number


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_importing_the_library_loads_no_extra():
    """Lightning and the numerical extras stay unloaded until something needs them."""
    code = (
        "import sys, torch; before = set(sys.modules); import torchzero_core;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = set(run(sys.executable, "-c", code).split())
    assert "torchzero_core" in loaded
    assert not loaded & (EXTRAS | LIGHTNING | {"sklearn", "pytorch_lightning", "tz_lightning"})


def test_typed_markers_and_license():
    assert (ROOT / "torchzero_core" / "py.typed").exists()
    assert (ROOT / "tz_lightning" / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_archives_hold_the_packages_and_nothing_else(archives):
    wheel, sdist = archives
    files = {str(f.relative_to(ROOT)) for p in ("torchzero_core", "tz_lightning") for f in package_files(p)}
    files |= {"torchzero_core/py.typed", "tz_lightning/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == files
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert files | {"LICENSE", "README.md", "pyproject.toml"} <= in_sdist


@pytest.mark.slow
def test_archives_install_and_import_in_a_clean_environment(archives, tmp_path):
    """A fresh environment with torch and numpy only, and a step taken with what was installed."""
    wheel, sdist = archives
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    use = (
        "import torch, torchzero_core as tz, pathlib;"
        "p = torch.ones(3, requires_grad=True); p.grad = torch.ones(3);"
        "tz.Modular([p], tz.m.Adam(), tz.m.LR(0.5)).step();"
        "assert torch.allclose(p, torch.tensor(0.5)), p;"
        "print(pathlib.Path(tz.__file__).parent)"
    )
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    assert Path(run(python, "-c", use, cwd=tmp_path).strip()).is_relative_to(tmp_path / "venv")
    installed = run(python, "-m", "pip", "list", "--format=freeze")
    assert "lightning" not in installed and "scipy" not in installed
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", sdist)
    run(python, "-c", use, cwd=tmp_path)
