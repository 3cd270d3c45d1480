"""The benchmarks measure what they say: shapes, bytes, ratios, fits, and a report from a short run."""

from __future__ import annotations

import pytest
import torch

from benchmarks import report
from benchmarks.measure import Runner, Timing, allocations, find, quartiles, ratio, run_set, state_bytes
from benchmarks.scaling import Line
from benchmarks.subjects import CHAINS, REFERENCE, SETS, Subject, parameters, subjects

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tensors", "millions"), [("tiny", 6, 0.009), ("small", 161, 9), ("transformer", 148, 64)]
)
def test_sets_have_the_size_they_claim(name, tensors, millions):
    shapes = SETS[name]()
    assert len(shapes) == tensors
    assert sum(torch.Size(s).numel() for s in shapes) / 1e6 == pytest.approx(millions, rel=0.03)


def test_allocations_sees_what_comes_and_stays():
    kept = []

    def run() -> None:
        a = torch.ones(1000)
        kept.append(torch.ones(500))
        del a
        torch.ones(250)

    assert allocations(run, CPU) == (6000, 2000)


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


def test_ratios_are_formed_within_rounds():
    a, b = (Timing(Subject("x", torch.optim.Adam, 28), 1, 1) for _ in range(2))
    a.main, b.main = [2.0, 40.0, 6.0], [1.0, 10.0, 2.0]
    assert ratio(a, b) == (2.5, 3.0, 3.5)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_a_line_is_found_exactly():
    line = Line("x", [10, 100, 1000], [10 * 2e-6 + 5e-6, 100 * 2e-6 + 5e-6, 1000 * 2e-6 + 5e-6])
    line.fit()
    assert (line.slope, line.intercept) == pytest.approx((2e-6, 5e-6))


def test_every_chain_has_both_forms():
    names = {subject.name for subject in subjects()}
    assert REFERENCE in names
    assert names >= {f"tz {chain}{form}" for chain in CHAINS for form in ("", " compiled")}


def test_a_short_run_writes_a_report(tmp_path):
    """Bytes are those known: fused Adam keeps 8 a parameter and needs no temporaries, foreach needs 4."""
    params = parameters([(64, 32), (64,)], CPU)
    names = (REFERENCE, "torch Adam foreach", "tz Adam + LR")
    chosen = [subject for subject in subjects() if subject.name in names]
    broken = Subject("broken", lambda p: 1 / 0, 28)
    timings, left_out = run_set([*chosen, broken], params, 0.0, (2, 2))
    assert left_out == ["broken: ZeroDivisionError: division by zero"]
    assert [len(timing.main) for timing in timings] == [2, 2, 2]
    numel = timings[0].numel
    for name, temporary in zip(names, (0, 4, 0), strict=True):
        timing = find(timings, name)
        assert timing.state / numel == pytest.approx(8, abs=0.1)
        assert timing.temporary / numel == pytest.approx(temporary, abs=0.2)
    adam = torch.optim.Adam(params)
    adam.step()
    assert state_bytes(adam) == 8 * numel + 4 * len(params)

    lines = [Line(name, [10, 100], [1e-5, 1e-4]) for name in names]
    output = tmp_path / "RESULTS.md"
    study = {"tensors": lines, "parameters": lines}
    report.write(output, CPU, {"tiny": (timings, left_out)}, study, [("set", "cold")], 2e10, "python -m benchmarks")
    text = output.read_text()
    assert all(name in text for name in names)
    assert "Left out: broken" in text and "≤ 1.2" in text
    for picture in ("RESULTS-ratios.png", "RESULTS-scaling.png"):
        assert picture in text
        assert (tmp_path / picture).stat().st_size > 5000
