"""The code of the guide runs: the blocks of a page in order, in one namespace, as a reader would paste them."""

import pytest

from tests.test_readme import ROOT, blocks

PAGES = [
    *sorted((ROOT / "docs" / "guide").glob("*.md")),
    *sorted((ROOT / "docs" / "families").glob("*.md")),
    ROOT / "docs" / "index.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    found = [block for block in blocks(page.read_text()) if block.language == "python"]
    assert found
    for block in found:  # the padding makes a traceback point at the line of the page
        exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)
