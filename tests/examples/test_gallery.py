"""The gallery: its page is what the examples say, and, in the slow tests, the examples do what the page claims."""

import ast
import importlib
import io
import json
import tokenize

import pytest
import torch

from examples import page
from examples.page import GALLERY, NAMES, PAGE
from examples.showing import Shown, best, smooth

#: What the figures must at least come to: ours against the best baseline's, times this.
CLAIMS = {
    "digits_rivals": 1.3,
    "physics_informed": 0.1,
    "characters": 0.99,
    "logistic_regression": 1.1,
    "minimize_scipy": 1.1,
    "not_differentiable": 0.5,
    "gan": 1.3,
    "schedules": 1.02,
    "resumed": 0.0,
    "own_rule": 0.5,
}


def lines_of_code(source):
    """Without docstrings, comments, blank lines and imports."""
    tree, apart, lines = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        doc = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None
        skipped = [node.body[0]] if doc else [node] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        for n in skipped:
            apart |= set(range(n.lineno, n.end_lineno + 1))
    empty = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - apart)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_has_its_picture_and_figures(name):
    assert 5 <= lines_of_code((page.HERE / f"{name}.py").read_text()) <= 60
    picture = (GALLERY / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) <= 60_000
    figures = json.loads((GALLERY / f"{name}.json").read_text())
    ours, theirs = (min(float(v) for v in figures[side].values()) for side in ("ours", "baselines"))
    assert ours <= CLAIMS[name] * theirs
    assert len(page.text_of(name)) > 100


def test_the_page_is_what_the_examples_say(tmp_path):
    page.page(tmp_path / "gallery.md")
    assert (tmp_path / "gallery.md").read_text() == PAGE.read_text(), "run `python -m examples NAME`"
    assert CLAIMS.keys() == set(NAMES)


def test_a_picture_and_a_text(tmp_path):
    shown = Shown("loss", {"A": 1.0}, {"torch B": 2.0}, {"A": ([1, 2], [2.0, 1.0]), "torch B": ([1, 2], [3.0, 2.0])})
    assert shown.picture(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert shown.text().splitlines() == ["loss", "  A        1.00e+00", "  torch B  2.00e+00"]
    assert best({1: float("nan"), 2: 3.0}) == 2
    assert smooth([0.0, 1.0, 1.0], 0.5) == [0.0, 0.5, 0.75]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_does_what_it_claims(name, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        main = importlib.import_module(f"examples.{name}").main
        shown = main(tmp_path) if name == "digits_rivals" else main()
    finally:
        torch.set_num_threads(threads)
    assert min(shown.ours.values()) <= CLAIMS[name] * min(shown.baselines.values()), shown.text()
    assert shown.picture(tmp_path / "picture.png").exists()
