"""The benchmarks measure what they say: shapes, bytes, ratios, fits, and a report from a short run."""

from __future__ import annotations

import re

import pytest
import torch

import benchmarks.__main__ as program
from benchmarks import reach
from benchmarks.measure import Result, Runner, Timing, find, groups, merge, run_set
from benchmarks.memory import allocations, free, state_bytes, total
from benchmarks.profiling import explain
from benchmarks.report import Report, scaling_table
from benchmarks.scaling import FOREACH, overhead, study
from benchmarks.starts import Start, starts
from benchmarks.stats import Line, Spread, paired, spread
from benchmarks.subjects import CHAINS, PLANS, REFERENCE, SETS, Subject, chain, ours, parameters, subjects
from benchmarks.units import count, human, markdown

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tensors", "millions"), [("tiny", 6, 0.009), ("small", 161, 9), ("transformer", 148, 64)]
)
def test_sets_have_the_size_they_claim(name, tensors, millions):
    shapes = SETS[name]()
    assert len(shapes) == tensors
    assert sum(torch.Size(s).numel() for s in shapes) / 1e6 == pytest.approx(millions, rel=0.03)


# statistics


def test_spread_is_median_and_outer_tenths():
    assert spread([float(n) for n in range(100, -1, -1)]) == Spread(10.0, 50.0, 90.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    assert str(spread([1.0, 2.0, 3.0])) == "2.00 (1.20–2.80)"


def test_ratios_are_formed_within_rounds():
    """The machine was ten times slower in the second round, which a ratio of medians would take for a difference."""
    assert paired([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == pytest.approx((2.0, 2.0, 2.8))
    a, b = (Timing(Subject(name, torch.optim.Adam, 28, "b"), 1, 1) for name in "ab")
    a.main, b.main = [2.0, 30.0, 4.0], [1.0, 10.0, 2.0]
    assert a.to_peer is None
    a.beside = [a, b]
    assert a.to_peer.middle == a.ratio("b").middle == 2.0
    assert a.ratio(REFERENCE) is None
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("slope", "intercept"), [(2e-6, 5e-6), (8e-10, 2e-5)])
def test_a_line_is_found_exactly(slope, intercept):
    sizes = [10**k for k in range(1, 9)]
    line = Line("x", sizes, [n * slope + intercept for n in sizes])
    line.fit()
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept))


def test_numbers_are_written_short():
    assert [human(x) for x in (1.234, 0.25, 9.99e-5, 3e-9, 0.0)] == ["1.23 s", "250 ms", "99.9 µs", "3 ns", "0 s"]
    assert [count(n) for n in (6, 8_818, 64_085_504)] == ["6", "8.8 k", "64.1 M"]
    assert markdown([("a", "b"), ("c", "1")]) == "| a | b |\n| --- | ---: |\n| c | 1 |"


def test_a_verdict_shows_why_it_failed():
    assert reach.verdict(0.5, 1.0) == "0.50 ≤ 1 ✓"
    assert reach.verdict(1.0, 1.0) == "1.00 ≤ 1 ✓"
    assert reach.verdict(1.002, 1.0) == "**1.0020 > 1 ✗**"


def test_overhead_is_compared_with_foreach():
    lines = [Line(FOREACH, [10, 100], [4.0, 8.0]), Line("tz a", [10, 100], [1.0, 4.0]), Line("torch b", [10], [1.0])]
    assert overhead(lines) == {"tz a": [0.25, 0.5]}
    assert overhead(lines[1:]) == {}


# measuring


def test_allocations_sees_what_comes_and_stays():
    kept = []

    def run() -> None:
        a = torch.ones(1000)
        kept.append(torch.ones(500))
        del a
        torch.ones(250)

    assert allocations(run, CPU) == (6000, 2000)
    assert 0 <= free(CPU) <= total(CPU)


def test_state_counts_each_storage_once():
    params = [torch.zeros(10, requires_grad=True), torch.zeros(3, requires_grad=True)]
    for p in params:
        p.grad = torch.ones_like(p)
    adam = torch.optim.Adam(params)
    adam.step()
    assert state_bytes(adam) == 2 * 4 * 13 + 4 * len(params)
    adam.state[params[0]]["again"] = [adam.state[params[0]]["exp_avg"][2:]]
    assert state_bytes(adam) == 2 * 4 * 13 + 4 * len(params)


