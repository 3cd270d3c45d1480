"""python -m tz_lightning compare: the same budget for all, every run kept, what fails a row."""

import importlib.util
import io
import json
import math
import os
import re
import signal
import sys

import pytest
import torch
import yaml

from tz_lightning.commands import main
from tz_lightning.comparison import Outcome, Plan, compare, summarise
from tz_lightning.comparison import run as running
from tz_lightning.comparison.outcome import write
from tz_lightning.comparison.progress import Progress
from tz_lightning.comparison.tables import plain

SMALL = """
problem: {name: rosenbrock, init_args: {n: 2}}
budget: {steps: 4}
seeds: [0, 1]
lr: [1e-3, 1e-2]
optimizers:
  SGD: torch.optim.SGD
  chain: [{class_path: LR, init_args: {lr: 1}}]
  search: {modules: [BFGS, StrongWolfe], lr: null}
"""


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def data(**changes):
    return {**yaml.safe_load(SMALL), **changes}


def outcomes(folder, **changes):
    return list(compare(Plan.of(data(**changes)), folder))


@pytest.fixture(autouse=True)
def ctrl_c():
    """A process that was started in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def command(*args):
    return main(["compare", "small.yaml", "--no-html", *args])


def test_every_optimizer_has_the_same_problem_and_budget(tmp_path):
    runs = outcomes(tmp_path)
    assert [(r.rival, r.lr, r.seed) for r in runs] == [
        *[(name, lr, seed) for name in ("SGD", "chain") for lr in (1e-3, 1e-2) for seed in (0, 1)],
        ("search", None, 0),
        ("search", None, 1),
    ]
    assert all(r.status == "ok" and r.steps == 4 and len(r.curve) == 4 for r in runs)
    by_key = {(r.rival, r.lr, r.seed): r for r in runs}
    for lr in (1e-3, 1e-2):  # the same numbers, so the same start, the same steps, the same learning rate
        sgd, chain = by_key["SGD", lr, 0], by_key["chain", lr, 0]
        assert [row[3] for row in sgd.curve] == pytest.approx([row[3] for row in chain.curve], rel=1e-12)
        assert sgd.evaluations == chain.evaluations == 4
    assert by_key["SGD", 1e-3, 0].curve[0][3] != by_key["SGD", 1e-3, 1].curve[0][3]
    assert by_key["search", None, 0].evaluations > 4
    assert by_key["search", None, 0].value < by_key["SGD", 1e-3, 0].value


@pytest.mark.parametrize(("budget", "end"), [({"evaluations": 9}, 9), ({"steps": 100, "evaluations": 5}, 5)])
def test_a_budget_of_evaluations(tmp_path, budget, end):
    (run,) = outcomes(tmp_path, budget=budget, seeds=0, optimizers={"a": ["BFGS", "StrongWolfe"]}, lr=None)
    assert end <= run.evaluations < end + 25 and run.steps < end
    assert run.curve[-2][1] < end  # it ended at the first step that used it up


def test_a_budget_of_seconds(tmp_path):
    (run,) = outcomes(tmp_path, budget={"seconds": 0.05}, seeds=0, optimizers={"a": "torch.optim.SGD"}, lr=1e-4)
    assert run.seconds >= 0.05 and all(row[2] < 0.05 for row in run.curve[:-1])


def test_an_interrupted_comparison_goes_on_where_it_was(file, monkeypatch, capsys):
    real, made = running.run, []

    def interrupted(plan, rival, outcome, progress):
        made.append(rival.name)
        if len(made) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        real(plan, rival, outcome, progress)

    monkeypatch.setattr(running, "run", interrupted)
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 130
    assert "interrupted: 3 runs are kept in runs/small; the same command goes on there" in capsys.readouterr().err
    kept = {path.name for path in (file.parent / "runs" / "small" / "runs").iterdir()}
    assert len(kept) == 3 and all(name.endswith(".json") for name in kept)
    assert command() == 0
    assert len(made) == 4 + 7
    assert "3/10  SGD, lr 0.01, seed 0" in capsys.readouterr().err
    assert command() == 0
    assert len(made) == 4 + 7  # nothing is run twice


def test_ctrl_c_in_the_middle_of_a_training(tmp_path, monkeypatch):
    class Impatient(Progress):
        def step(self, share, loss):
            if share >= 0.5:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(compare(Plan.of(data()), tmp_path, progress=Impatient(on=False)))
    assert signal.getsignal(signal.SIGINT) is before
    assert not list(tmp_path.rglob("*.json"))


def test_a_run_that_fails_is_a_row_that_says_so(file, monkeypatch, capsys):
    changed = data(lr=None)
    changed["optimizers"] = {
        "good": [{"class_path": "LR", "init_args": {"lr": 1e-3}}],
        "bad": [{"class_path": "Split", "init_args": {"filter": "hidden_matrices", "names": {"no": True}}}],
        "fast": {"class_path": "torch.optim.SGD", "lr": 1e3},
    }
    changed["budget"] = {"steps": 20}
    file.write_text(yaml.safe_dump(changed))
    assert command() == 0
    out = capsys.readouterr()
    rows = {line.split()[0]: line for line in out.out.splitlines()[2:]}
    assert list(rows) == ["good", "bad", "fast"]
    assert "2 of 2 failed: ValueError: Split: no parameter of the optimizer has a name like 'no'" in rows["bad"]
    assert "2 of 2 diverged" in rows["fast"] and "–" in rows["fast"]
    made = []
    real = running.run
    monkeypatch.setattr(running, "run", lambda *args: (made.append(args[1].name), real(*args)))
    assert command("--retry") == 0
    assert made == ["bad", "bad"]


def test_a_model_with_data_and_a_monitored_value(tmp_path):
    runs = outcomes(
        tmp_path,
        problem={"name": "spirals", "init_args": {"width": 4, "batch_size": 256}},
        budget={"steps": 6},
        check_every=2,
        monitor="val_loss",
        optimizers={"a": {"class_path": "torch.optim.SGD"}},
        lr=[0.1],
        seeds=[3],
        lr_scheduler={"class_path": "torch.optim.lr_scheduler.LinearLR", "init_args": {"start_factor": 0.5}},
    )
    assert [row[0] for row in runs[0].checks] == [2, 4, 6]
    assert runs[0].value == runs[0].checks[-1][3] and runs[0].value < 1
    (by_class,) = outcomes(
        tmp_path,
        problem={"model": {"class_path": "tz_lightning.comparison.problems.Logistic", "init_args": {"n": 3}}},
        optimizers={"a": "torch.optim.SGD"},
        lr=0.5,
        seeds=0,
    )
    assert by_class.value < math.log(2)
    (missing,) = outcomes(
        tmp_path, problem="logistic", monitor="val_loss", optimizers={"a": ["BFGS"]}, lr=None, seeds=0
    )
    assert missing.status == "failed"


@needs("optuna")
@pytest.mark.filterwarnings("ignore")
def test_optuna_chooses_the_same_learning_rates_again(tmp_path, monkeypatch):
    changes = {"lr": {"low": 1e-5, "high": 1e-2, "trials": 4}, "optimizers": {"a": "torch.optim.SGD"}}
    first = outcomes(tmp_path, **changes)
    assert len({run.lr for run in first}) == 4 and all(1e-5 <= run.lr <= 1e-2 for run in first)
    monkeypatch.setattr(running, "run", None)
    assert outcomes(tmp_path, **changes) == first


WRONG = {
    "optimizers is missing; a comparison has a problem": {"problem": "spirals", "budget": {"steps": 1}},
    "'budgets' means nothing in a comparison; it has .* Did you mean budget": data(budgets=1),
    "problem: none is called 'rosenbrok'; .* Did you mean rosenbrock": data(problem="rosenbrok"),
    "'m' means nothing in problem: rosenbrock; it has n": data(problem={"name": "rosenbrock", "init_args": {"m": 1}}),
    "budget: at least one of steps, evaluations and seconds": data(budget={}),
    "budget: steps: 1.5 must be a whole number from 1 on": data(budget={"steps": 1.5}),
    "lr: -1 must be a positive number": data(lr=[-1]),
    "lr: low=1 must be less than high=0.1": data(lr={"low": 1, "high": 0.1, "trials": 3}),
    "seeds: 'a' must be a whole number": data(seeds=["a"]),
    "mode: min or max, not 'most'": data(mode="most"),
    "optimizers: mine: .*no module is called 'Adamm'. Did you mean 'Adam'": data(optimizers={"mine": ["Adamm"]}),
    "optimizers: mine: .*momentum": data(
        optimizers={"mine": [{"class_path": "EMA", "init_args": {"momentum": "much"}}]}
    ),
    "optimizers: mine: .*NoSuch": data(optimizers={"mine": {"class_path": "torch.optim.NoSuch"}}),
    "optimizers: mine: soap has no setting 'lrr'. Did you mean lr?": data(
        optimizers={"mine": {"class_path": "soap", "init_args": {"lrr": 1}}}
    ),
    "optimizers: mine: no optimizer is called 'sopa'. Did you mean 'spsa' or 'soap'?": data(
        optimizers={"mine": "sopa"}
    ),
    r"optimizers: mine: modules: LR needs lr \(under init_args in YAML\)$": data(optimizers={"mine": ["Adam", "LR"]}),
    "optimizers: mine: 'init_arg' stands beside class_path. Did you mean 'init_args'?": data(
        optimizers={"mine": {"class_path": "soap", "init_arg": {}}}
    ),
    "lr_scheduler: CosineAnnealingLR has no setting 'tmax'. Did you mean T_max?": data(
        lr_scheduler={"class_path": "CosineAnnealingLR", "init_args": {"tmax": 3}}
    ),
    "problem: model: .*NoSuch": data(problem={"model": {"class_path": "examples.digits.NoSuch"}}),
    "optimizers: names with an optimizer": data(optimizers=["Adam"]),
    "a comparison is a table": ["Adam"],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_with_the_file_is_a_short_sentence(file, capsys, sentence):
    file.write_text(yaml.safe_dump(WRONG[sentence]))
    assert command() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"compare: error: {sentence}", line), line
    assert len(line) < 260


def test_a_file_that_is_not_there_or_no_yaml(file, capsys):
    file.write_text("problem: [")
    assert command() == 2
    assert "small.yaml is no YAML in line" in capsys.readouterr().err
    file.unlink()
    assert command() == 2
    assert "small.yaml cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "there" / "a.json"
    write(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(path, "new")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"] and path.read_text() == "old"
    assert Outcome.load(path) is None


def test_the_summary_and_its_table():
    runs = [
        Outcome("A", lr, s, value=abs(lr - 0.2) + s, steps=5, evaluations=6) for lr in (0.1, 0.2, 0.3) for s in (0, 1)
    ]
    runs += [Outcome("B", 1.0, 0, value=0.1), Outcome("B", 1.0, 1, "failed", message="no")]
    best, worst = summarise(runs)
    assert (best.rival, best.lr, best.value, best.edge) == ("A", 0.2, 0.5, False)
    assert best.spread == pytest.approx(math.sqrt(0.5))
    assert worst.value is None and worst.note == "1 of 2 failed: no"
    assert summarise(runs, maximise=True)[0].lr in (0.1, 0.3) and summarise(runs, maximise=True)[0].edge
    assert plain([best, worst], None).splitlines()[2].split() == ["A", "0.2", "0.5", "0.7071", "5", "6", "0.0"]


@needs("plotly")
@pytest.mark.filterwarnings("ignore")
def test_the_report_needs_nothing_else(file):
    assert main(["compare", "small.yaml"]) == 0
    text = (file.parent / "runs" / "small" / "report.html").read_text()
    page = re.sub(r"(?s)<script.*?</script>", "", text)
    assert len(re.findall('class="chart"', text)) == 4  # by steps, evaluations and seconds, and by learning rate
    assert not re.findall(r"(?:src|href)=", page)
    assert not re.findall(r"<script[^>]*src=", text)
    for words in (
        "rosenbrock: 3 optimizers",
        'data-name="SGD"',
        "2 seeds each, at most 4 steps a run",
        "torch.optim.SGD",
    ):
        assert words in text
    (first, *_) = re.findall(r'"name":"SGD","x":(\[[^\]]*\])', text)
    assert json.loads(first) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.skipif(importlib.util.find_spec("plotly") is not None, reason="plotly is installed")
def test_without_plotly_all_but_the_report_is_there(file, capsys):
    assert main(["compare", "small.yaml"]) == 0
    out = capsys.readouterr().out
    assert "no report: The report of a comparison needs plotly, which is not installed: pip install" in out
    assert "search" in out and not (file.parent / "runs" / "small" / "report.html").exists()


def test_threads_and_randomness_are_left_alone(tmp_path):
    threads = torch.get_num_threads()
    outcomes(tmp_path, optimizers={"a": "torch.optim.SGD"}, lr=1e-3, seeds=0)
    assert torch.get_num_threads() == threads


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_without_rich(tmp_path, monkeypatch, stream):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    progress = Progress(stream=stream())
    (run,) = compare(
        Plan.of(data(optimizers={"a [b]": "torch.optim.SGD"}, lr=1e-3, seeds=0)), tmp_path, progress=progress
    )
    progress.close()
    text = progress._stream.getvalue()
    assert f"1/1  a [b], lr 0.001, seed 0: {run.value:.4g} after 4 steps" in text
    assert ("\r\x1b[Krun 1 of 1: a [b], lr 0.001, seed 0: 25 %, loss" in text) == (stream is Terminal)


@needs("rich")
def test_progress_with_rich(tmp_path):
    progress = Progress(stream=Terminal())
    list(compare(Plan.of(data(optimizers={"a [b]": "torch.optim.SGD"}, lr=1e-3, seeds=0)), tmp_path, progress=progress))
    progress.close()
    assert "1/1  a [b], lr 0.001, seed 0" in progress._stream.getvalue()
