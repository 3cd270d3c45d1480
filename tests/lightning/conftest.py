"""What every test of the Lightning integration gets."""

import warnings

import pytest

from tests.quiet import ignore_lightning


@pytest.fixture(autouse=True)
def quiet_lightning():
    """Hear no warnings that are Lightning's own."""
    with warnings.catch_warnings():
        ignore_lightning()
        yield
