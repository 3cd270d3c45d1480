"""The test functions of Moré, Garbow and Hillstrom, and how evaluations are counted on them."""

import math

import pytest
import torch

from benchmarks import closures
from benchmarks.mgh import F64, problems
from benchmarks.report import put_section

PROBLEMS = {p.name: p for p in problems()}
#: Half of the values: known minimisers, and what the paper says of the minimum to its digits.
MINIMISERS = {
    "Rosenbrock": [1, 1],
    "Freudenstein-Roth": [11.41277898, -0.89680525],
    "Brown badly scaled": [1e6, 2e-6],
    "Beale": [3, 0.5],
    "Jennrich-Sampson": [0.2578252, 0.2578252],
    "helical valley": [1, 0, 0],
    "Gulf": [50, 25, 1.5],
    "Box": [1, 10, 1],
    "Powell singular": [0, 0, 0, 0],
    "Wood": [1, 1, 1, 1],
    "Biggs EXP6": [1, 10, 1, 5, 4, 3],
    "variably dimensioned 10": [1] * 10,
    "Brown almost-linear 10": [1] * 10,
    "linear, full rank 10": [-1] * 10,
}
PAPER = {
    "Freudenstein-Roth": 48.9842,
    "Jennrich-Sampson": 124.362,
    "Bard": 8.21487e-3,
    "Gaussian": 1.12793e-8,
    "Kowalik-Osborne": 3.07505e-4,
    "Brown-Dennis": 85822.2,
    "Osborne 1": 5.46489e-5,
    "Osborne 2": 4.01377e-2,
    "Watson 6": 2.28767e-3,
    "Watson 9": 1.39976e-6,
    "penalty I 10": 7.08765e-5,
    "penalty II 4": 9.37629e-6,
    "trigonometric 10": 2.79506e-5,
    "linear, full rank 10": 10,
    "linear, rank 1 10": 10 * 19 / 41,
    "linear, rank 1 with zeros 10": (400 + 60 - 6) / (2 * 37),
    "Chebyquad 8": 3.51687e-3,
}


@pytest.mark.parametrize("name", MINIMISERS)
def test_the_minimum_lies_where_it_is_known(name):
    problem, x = PROBLEMS[name], torch.tensor(MINIMISERS[name], dtype=F64)
    assert float(problem.fun(x)) == pytest.approx(problem.minimum, rel=1e-9, abs=1e-10)


def test_there_are_enough_and_their_minima_are_those_of_the_paper():
    assert len(PROBLEMS) >= 25
    for name, minimum in PAPER.items():
        assert PROBLEMS[name].minimum == pytest.approx(minimum, rel=2e-5)
    for problem in PROBLEMS.values():
        assert float(problem.fun(problem.start)) > problem.minimum + closures.GOAL / 3
        x = problem.start.clone().requires_grad_()
        assert torch.autograd.grad(problem.fun(x), x)[0].isfinite().all()


#: From a few starts on which no method is lucky; the report has all.
SOME = ["Rosenbrock", "Beale", "helical valley", "Powell singular", "Box", "Broyden tridiagonal 10"]
SOME += ["discrete integral equation 10", "variably dimensioned 10", "Chebyquad 8", "penalty I 10"]


@pytest.mark.slow
@pytest.mark.parametrize("name", closures.METHODS)
def test_evaluations_next_to_scipy(name):
    pytest.importorskip("scipy")
    chain, scipy, _, _ = closures.METHODS[name]
    mine = [closures.counted(PROBLEMS[p], closures.ours(chain)) for p in SOME]
    theirs = [closures.counted(PROBLEMS[p], closures.scipys(scipy)) for p in SOME]
    mean, largest, _, failed = closures.ratio(mine, theirs)
    assert failed == 0 and mean <= 1.0 and largest <= 2.3


def test_step_by_step_without_a_word_next_to_torch():
    chain = closures.METHODS["LBFGS"][0]
    some = [PROBLEMS[name] for name in ("Rosenbrock", "Beale", "Broyden tridiagonal 10", "Chebyquad 8", "Bard")]
    mine = [closures.counted(p, closures.ours(chain, deterministic=None)) for p in some]
    theirs = [closures.counted(p, closures.torchs_stepped) for p in some]
    mean, _, _, failed = closures.ratio(mine, theirs)
    assert failed == 0 and mean <= 1.0


def test_a_ratio():
    a, b = (
        [closures.Count(PROBLEMS["Beale"], evaluations=n, reached=n > 0) for n in numbers]
        for numbers in ([1, 4, 0, 9], [4, 4, 5, 0])
    )
    assert closures.ratio(a, b) == (pytest.approx(0.5), 1.0, 0, 1)
    assert math.isnan(a[0].seconds) and str(a[2]) == "–"


def test_the_section_is_replaced_and_the_others_stay(tmp_path):
    file = tmp_path / "RESULTS.md"
    file.write_text("# Benchmarks\n\n## Reach\n\na\n")
    put_section("Closures", "one\n", file)
    put_section("Closures", "two\n", file)
    file.write_text(file.read_text() + "\n## Scaling\n\nb\n")
    put_section("Closures", "three\n", file)
    assert file.read_text() == "# Benchmarks\n\n## Reach\n\na\n\n## Closures\n\nthree\n\n## Scaling\n\nb\n"
