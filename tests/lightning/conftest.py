"""What every test of the Lightning integration gets."""

import sys
import warnings

import pytest

from tests.quiet import ignore_lightning


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """A command line that a test gives its own arguments does not find those of pytest beside them."""
    monkeypatch.setattr(sys, "argv", sys.argv[:1])


@pytest.fixture(autouse=True)
def quiet_lightning():
    """Hear no warnings that are Lightning's own."""
    with warnings.catch_warnings():
        ignore_lightning()
        yield
