"""The page on the command line and YAML: its program, its files, its commands and its tables are true."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from examples import cli
from tests.lightning.problems import only_fit
from tests.test_readme import ROOT, blocks
from tz_lightning import ModularCLI, commands
from tz_lightning.catalogue import recipe_table

PAGE = (ROOT / "docs" / "guide" / "yaml.md").read_text()
BLOCKS = blocks(PAGE)
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
YAML = [block for block in BLOCKS if block.language == "yaml"]
SHELL = [line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(ModularCLI, "subcommands", staticmethod(only_fit))  # parsers take time
    monkeypatch.setattr(sys, "argv", ["cli.py"])
    monkeypatch.chdir(tmp_path)


def test_the_program_is_the_example():
    (block,) = [block for block in BLOCKS if block.language == "py"]
    assert block.text.strip() == (ROOT / "examples" / "cli.py").read_text().strip()


@pytest.mark.parametrize("block", YAML, ids=lambda block: f"{block.section.replace(' ', '_')}_{block.line}")
def test_a_file_runs_and_its_saved_configuration_runs_the_same(block, tmp_path):
    (tmp_path / "file.yaml").write_text(block.text)
    first = cli.main(["fit", "--config=file.yaml", *QUIET, "--trainer.default_root_dir=first"])
    assert first.trainer.global_step == 2 * first.trainer.max_epochs
    (saved,) = (tmp_path / "first").rglob("config.yaml")
    again = cli.main(["fit", f"--config={saved}", "--trainer.default_root_dir=again"])
    for p, q in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert repr(first.trainer.optimizers[0]) == repr(again.trainer.optimizers[0])


@pytest.mark.parametrize("line", SHELL)
def test_a_command_runs(line, capsys):
    program, *words = shlex.split(line)[2:]
    if program == "tz_lightning":
        assert commands.main(words) == 0
        assert len(capsys.readouterr().out.splitlines()) > 10
    else:
        assert program == "examples.cli"
        assert cli.main([*words, *QUIET]).trainer.global_step > 0


def test_the_table_of_recipes():
    assert recipe_table() in PAGE


@pytest.mark.parametrize("row", re.findall(r"^\| `(--.*?)` \| (.*) \|$", PAGE, re.M), ids=lambda row: row[0])
def test_the_table_of_refusals(row, capsys):
    written, message = row
    first = ["--optimizer=ModularChain"] if "modules" in written else []
    with pytest.raises(SystemExit):
        cli.main(["fit", *QUIET, "--trainer.max_epochs=1", *first, *shlex.split(written)])
    line = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert line.partition("error: ")[2] == message


def test_groups_of_the_page():
    text = next(block.text for block in YAML if "re:net" in block.text)
    Path("groups.yaml").write_text(text)
    command = cli.main(["fit", "--config=groups.yaml", *QUIET])
    groups = {group["name"]: group for group in command.trainer.optimizers[0].param_groups}
    assert groups["net.0.*"]["lr"] == 1e-3 and groups["net.0.*"]["param_names"] == ["net.0.weight", "net.0.bias"]
    head = groups["re:net\\.[35]\\.+head"]
    assert head["Adam.beta1"] == 0.95 and head["param_names"] == ["net.5.weight", "net.5.bias"]