def test_a_peer_that_changes_gradients_gets_its_own():
    params = parameters([(5,), (3, 2)], CPU)
    before = [p.grad for p in params]
    values = [g.clone() for g in before]

    def build(given):
        return torch.optim.SGD(given, 0.1, 0.9, nesterov=True, foreach=True)

    runner = Runner(Subject("nag", build, 20, gradients="changed"), params)
    runner.start()
    runner.record()
    assert all(p.grad is g for p, g in zip(params, before, strict=True))
    assert all(torch.equal(g, v) for g, v in zip(before, values, strict=True))


def test_calls_are_counted():
    class Optimizer:
        state = {}

        def __init__(self, calls: int) -> None:
            self.calls = calls

        def step(self) -> None:
            for _ in range(self.calls):
                len(())

    found = []
    for calls in (0, 10):
        runner = Runner(Subject("x", lambda p, calls=calls: Optimizer(calls), 28), parameters([(1,)], CPU))
        runner.start()
        runner.count_calls()
        found.append(runner.timing.calls)
    assert found[1] - found[0] == 10


def test_what_breaks_or_does_not_compile_is_noted():
    params = parameters([(4,)], CPU)
    half = [p.detach().bfloat16().requires_grad_() for p in params]
    half[0].grad = torch.ones_like(half[0])
    name = ours("five modules", True)
    chosen = [Subject("broken", lambda p: 1 / 0, 28), Subject(name, chain("five modules", True), 44)]
    result = run_set(chosen, half, 0.0, (1, 1))
    assert result.notes[0] == "broken was left out: ZeroDivisionError: division by zero"
    assert result.notes[1].startswith(f"{name}: compile=True has no effect")
    assert [timing.subject.name for timing in result.timings] == [name]


def test_parts_hold_the_peer_and_the_reference_of_each():
    chosen = subjects()
    parts = groups(chosen, 4)
    installed = {s.name for s in chosen}
    assert {s.name for part in parts for s in part} == installed
    for part in parts:
        names = [s.name for s in part]
        assert len(names) == len(set(names)) <= 6
        assert names[0] == REFERENCE
        assert all(s.peer in names for s in part if s.peer in installed)
    assert [[s.name for s in part] for part in groups(chosen[:1])] == [[REFERENCE]]
    timings = {s.name: [Timing(s, 1, i) for i in range(2)] for s in chosen}
    results = [Result([timings[s.name][i > 0] for s in part], ["note"]) for i, part in enumerate(parts)]
    merged = merge(results, chosen)
    assert [t.subject.name for t in merged.timings] == [s.name for s in chosen]
    assert merged.timings[0] is timings[REFERENCE][0]
    assert merged.notes == ["note"]


def test_every_chain_has_both_forms():
    names = {subject.name for subject in subjects()}
    assert set(PLANS) == set(CHAINS)
    assert names >= {REFERENCE} | {ours(chain, compiled) for chain in CHAINS for compiled in (False, True)}


# the product


def test_bytes_are_those_known():
    """Fused Adam keeps 8 a parameter and needs no temporaries, foreach needs 4; so does Adam + LR, by the kernel."""
    params = parameters([(64, 32), (64,)], CPU)
    names = (REFERENCE, "torch Adam foreach", "tz Adam + LR")
    result = run_set(program.choose(subjects(), names), params, 0.0, (2, 2))
    assert [len(timing.main) for timing in result.timings] == [2, 2, 2]
    for name, temporary in zip(names, (0, 4, 0), strict=True):
        timing = find(result.timings, name)
        assert timing.state / timing.numel == pytest.approx(8, abs=0.1)
        assert timing.temporary / timing.numel == pytest.approx(temporary, abs=0.2)


