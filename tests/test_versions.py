"""The versions that pyproject.toml promises."""

import ast
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
SOURCES = [*(ROOT / "torchzero_core").rglob("*.py"), *(ROOT / "tz_lightning").rglob("*.py")]


def lowest_python():
    found = re.search(r'requires-python = ">=(\d+)\.(\d+)"', PROJECT)
    assert found is not None
    return int(found[1]), int(found[2])


def test_ruff_checks_for_the_lowest_python():
    major, minor = lowest_python()
    assert f'target-version = "py{major}{minor}"' in PROJECT


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_lowest_python_can_read_it(path):
    ast.parse(path.read_text(), feature_version=lowest_python())


def test_the_release_of_torch_that_is_tested_is_promised():
    found = re.search(r'"torch>=(\d+)\.(\d+)"', PROJECT)
    assert found is not None
    assert (int(found[1]), int(found[2])) <= tuple(map(int, torch.__version__.split(".")[:2]))
