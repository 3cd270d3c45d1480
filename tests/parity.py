"""How far tests find two implementations apart: what the table in docs/guide/parity.md is made of.

A test says what it compares with ``@compared("SOAP", "the authors' algorithm")``. What its assertions of closeness find
while ``Recorder`` is a plugin of the run is its figure; a test that measures itself says so with :func:`found`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
#: (module, the other implementation, "eager" or "compiled") and the largest difference.
Figures = dict[tuple[str, str, str], float]
_active: list[tuple[Figures, str]] = []


def compared(module: str, reference: str) -> Any:
    """Mark a test as one whose figure stands in the table.

    Args:
        module: what is compared.
        reference: what it is compared with.
    """
    return pytest.mark.parity(module, reference)


def found(difference: float, module: str, reference: str) -> float:
    """Note how far two are apart, relative to what is expected where that is larger than 1.

    Args:
        difference: the largest.
        module: what is compared.
        reference: what it is compared with.
    """
    for figures, way in _active:
        key = module, reference, way
        figures[key] = max(figures.get(key, 0.0), float(difference))
    return difference


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to what is expected where that is larger than 1."""
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, dtype=np.float64) for x in (ours, theirs))
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0.0))


class Recorder:
    """A plugin that notes the figures of a run."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        """Listen to the assertions of a test."""
        mark, closes = item.get_closest_marker("parity"), (torch.testing.assert_close, np.testing.assert_allclose)
        compiled = getattr(item, "callspec", None) is not None and item.callspec.params.get("compile")
        compiled = bool(compiled) or "compiled" in item.name
        _active.append((self.figures, "compiled" if compiled else "eager"))

        def listening(assertion: Any) -> Any:
            def wrapper(ours: Any, theirs: Any, *args: Any, **kwargs: Any) -> None:
                found(apart(ours, theirs), *mark.args)
                assertion(ours, theirs, *args, **kwargs)

            return wrapper

        if mark is not None and mark.args:
            torch.testing.assert_close, np.testing.assert_allclose = map(listening, closes)
        yield
        _active.pop()
        torch.testing.assert_close, np.testing.assert_allclose = closes


def marked() -> set[tuple[str, str]]:
    """The rows of tests with a mark, read from their source."""
    rows = set()
    for file in HERE.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "compared":
                rows.add(tuple(arg.value for arg in node.args))
    return rows
