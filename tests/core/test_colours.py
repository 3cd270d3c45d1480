"""Printing an optimizer: colours on a terminal that has them, and plain text everywhere else."""

import importlib.util
import io
import json
import pickle
import re
from types import SimpleNamespace

import pytest
import torch

import torchzero_core as tz
from torchzero_core.core import colours

rich = pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="rich is not installed")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def optimizer():
    split = tz.m.Split(lambda p: p.ndim > 1, tz.m.Muon(), tz.m.Adam(beta1=0.8))
    return tz.Modular([torch.zeros(3, 2, requires_grad=True)], split, tz.m.LR(0.1))


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(colours, "sys", SimpleNamespace(stdout=Terminal()))


def bare(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_elsewhere_it_is_plain(optimizer):
    assert str(optimizer) == f"{optimizer}" == repr(optimizer)
    summary = optimizer.summary()
    assert isinstance(summary, str) and "\x1b" not in str(summary) and str(summary) == summary
    assert json.loads(json.dumps(summary)) == summary == pickle.loads(pickle.dumps(summary))


@pytest.mark.parametrize("why", ["no rich", "NO_COLOR", "dumb"])
def test_a_terminal_without_colours_gets_none(optimizer, terminal, monkeypatch, why):
    if why == "no rich":
        monkeypatch.setattr(colours.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(*{"NO_COLOR": ("NO_COLOR", "1"), "dumb": ("TERM", "dumb")}.get(why, ("TERM", "xterm")))
    assert str(optimizer) == repr(optimizer)
    assert "\x1b" not in str(optimizer.summary())


@rich
def test_a_terminal_gets_colours_and_the_same_text(optimizer, terminal):
    for printed, plain in ((str(optimizer), repr(optimizer)), (str(optimizer.summary()), optimizer.summary() + "")):
        assert "\x1b[" in printed and "\x1b" not in plain
        assert bare(printed) == plain
    assert "\x1b" not in f"{optimizer} {optimizer.summary()}"  # what is put together goes to logs and files


@rich
def test_long_lines_are_not_broken(terminal):
    chain = [tz.m.LBFGS(), tz.m.StrongWolfe()]
    optimizer = tz.Modular([torch.zeros(1, requires_grad=True)], tz.m.Split(lambda p: True, chain, tz.m.SOAP()))
    assert max(map(len, repr(optimizer).splitlines())) > 100
    assert bare(str(optimizer)) == repr(optimizer)


@rich
def test_rich_prints_it_in_colours_too(optimizer):
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, width=300, color_system="standard")
    console.print(optimizer)
    text = console.file.getvalue()
    assert "\x1b[" in text and bare(text).rstrip() == repr(optimizer)
