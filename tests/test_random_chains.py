"""The random chains are what they are said to be; `python -m tests.random_chains` trains them."""

import pytest

from tests import random_chains
from tests.random_chains import descends, written


def test_they_have_ten_modules_and_come_again():
    names = {name for name, _ in random_chains.pool()}
    assert len(names) > 80
    for seed in range(2):
        modules, back = random_chains.draw(seed)
        assert len(modules) == random_chains.LENGTH - 1 and (modules, back) == random_chains.draw(seed)
        assert {module["class_path"] for module in modules} | set(back) <= names
        assert descends(modules)


@pytest.mark.parametrize("name", ["Zeros", "Ones", "Abs", "Negate", "Sqrt", "Randn", "Params", "LastDifference"])
def test_what_turns_away_from_the_gradient_is_put_back(name):
    assert not descends([written(name, {})])
    assert not descends([written("Adam", {}), written(name, {})])


@pytest.mark.parametrize("name", ["Adam", "EMA", "Shampoo", "Muon", "Normalize", "Sign", "Lion", "NoiseSign"])
def test_what_follows_the_gradient_stays(name):
    assert descends([written(name, {})])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_they_learn_the_digits_or_say_why_not(seed, tmp_path):
    accuracy, _, why = random_chains.learn(seed, tmp_path)
    assert (accuracy >= random_chains.LEARNT) != bool(why)
    assert (tmp_path / f"chain_{seed}.yaml").exists()
