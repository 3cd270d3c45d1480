"""A run that is resumed ends where the uninterrupted one does, bit for bit."""

import os
import subprocess
import sys

import pytest
import torch

from tests.lightning.resuming import CHAINS, go_on, run, write
from tests.test_readme import ROOT
from tz_lightning import RNGCheckpoint


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("chain", CHAINS)
def test_in_the_middle_and_at_the_end_of_an_epoch(chain, tmp_path):
    whole = write(chain, tmp_path / "run")
    for name, expected in whole.items():
        assert equal(go_on(chain, tmp_path / "run", name), expected), name


def test_without_the_generators_it_does_not(tmp_path, monkeypatch):
    whole = write("Adam", tmp_path / "run")
    monkeypatch.setattr("tests.lightning.resuming.callbacks", lambda chain: [])
    assert not equal(run("Adam", shuffled=True, resumed=tmp_path / "run" / "epoch=1.ckpt"), whole["epoch=1"])


@pytest.mark.slow
def test_in_a_fresh_process(tmp_path):
    whole = {chain: write(chain, tmp_path / chain) for chain in CHAINS}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightning.resuming", str(tmp_path), str(torch.get_num_threads())],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = torch.load(tmp_path / "found.pt")
    for chain, runs in whole.items():
        for name, expected in runs.items():
            assert equal(found[chain][name], expected), (chain, name)


def test_the_state_of_the_generators_is_loaded_with_weights_only(tmp_path):
    state = RNGCheckpoint().state_dict()
    torch.save(state, tmp_path / "rng.pt")
    loaded = torch.load(tmp_path / "rng.pt", weights_only=True)
    assert loaded["python"] == state["python"] and torch.equal(loaded["numpy"][1], state["numpy"][1])
