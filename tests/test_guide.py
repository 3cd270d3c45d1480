"""The code of the guide runs: the blocks of a page in order, in one namespace, as a reader would paste them."""

import os
import re
import warnings
from pathlib import Path

import pytest

from tests.quiet import ignore_lightning
from tests.test_readme import ROOT, blocks

ALL = [
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *sorted((ROOT / "docs" / "families").glob("*.md")),
    ROOT / "docs" / "index.md",
]
PAGES = [page for page in ALL if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    found = [block for block in blocks(page.read_text()) if block.language == "python"]
    with warnings.catch_warnings():
        ignore_lightning()
        for block in found:  # the padding makes a traceback point at the line of the page
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


def test_the_first_page_shows_one_chain_twice():
    import yaml

    import torchzero_core as tz

    found = blocks((ROOT / "docs" / "index.md").read_text())
    namespace = {"__name__": "__main__"}
    for block in found:
        if block.language == "python":
            exec(block.text, namespace)
    (text,) = (block.text for block in found if block.language == "yaml")
    spelled = yaml.safe_load(text)["optimizer"]["init_args"]["modules"]
    modules = [getattr(tz.m, one["class_path"])(**one.get("init_args", {})) for one in spelled]
    assert list(map(repr, modules)) == list(map(repr, namespace["optimizer"].modules)) and len(modules) == 5


def test_most_pages_have_code():
    assert len(PAGES) > 25 and ROOT / "docs" / "index.md" in PAGES


def test_links_lead_somewhere():
    """Relative links name files that are there, or that a build writes."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ALL]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            home = ROOT / "docs" / "api" if page.parent.name == "families" else page.parent
            there = Path(os.path.normpath(home / target)).exists() or "api/" in target  # api is made by a build
            assert there, f"{page.name} links to {target}"
