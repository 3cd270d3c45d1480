"""The README keeps its word: its Python blocks run, its commands and settings exist."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import warnings
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.quiet import ignore_lightning

ROOT = Path(__file__).resolve().parents[1]


class Block(NamedTuple):
    language: str
    line: int
    section: str
    text: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, each with its language, line and section."""
    found, language, start, lines, section = [], None, 0, [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if language is None:
            if match := re.match(r"```(\w+)", line):
                language, start, lines = match[1].lower(), number, []
            elif line.startswith("#"):
                section = line.lstrip("# ")
        elif line.startswith("```"):
            found.append(Block(language, start, section, "\n".join(lines)))
            language = None
        else:
            lines.append(line)
    assert language is None, f"the block opened in line {start} is never closed"
    return found


README = blocks((ROOT / "README.md").read_text()) if (ROOT / "README.md").exists() else []
PYTHON = [block for block in README if block.language in ("python", "py")]
SHELL = [block for block in README if block.language in ("bash", "sh", "shell", "console")]
YAML = [block for block in README if block.language in ("yaml", "yml")]


def by_section(found: list[Block]) -> list[list[Block]]:
    sections: dict[str, list[Block]] = {}
    for block in found:
        sections.setdefault(block.section, []).append(block)
    return list(sections.values())


def test_readme_shows_each_kind_of_block():
    assert PYTHON and SHELL and YAML


@pytest.mark.parametrize("section", by_section(PYTHON), ids=lambda section: section[0].section)
def test_python_blocks_run(section, tmp_path, monkeypatch):
    """Blocks of one section run in order in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        ignore_lightning()
        for block in section:
            # the padding makes a traceback point at the line of the README
            code = compile("\n" * block.line + block.text, str(ROOT / "README.md"), "exec")
            exec(code, namespace)


def test_shell_blocks_name_what_exists():
    """Each command is one of the Makefile's targets, an installation, or a module that is there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in SHELL:
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if not words:
                continue
            program = Path(words[0]).name
            where = f"README.md:{block.line}: {line}"
            if program == "make":
                assert set(words[1:]) <= targets, where
            elif program.startswith("python"):
                if "-m" in words:
                    module = words[words.index("-m") + 1]
                    assert importlib.util.find_spec(module), where
                else:
                    assert (ROOT / words[1]).exists(), where
                for option, value in pairwise(words):
                    if option in ("--config", "-c"):
                        assert (ROOT / value).exists(), where
            else:
                assert program in ("pip", "git", "cd"), f"{where}: unknown command, teach this test about it"


def resolve(class_path: str):
    """The class that a YAML file names, short or in full."""
    if "." not in class_path:
        import torchzero_core as tz
        import tz_lightning

        return next(getattr(home, class_path) for home in (tz.m, tz_lightning, tz) if hasattr(home, class_path))
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def check_classes(node):
    """Every class_path in the tree resolves, and takes the init_args beside it."""
    if isinstance(node, dict):
        if "class_path" in node:
            parameters = inspect.signature(resolve(node["class_path"]).__init__).parameters
            open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            unknown = set(node.get("init_args") or {}) - set(parameters)
            assert open_ended or not unknown, f"{node['class_path']} takes no {sorted(unknown)}"
        for value in node.values():
            check_classes(value)
    elif isinstance(node, list):
        for value in node:
            check_classes(value)


@pytest.mark.parametrize("block", YAML, ids=lambda block: f"line{block.line}")
def test_yaml_blocks_name_what_exists(block):
    import yaml

    check_classes(yaml.safe_load(block.text))
