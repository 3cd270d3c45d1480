"""Every message that the troubleshooting page quotes stands in the source as it is quoted."""

import ast
import functools
import re

import pytest

from tests.test_readme import ROOT

PAGE = ROOT / "docs" / "guide" / "troubleshooting.md"


def quoted():
    """The first cells of the tables; a code span may hold backticks of its own."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [re.match(r"\| `(.*?)` \| ", row)[1] for row in rows]


@functools.cache
def messages():
    """Every string of the packages, with … where a formatted string has a value."""
    found = set()
    for package in ("torchzero_core", "tz_lightning"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                    found.add("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def fits(quote, message):
    """Whether the words of a quotation stand in a message in their order, with anything where it has dots."""
    words = [re.escape(part.strip()) for part in quote.split("…") if part.strip(" .")]
    return re.search(".*".join(words), message, re.S) is not None


@pytest.mark.parametrize("quote", quoted())
def test_the_source_has_the_message(quote):
    assert any(fits(quote, message) for message in messages()), f"no message reads {quote!r}"


def test_a_message_that_is_nowhere_is_found_out():
    assert len(quoted()) > 35
    assert not any(fits("Modular got no … parameters at all", message) for message in messages())
