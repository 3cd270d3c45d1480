"""The comparison of two trees: both are loaded, run the same chains, and what is printed is what was measured."""

import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

import torchzero_core
from benchmarks import against
from benchmarks.subjects import SETS, parameters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Another checkout, the same as this one but for a name in its front door."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(
        next(iter(torchzero_core.__path__)), folder / "torchzero_core", ignore=shutil.ignore_patterns("*.pyc")
    )
    init = folder / "torchzero_core" / "__init__.py"
    init.write_text(init.read_text() + "\nTREE = 'the other'\n")
    return folder


@pytest.fixture
def other(tree):
    yield against.load(tree)
    for name in [name for name in sys.modules if name.startswith(against.OTHER)]:
        del sys.modules[name]


def test_the_other_tree_is_another_package(other):
    assert other.TREE == "the other" and not hasattr(torchzero_core, "TREE")
    assert other.Modular is not torchzero_core.Modular
    assert other.m.Adam.__module__.startswith(against.OTHER + ".")
    assert issubclass(other.m.Adam, other.Module) and not issubclass(other.m.Adam, torchzero_core.Module)


def test_what_is_no_other_tree_is_refused(tmp_path, tree):
    with pytest.raises(FileNotFoundError, match="is no checkout"):
        against.load(tmp_path)
    with pytest.raises(ValueError, match="this very tree"):
        against.load(Path(against.__file__).parents[1])


@pytest.mark.parametrize("contest", against.CONTESTS, ids=lambda c: c.name)
def test_both_trees_take_the_same_steps(contest, other):
    ends = []
    for package in (torchzero_core, other):
        torch.manual_seed(0)
        params = parameters([(3, 4), (5,)], CPU)
        stepper = contest.subject(package, "eager").build(params)
        for _ in range(3):
            stepper.step()
        ends.append(getattr(stepper, "params", params))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    start = parameters([(3, 4), (5,)], CPU)
    assert not any(torch.equal(a, b) for a, b in zip(ends[0], start, strict=True))


def test_the_table_says_what_was_measured(other, monkeypatch):
    monkeypatch.setitem(SETS, "tiny", lambda: [(4, 3), (3,)])
    monkeypatch.setattr("benchmarks.measure.SAMPLE_SECONDS", 1e-4)
    contests = [c for c in against.CONTESTS if c.name in ("Lion + LR", "LBFGS + StrongWolfe")]
    lines = []
    scores = against.compare([torchzero_core, other], contests, {"tiny": 0.0}, builds=(2, 2), log=lines.append)
    assert [(s.contest.name, s.form, s.builds) for s in scores] == [
        ("Lion + LR", "eager", 2),
        ("Lion + LR", "compiled", 2),
        ("LBFGS + StrongWolfe", "eager", 2),
    ]
    assert all(len(x) == 2 * against.SAMPLES for s in scores for x in s.seconds)
    # what is freed in between calls functions too
    assert all(s.calls[1] > 20 and abs(s.calls[0] / s.calls[1] - 1) < 0.1 for s in scores)
    assert lines[0].startswith("tiny: 2 builds of 3 chains")
    scores[0].seconds = ([3e-3, 3e-3], [2e-3, 2e-3])
    scores[0].temporary, scores[0].workspace, scores[0].calls = [30, 0], [60, 15], [1200, 7]
    text = against.text(scores, "old")
    row = "| tiny | Lion + LR | eager | 3 ms | 2 ms | 1.50 (1.50–1.50) | 1,200 / 7 | 2.00 / 0.00 | 4.00 / 1.00 |"
    assert row in text and "This tree against old" in text and "tiny 2" in text


def test_a_slower_tree_is_seen(other, monkeypatch):
    """A tree that does every step three times is about three times as slow."""
    step = other.Modular.step

    def thrice(self, *args):
        for _ in range(3):
            step(self, *args)

    monkeypatch.setattr(other.Modular, "step", thrice)
    (contest,) = (c for c in against.CONTESTS if c.name == "Lion + LR")
    score = against.Score("tiny", contest, "eager")
    for _ in range(2):
        against.meet(score, [torchzero_core, other], parameters(SETS["tiny"](), CPU), random.Random(0))
    assert score.calls[1] > 2 * score.calls[0]
    assert sorted(b / a for a, b in zip(*score.seconds, strict=True))[against.SAMPLES] > 1.5


def test_the_command_line(capsys):
    quick = against.arguments(["somewhere", "--quick"])
    assert quick.seconds_of == against.QUICK and quick.contests == against.CONTESTS
    some = against.arguments(["somewhere", "--sets", "small", "--chains", "Adam +,Muon", "--seconds", "3"])
    assert some.seconds_of == {"small": 3.0}
    assert [c.name for c in some.contests] == [
        "Adam + LR",
        "Adam + WeightDecay + LR",
        "ClipNorm + Adam + LR",
        "Muon and Adam",
    ]
    for given, said in (
        (["--sets", "huge"], "there is no set 'huge'"),
        (["--chains", "x"], "no chain's name contains"),
    ):
        with pytest.raises(SystemExit):
            against.arguments(["somewhere", *given])
        assert said in capsys.readouterr().err
