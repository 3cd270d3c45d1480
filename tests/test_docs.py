"""The site: everything public stands on it, formulas are drawn without a network, and a browser opens every page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torchzero_core as tz
from docs import chain_picture, reference
from tests import browser
from tests.test_readme import ROOT

NEEDED = ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "sphinx_design", "latex2mathml")
DOCS = all(importlib.util.find_spec(name) for name in NEEDED)


# -- the reference -----------------------------------------------------------------------------------------------------
def test_every_public_name_stands_on_one_page():
    written = [f"{page.prefix}.{name}" for page in reference.pages() for name in page.items]
    assert reference.missing(written) == []
    assert len(written) == len(set(written))


def test_a_name_that_is_left_out_is_missed():
    written = {f"{page.prefix}.{name}" for page in reference.pages() for name in page.items}
    assert reference.missing(written - {"torchzero_core.m.Lion"}) == ["torchzero_core.m.Lion"]
    assert "torchzero_core.Modular" in reference.missing(written - {"torchzero_core.Modular"})
    # another spelling of what is there is not missed
    assert reference.missing(written - {"torchzero_core.m.GramSchimdt"}) == []


def test_members_that_are_shown_exist():
    for full, members in reference.MEMBERS.items():
        home, _, name = full.rpartition(".")
        homes = {"torchzero_core.m": tz.m, "torchzero_core.stopping": tz.stopping, "torchzero_core.optim": tz.optim}
        item = getattr(homes[home] if home in homes else importlib.import_module(home), name)
        for member in members.split():
            assert hasattr(item, member), f"{full} has no {member}"


def test_the_table_has_every_module():
    rows = reference.catalogue()
    assert len(rows) > 200 and {family for family, _, _ in rows} == set(reference.families())
    classes = {cls.__name__: cls for _, _, cls in rows}
    assert reference.papers(classes["Lion"]) == "`Chen et al. 2023 <https://arxiv.org/abs/2302.06675>`__"
    assert reference.papers(classes["DaiYuan"]) == "Dai and Yuan 1999"
    assert reference.papers(classes["Abs"]) == ""
    needs = {name: reference.closure_needed(classes[name]) for name in ("Adam", "StrongWolfe", "GaLore", "NewtonCG")}
    assert needs == {"Adam": "no", "StrongWolfe": "yes", "GaLore": "depends", "NewtonCG": "yes"}


def test_every_family_has_an_introduction():
    missing = [family for family in reference.families() if not (ROOT / "docs/families" / f"{family}.md").exists()]
    assert not missing


def test_the_changelog_has_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {tz.__version__}\n" in text


def test_the_hooks_run_what_make_lint_runs():
    import yaml

    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in repo["hooks"]]
    lint = (ROOT / "Makefile").read_text().split("lint:")[1].split("\n\n")[0].replace("$(PY)", ".venv/bin/python")
    assert repo["repo"] == "local" and len(entries) == 3
    for entry in entries:
        assert f"\t{entry}" in lint


# -- formulas and the picture ------------------------------------------------------------------------------------------
@pytest.mark.skipif(not DOCS, reason="the extra `docs` is not installed")
def test_formulas_become_mathml():
    from docs.mathml import mathml

    out = mathml(r"u ← \frac{lr\_decay · \hat m}{‖g‖ + ε}, \quad v_t = \max(β_2 v_{t-1}, pow)", block=True)
    assert out.startswith("<math") and 'display="block"' in out
    assert "\\" not in out and "$" not in out and "<mfrac>" in out
    assert "&#x02190;" in out  # the arrow is an operator, and has space around it
    assert out.count("<mi>l</mi><mi>r</mi>") == 0  # a name is one word and not a product of letters


def shape(svg: str) -> tuple[list[str], list[float]]:
    """What a picture is made of, and its numbers."""
    return re.findall(r"<(\w+)", svg), [float(n) for n in re.findall(r"-?\d+\.?\d*", svg)]


def test_the_picture_of_the_readme_is_the_one_that_is_built():
    kept = (ROOT / "docs" / "chain.svg").read_text(encoding="utf-8")
    kinds, numbers = shape(chain_picture.picture())
    kept_kinds, kept_numbers = shape(kept)
    assert kinds == kept_kinds and len(numbers) == len(kept_numbers)
    near = [abs(a - b) < 5 for a, b in zip(numbers, kept_numbers, strict=True)]
    assert sum(near) > 0.95 * len(near), "run python -m docs.chain_picture docs/chain.svg"
    assert len(kept) < 40_000


# -- the built pages ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built pages; a warning fails the build."""
    if not DOCS:
        pytest.skip("the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def pages(site: Path) -> list[Path]:
    return sorted(file for file in site.rglob("*.html") if "_static" not in file.parts and "_modules" not in file.parts)


@pytest.mark.slow
def test_pages_load_nothing_from_a_network(site):
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert not loaded, f"{page.name}: {loaded}"


@pytest.mark.slow
def test_modules_show_what_a_user_calls(site):
    text = (site / "api" / "optimizers.html").read_text(encoding="utf-8")
    assert text.count('id="torchzero_core.m.') > 20
    for name in ("slots", "kernel", "ranges", "rule", "size_effect", "exp_avg", "checks"):
        assert f'id="torchzero_core.m.Adam.{name}"' not in text
    assert "The new update." not in text
    core = (site / "api" / "core.html").read_text(encoding="utf-8")
    assert 'id="torchzero_core.Modular.step"' in core and "closure_guards" not in core


@pytest.mark.slow
@pytest.mark.skipif(browser.program() is None, reason="there is no browser")
def test_every_page_opens_in_a_browser(site):
    """No error, no raw formula, nothing wider than a telephone, light and dark."""
    wrong = []
    with browser.Browser(390, 844) as page:
        for dark in (False, True):
            page.dark(dark)
            for file in pages(site):
                page.open(file)
                name = f"{file.relative_to(site)}{' (dark)' if dark else ''}"
                wrong += [f"{name}: {error}" for error in page.errors]
                width = page.evaluate("document.documentElement.scrollWidth")
                if width > 390:
                    wrong.append(f"{name}: {width} pixels wide")
                text = page.evaluate(PROSE)
                raw = re.findall(r"\\[a-z]{3,}|\$[^$\n]{1,40}\$", text)
                if raw:
                    wrong.append(f"{name}: raw formulas {raw[:3]}")
    assert not wrong, "\n".join(wrong)


#: The text of a page without its code.
PROSE = """(() => {
  const copy = document.querySelector("article, main, body").cloneNode(true);
  copy.querySelectorAll("pre, code, script, style").forEach((node) => node.remove());
  return copy.textContent;
})()"""


@pytest.mark.slow
@pytest.mark.skipif(browser.program() is None, reason="there is no browser")
def test_formulas_fit_a_wide_page(site):
    wide = "[...document.querySelectorAll('div.math')].filter((m) => m.scrollWidth > m.clientWidth + 1).length"
    with browser.Browser(1400) as page:
        found = {}
        for file in pages(site):
            page.open(file)
            if count := page.evaluate(wide):
                found[file.name] = count
    assert not found


@pytest.mark.slow
@pytest.mark.skipif(browser.program() is None, reason="there is no browser")
def test_the_table_can_be_filtered(site):
    with browser.Browser(1400) as page:
        page.open(site / "api" / "modules.html")
        script = """(() => {
          const [words, , closure] = document.querySelectorAll(".filter input, .filter select");
          words.value = "quasi bfgs"; words.dispatchEvent(new Event("input"));
          const one = document.querySelector(".filter output").textContent;
          words.value = ""; closure.value = "yes"; closure.dispatchEvent(new Event("input"));
          const rows = [...document.querySelectorAll("table.modules tbody tr")].filter((row) => !row.hidden);
          return [one, rows.length, rows.some((row) => row.textContent.includes("StrongWolfe"))];
        })()"""
        one, count, there = page.evaluate(script)
    assert 2 <= int(one.split()[0]) < 12 and there and 20 < count < 80


@pytest.mark.slow
@pytest.mark.skipif(browser.program() is None, reason="there is no browser")
@pytest.mark.parametrize("words", ["install", "gan", "weight decay", "line search", "checkpoint"])
def test_the_search_finds(site, words):
    with browser.Browser(1400) as page:
        page.open(site / "search.html", f"?q={words.replace(' ', '+')}")
        found = page.evaluate(
            """new Promise((done) => {
              let left = 100;
              const look = () => {
                const n = document.querySelectorAll("#search-results li").length;
                const text = document.querySelector("#search-results")?.textContent ?? "";
                const over = /finished|found|matching/.test(text);
                if ((n && over) || !left--) done(n); else setTimeout(look, 100);
              };
              look();
            })"""
        )
    assert found > 0, f"nothing is found for {words!r}"
