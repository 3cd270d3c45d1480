"""The report: what it reads, what it draws, and what a browser makes of it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings

import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.lightning.problems import Model, m, trainer
from tests.quiet import ignore_lightning
from tz_lightning import ClosureMonitor, ClosureOptimization, Report, UpdateNormMonitor
from tz_lightning.commands import main
from tz_lightning.report import Run, Series, read_runs, write_report
from tz_lightning.report.figures import sections

ADAM = lambda: [m.ClipValue(1), m.Adam(), m.LR(0.1)]  # noqa: E731
LBFGS = lambda: [m.LBFGS(), m.StrongWolfe()]  # noqa: E731


def train(logger, chain=ADAM, epochs=3):
    callbacks = [UpdateNormMonitor(1, True, True), ClosureMonitor(1), ClosureOptimization(), LearningRateMonitor()]
    run = trainer(*callbacks, logger=logger, log_every_n_steps=1, epochs=epochs)
    run.fit(Model(chain))
    for one in run.loggers:
        one.save()


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two runs with both kinds of logs each."""
    folder = tmp_path_factory.mktemp("logs")
    with warnings.catch_warnings():
        ignore_lightning()
        for kind, logger in (("csv", CSVLogger), ("board", TensorBoardLogger)):
            for name, chain in (("adam", ADAM), ("lbfgs", LBFGS)):
                train(logger(folder / kind, name=name), chain)
    return folder


def figures_of(page):
    """What the page gives to plotly, by section."""
    text = page.read_text(encoding="utf-8")
    found = json.loads(re.search(r'<script id="figures" type="application/json">(.*?)</script>', text, re.S)[1])
    titles = [
        (s, re.findall(r"<figcaption>([^<]*)", body))
        for s, body in re.findall(r"<h2>(.*?)</h2>(.*?)</section>", text, re.S)
    ]
    figures = iter(found)
    out = {section: {title: next(figures) for title in names} for section, names in titles}
    assert next(figures, None) is None
    return out


# -- what is read ------------------------------------------------------------------------------------------------------
def test_both_kinds_of_logs_say_the_same(logs):
    table, board = read_runs(logs / "csv"), read_runs(logs / "board")
    assert [run.name for run in table] == [run.name for run in board] == ["adam", "lbfgs"]
    for a, b in zip(table, board, strict=True):
        assert a.series.keys() == b.series.keys()
        assert {"loss", "lr-Modular", "update_norm", "layer/net.0/grad_norm"} <= a.series.keys()
        for name, series in a.series.items():
            if name != "step_time":
                assert series.steps == b.series[name].steps
                assert series.values == pytest.approx(b.series[name].values, rel=1e-6)
    assert table[1].series["evaluations"].steps == list(range(12)) and table[1].last_step == 11


def test_versions_are_in_order(tmp_path):
    for version in (10, 9, 0):
        (tmp_path / f"version_{version}").mkdir()
        (tmp_path / f"version_{version}" / "metrics.csv").write_text("loss,step\n1.0,0\n,1\nnan,2\n")
    runs = read_runs(tmp_path)
    assert [run.name for run in runs] == ["version_0", "version_9", "version_10"]
    assert runs[0].series["loss"].steps == [0, 2] and math.isnan(runs[0].series["loss"].values[1])
    assert read_runs(tmp_path / "version_9")[0].name == "version_9"


def test_a_resumed_run_counts_once(tmp_path):
    (tmp_path / "metrics.csv").write_text("loss,step\n1.0,0\n2.0,1\n3.0,1\n")
    assert read_runs(tmp_path)[0].series["loss"] == Series([0, 1], [1.0, 3.0])


def test_peaks_stay_where_points_are_left_out():
    values = [math.sin(i / 500) for i in range(100_000)]
    values[31_234], values[77_777] = 5.0, -5.0
    values[5] = math.nan
    thin = Series(list(range(100_000)), values).thinned(1000)
    assert len(thin.steps) <= 1002 and thin.steps == sorted(set(thin.steps))
    assert max(thin.finite) == 5.0 and min(thin.finite) == -5.0
    assert thin.steps[-1] == 99_999 and thin.steps[0] == 0
    assert all(values[i] == v for i, v in zip(thin.steps, thin.values, strict=True))


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (None, "there is no folder"),
        ({}, "there is no log in .*metrics.csv of a CSVLogger.*TensorBoardLogger"),
        ({"metrics.csv": ""}, "have no metrics yet"),
        ({"metrics.csv": "loss,step\n"}, "have no metrics yet"),
        ({"metrics.csv": "epoch,step\n1,0\n"}, "have no metrics yet"),
        ({"metrics.csv": "loss,step\nfoo,0\n"}, "is no log of a CSVLogger: row 1 has 'foo' as 'loss'"),
        ({"events.out.tfevents.1": ""}, "have no metrics yet"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, capsys, files, text):
    folder = tmp_path / "logs"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    assert main(["report", str(folder)]) == 2
    printed = capsys.readouterr()
    assert re.search(text, printed.err) and len(printed.err.splitlines()) == 1 and not printed.out
    assert not (folder / "report.html").exists()


def test_a_missing_package_is_said_in_a_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "metrics.csv").write_text("loss,step\n1.0,0\n")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["report", str(tmp_path)]) == 2
    assert (
        "a report needs plotly, which is not installed: pip install 'torchzero-core[report]'" in capsys.readouterr().err
    )


