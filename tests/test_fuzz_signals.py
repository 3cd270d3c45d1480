"""Real Ctrl-Cs at random moments of :mod:`tests.fuzz.signals`: few among the fast tests, a thousand among the slow."""

import os

import pytest

from tests.fuzz.signals import disturb

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals of POSIX")


def test_a_few_interrupts():
    outcomes, wrong = disturb(6, seed=1)
    assert not wrong and outcomes.total() == 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_interrupts(seed):
    outcomes, wrong = disturb(50, seed=seed)
    assert not wrong and outcomes["stopped"] > 10
