"""The package as others meet it: what it loads, and archives that install and import."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.test_floors import EXTRAS, LIGHTNING

ROOT = Path(__file__).resolve().parents[1]


def package_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


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