# -- what is drawn -----------------------------------------------------------------------------------------------------
def test_figures(logs, tmp_path, capsys):
    page = tmp_path / "deep" / "page.html"
    assert main(["report", str(logs / "csv"), "-o", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    found = figures_of(page)
    assert list(found) == ["Loss", "Learning rate", "Updates", "Modules of the chain", "Layers", "Closures"]
    runs = read_runs(logs / "csv")
    loss = found["Loss"]["loss"]
    assert [trace["name"] for trace in loss["data"]] == ["adam", "lbfgs"]
    assert loss["data"][0]["y"] == pytest.approx(runs[0].series["loss"].values)
    assert loss["data"][0]["line"]["color"] != loss["data"][1]["line"]["color"]
    passed = found["Modules of the chain"]["norm of what each module passes on"]["data"]
    assert [trace["name"] for trace in passed] == [
        "adam · 0 into ClipValue",
        "adam · 0 ClipValue",
        "adam · 1 Adam",
        "adam · 2 LR",
        "lbfgs · 0 into LBFGS",
        "lbfgs · 0 LBFGS",
        "lbfgs · 1 StrongWolfe",
    ]
    assert passed[3]["y"] == pytest.approx(runs[0].series["module/2.LR/out"].values)
    assert passed[0]["line"]["dash"] != passed[4]["line"]["dash"]
    assert len(found["Layers"]) == 4 and len(found["Closures"]) == 6
    assert (
        found["Closures"]["evaluations of the loss in a step"]["data"][0]["y"] == runs[1].series["evaluations"].values
    )
    text = page.read_text(encoding="utf-8")
    assert "<!--" not in text.split("<script>")[0]
    assert not re.search(r'(src|href)="(?!#|data:)', text.split("<script>")[0])  # nothing comes from elsewhere


def test_plotly_knows_every_attribute(logs):
    objects = pytest.importorskip("plotly.graph_objects")
    many = {f"layer/block.{i}.linear/update_ratio": Series([0, 1], [1e-3, 0.0]) for i in range(30)}
    cases = [read_runs(logs / "csv"), [Run("one", many)], read_runs(logs / "csv")[:1]]
    for runs in cases:
        for group in sections(runs).values():
            for figure in group:
                objects.Figure({"data": figure.data, "layout": figure.layout})  # raises on what it does not know


def test_many_layers_become_a_map():
    series = {f"layer/block.{i}/update_ratio": Series([0, 1], [10.0**-i, 0.0]) for i in range(12)}
    (figure,) = sections([Run("one", series)])["Layers"]
    (trace,) = figure.data
    assert trace["type"] == "heatmap" and trace["y"] == [f"block.{i}" for i in range(12)]
    assert [row[0] for row in trace["z"]] == pytest.approx([-float(i) for i in range(12)])
    assert trace["z"][0][1] is None


def test_training_and_validation_are_drawn_together():
    names = ("train_loss", "val_loss", "d_loss", "train_accuracy_epoch", "val_accuracy", "grad_scale")
    found = sections([Run("one", {name: Series([0, 1], [2.0, 1.0]) for name in names})])
    assert [figure.title for figure in found["Loss"]] == ["d_loss", "loss"]
    assert [trace["name"] for trace in found["Loss"][1].data] == ["train_loss", "val_loss"]
    assert [figure.title for figure in found["Metrics"]] == ["grad_scale", "accuracy"]


def test_names_cannot_break_the_page(tmp_path):
    bad = "</script><script>alert(1)</script><!--FIGURES-->"
    (tmp_path / "metrics.csv").write_text(f'"{bad}",step\n1.0,0\n')
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in text and text.count('<script id="figures"') == 1
    assert bad in str(json.loads(re.search(r"application/json\">(.*?)</script>", text, re.S)[1]))


def test_report_at_the_end_of_a_training(tmp_path, capsys):
    run = trainer(Report(["loss", "nothing"]), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    run.fit(Model(ADAM))
    printed = capsys.readouterr().out
    page = tmp_path / "lightning_logs" / "version_0" / "report.html"
    assert page.exists() and str(page) in printed
    assert f"loss     {float(run.callback_metrics['loss']):.4f}" in printed and "nothing  was not logged" in printed
    trainer(Report(), logger=False).fit(Model(ADAM))
    assert "no logger writes to a folder" in capsys.readouterr().out


# -- in a browser ------------------------------------------------------------------------------------------------------
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page, tmp_path, *options):
    """Open a page; the DOM afterwards, and what the console said."""
    command = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # there is no network
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        "--window-size=1400,3000",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_browser(logs, tmp_path, theme):
    page = write_report(logs / "board", tmp_path / "page.html")
    number = sum(map(len, figures_of(page).values()))
    dom, console = browse(f"{page.as_uri()}#{theme}", tmp_path, "--dump-dom")
    assert not console
    assert number == 16 == len(re.findall(r'<div class="plot js-plotly-plot" id="figure-\d+"', dom))
    assert dom.count('class="scatterlayer') >= number
    assert len(re.findall(r'<path class="js-line"', dom)) >= 40
    assert ('<html lang="en" class="dark">' in dom) is (theme == "dark")
    picture = tmp_path / "page.png"
    _, console = browse(f"{page.as_uri()}#{theme}", tmp_path, f"--screenshot={picture}")
    data = picture.read_bytes()
    assert not console and data.startswith(b"\x89PNG") and len(data) > 50_000


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_the_browser_would_tell(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<script>nowhere()</script>")
    _, console = browse(page.as_uri(), tmp_path, "--dump-dom")
    assert any("nowhere is not defined" in line for line in console)
