"""Split in YAML, where the names of its two sides are words for truth values."""

import sys

import pytest
import yaml

from tests.lightning.test_cli import cli, optimizer_of
from tz_lightning.cli import load_yaml


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    """Those of pytest are not those of the command line interface."""
    monkeypatch.setattr(sys, "argv", ["fit"])


CHAIN = """
optimizer:
  class_path: ModularChain
  init_args:
    modules:
      - class_path: Split
        init_args:
          filter: hidden_matrices
          {true}: {one}
          {false}: {other}
      - {{class_path: LR, init_args: {{lr: 0.1}}}}
"""


@pytest.mark.parametrize(
    ("true", "false"),
    [("true", "false"), ("'true'", "'false'"), ("True", "False"), ('"true"', "FALSE")],
)
@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("{class_path: Muon}", "{class_path: Adam}", ["Split.true.Muon", "Split.false.Adam"]),
        ("[{class_path: Muon}, {class_path: Sign}]", "null", ["Split.true.Muon", "Split.true.Sign"]),
        ("null", "{class_path: Adam, init_args: {beta1: 0.7}}", ["Split.false.Adam"]),
    ],
)
def test_sides_by_name(tmp_path, true, false, one, other, names):
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(true=true, false=false, one=one, other=other))
    optimizer = optimizer_of(cli(f"--config={path}"))
    paths = [module.path for module in optimizer.unrolled_modules]
    assert [p for p in paths if p.startswith("Split.") and p.count(".") == 2][: len(names)] == names


@pytest.mark.parametrize("side", ["true", "false"])
def test_a_side_may_be_left_out(tmp_path, side):
    path = tmp_path / "chain.yaml"
    text = CHAIN.format(true="true", false="false", one="{class_path: Adam}", other="{class_path: Adam}")
    path.write_text("\n".join(line for line in text.splitlines() if f" {side}:" not in line))
    other = {"true": "false", "false": "true"}[side]
    assert list(optimizer_of(cli(f"--config={path}")).modules[0].children) == [other]


def test_the_printed_configuration_is_read_again(tmp_path, capsys):
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(true="true", false="false", one="{class_path: Muon}", other="null"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}", "--print_config")
    path.write_text(capsys.readouterr().out)
    assert list(optimizer_of(cli(f"--config={path}")).modules[0].children) == ["true"]


def test_a_misspelt_side_is_named(tmp_path, capsys):
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN.format(true="true", false="other", one="{class_path: Adam}", other="null"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}")
    assert "other" in capsys.readouterr().err.splitlines()[0]


def test_from_the_command_line():
    split = [
        "--optimizer.modules+=Split",
        "--optimizer.modules.filter=hidden_matrices",
        "--optimizer.modules.true=Muon",
    ]
    optimizer = optimizer_of(cli("--optimizer=ModularChain", *split))
    assert [m.path for m in optimizer.unrolled_modules][:2] == ["Split", "Split.true.Muon"]


def test_only_names_become_text():
    assert load_yaml("{true: 1, false: 2}") == {True: 1, False: 2}
    assert load_yaml("[{a: true, false: {true: x, b: off}}]") == [{"a": True, "false": {"true": "x", "b": False}}]


@pytest.mark.parametrize("words", ["norms", "net.0.*", r"re:net\.[03]\.", "hidden_matrices"])
def test_a_filter_of_any_kind_is_printed_as_it_was_written(words, tmp_path, capsys, recwarn):
    path = tmp_path / "chain.yaml"
    text = CHAIN.format(true="true", false="false", one="{class_path: Adam}", other="null")
    path.write_text(text.replace("filter: hidden_matrices", f"filter: '{words}'"))
    with pytest.raises(SystemExit):
        cli(f"--config={path}", "--print_config")
    (printed,) = yaml.safe_load(capsys.readouterr().out)["optimizer"]["init_args"]["modules"][:1]
    assert printed["init_args"]["filter"] == words
    assert not [w for w in recwarn if "serialize" in str(w.message)]
