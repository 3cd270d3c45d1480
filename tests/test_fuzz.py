"""Random cases of :mod:`tests.fuzz`: few among the fast tests, thousands among the slow ones."""

from collections import Counter

import pytest

from tests.fuzz.check import outcome
from tests.fuzz.draw import Case


def failures(seeds):
    """What does not hold, in words, and how often each outcome was."""
    counts, wrong = Counter(), []
    for seed in seeds:
        kind, text, _ = outcome(seed)
        counts[kind] += 1
        if kind not in ("held", "refused"):
            wrong.append(f"python -m tests.fuzz --seed {seed} --count 1 --show: {kind}: {text}\n    {Case(seed)}")
    return wrong, counts


def test_some_random_cases():
    wrong, counts = failures(range(40))
    assert not wrong, "\n".join(wrong)
    assert counts["held"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 10_000, 500))
def test_ten_thousand_random_cases(start):
    wrong, counts = failures(range(start, start + 500))
    assert not wrong, "\n".join(wrong)
    assert counts["held"] > 250