def test_the_report_shows_each_target_with_what_was_reached(tmp_path):
    """Everything that the report shows comes from the numbers that it was given."""

    def timing(name: str, seconds: float, temporary: int) -> Timing:
        subject = next(s for s in subjects() if s.name == name)
        values = [seconds, seconds, seconds]
        return Timing(subject, 6, 1000, 0.5, 1, values, values, values, temporary * 1000, 8000, 0, 42)

    timings = [
        timing(REFERENCE, 1e-4, 0),
        timing("torch NAG foreach", 2e-4, 0),
        timing("tz Adam + LR", 1.3e-4, 0),
        timing("tz five modules", 2e-4, 12),
        timing("tz NAG + LR compiled", 1e-4, 0),
    ]
    for t in timings:
        t.beside = timings
    lines = [
        Line(FOREACH, [10, 100], [1e-4, 1e-3], [7, 7]),
        Line("tz Adam + LR", [10, 100], [5e-5, 2e-3], [120, 120]),
        Line("tz five modules", [10, 100], [5e-5, 5e-4], [120, 4_000]),
    ]
    found = [Start("tiny", 0.1, 2.0, 4.0), Start("small", 0.1, None, 1.0)]
    results = {"tiny": Result(timings, ["broken was left out: no reason"])}
    report = Report(
        CPU, "python -m benchmarks", 2e10, results, found, {"tensors": lines, "parameters": lines}, ["A note."]
    )
    output = report.write(tmp_path)
    text = output.read_text(encoding="utf-8")
    for row in (
        "| Adam + LR | eager | torch Adam fused | **1.30 > 1.2 ✗** |",
        "| five modules | eager | torch Adam fused | 2.00 ≤ 3 ✓ |",
        "| NAG + LR | compiled | torch NAG foreach | 0.50 ≤ 0.6 ✓ |",
        "| five modules | eager | temporary | **12.00 > 4 ✗** |",
        "| tiny | 0.10 | 2.00 ≤ 10 ✓ | **4.00 > 3 ✗** |",
        "| small | 0.10 | failed | 1.00 ≤ 3 ✓ |",
        "| tz Adam + LR | 0.50 ≤ 1 ✓ | **2.00 > 1 ✗** | 120 ✓ |",
        "| tz five modules | 0.50 ≤ 1 ✓ | 0.50 ≤ 1 ✓ | **120 to 4,000 ✗** |",
        "- A note.",
        "Note: broken was left out: no reason",
        "### tiny: 6 tensors, 1,000 parameters, 3 rounds",
        scaling_table(lines, "tensors"),
    ):
        assert row in text
    assert "| tz Adam + LR | 130 µs | 130 µs | 130 | 1.30 (1.30–1.30) |" in text
    pytest.importorskip("matplotlib")
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / picture).stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {"RESULTS.md", "ratios.png", "scaling.png"}


def test_the_command_prints_a_part_and_writes_no_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "copy_bandwidth", lambda device: 2e10)
    threads = torch.get_num_threads()
    try:
        given = ["sets", "--sets", "tiny", "--subjects", "torch Adam fused,tz Adam + LR", "--rounds", "2"]
        program.main(given)
        printed = capsys.readouterr().out
        assert (
            '`python -m benchmarks sets --sets tiny --subjects "torch Adam fused,tz Adam + LR" --rounds 2`' in printed
        )
        assert "8,818 parameters, 2 rounds" in printed and "compiled |" not in printed
        program.main([*given, "--output", str(tmp_path)])
        assert (tmp_path / "RESULTS.md").exists() and str(tmp_path) not in (tmp_path / "RESULTS.md").read_text()
    finally:
        torch.set_num_threads(threads)


def test_the_command_refuses_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        program.main(["--sets", "tiny,huge"])
    assert "there is no set 'huge'; there are tiny, small, transformer" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no subject's name contains nothing; there are: torch Adam fused"):
        program.main(["sets", "--sets", "tiny", "--subjects", "nothing"])


def test_only_the_whole_run_is_the_official_one():
    assert program.arguments([]).full
    for given in (["sets"], ["--sets", "tiny"], ["--subjects", "Adam"], ["--top", "1e6"]):
        assert not program.arguments(given).full


def test_the_study_has_a_point_for_each_size():
    lines = study(program.choose(subjects(), ["torch Adam foreach", "tz Adam + LR"]), CPU, 10**6, 0.0, lambda s: None)
    assert [line.sizes for line in lines["tensors"]] == [[10, 30, 100]] * 2
    assert [line.sizes for line in lines["parameters"]] == [[10**4, 10**5, 10**6]] * 2
    found = next(line for line in lines["parameters"] if line.name == "tz Adam + LR")
    assert len(set(found.calls)) == 1, "what the interpreter does must not depend on the number of parameters"


@pytest.mark.slow  # three processes import torch
def test_first_steps_are_those_of_fresh_processes():
    (start,) = starts(["tiny"], CPU)
    assert start.where == "tiny"
    assert start.eager and start.cold and start.warm


def test_a_profile_says_where_the_time_goes(monkeypatch):
    monkeypatch.setattr("benchmarks.profiling.copy_bandwidth", lambda device: 2e10)
    (subject,) = program.choose(subjects(), ["tz five modules"])
    text = explain(subject, "tiny", CPU, 0.0)
    assert text.startswith("tz five modules on tiny: 6 tensors, 8,818 parameters")
    for part in ("overhead", "least traffic", "aten::", "numbers_runner.py:"):
        assert part in text
    assert "/numbers_runner.py" not in text
