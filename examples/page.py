"""The page of the gallery, from the examples' docstrings and the figures of their last runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from examples.showing import Shown

HERE = Path(__file__).parent
GALLERY = HERE.parent / "docs" / "gallery"
PAGE = HERE.parent / "docs" / "guide" / "gallery.md"

#: Titles by example, in the order of the page.
TITLES = {
    "digits_rivals": "Handwritten digits",
    "physics_informed": "A differential equation",
    "characters": "A transformer that writes Python",
    "logistic_regression": "Logistic regression",
    "minimize_scipy": "Minimising a function",
    "not_differentiable": "A network without a gradient",
    "gan": "A generator and a critic",
    "schedules": "Schedules of any setting",
    "resumed": "Killed and resumed",
    "own_rule": "A rule of one's own",
}
NAMES = tuple(TITLES)

HEAD = """# Gallery

What the library is good for, in programs that fit on a screen or two. Each has a picture and its figures beside a
sensible baseline at the same budget, tuned as well. `python -m examples` (or `make gallery`) runs all of them on
one core and writes this page; `python -m examples gan` runs one, and every example is a module of its own,
`python -m examples.gan`. The seconds are those of the whole example on one core, with the baseline and the search for
learning rates.

"""

TAIL = """
## Another machine

Figures that are no times depend on the seed, and on rounding by the machine; the claims are tested. This is the fastest
of them, from Python:

```python
from examples import minimize_scipy

shown = minimize_scipy.main()
print(shown.text())
assert min(shown.ours.values()) <= 1.1 * min(shown.baselines.values())
```
"""


def keep(name: str, shown: Shown, seconds: float) -> None:
    """Keep the figures of a run.

    Args:
        name: of the example.
        shown: its outcome.
        seconds: how long it took.
    """
    figures = {
        "figure": shown.figure,
        "ours": {name: f"{value:{shown.digits}}" for name, value in shown.ours.items()},
        "baselines": {name: f"{value:{shown.digits}}" for name, value in shown.baselines.items()},
        "seconds": round(seconds),
    }
    GALLERY.mkdir(parents=True, exist_ok=True)
    (GALLERY / f"{name}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")


def kept(name: str) -> dict[str, Any]:
    """The figures of the last run.

    Args:
        name: of the example.
    """
    figures: dict[str, Any] = json.loads((GALLERY / f"{name}.json").read_text("utf-8"))
    return figures


def was_run(name: str) -> bool:
    """Whether there are figures.

    Args:
        name: of the example.
    """
    return (GALLERY / f"{name}.json").exists()


def text_of(name: str) -> str:
    """The docstring of an example as Markdown, its first line in bold.

    Args:
        name: of the example.
    """
    text = (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or "").replace("``", "`")
    first, _, rest = text.partition("\n")
    return f"**{first}** {rest.strip()}"


def page(path: Path = PAGE) -> None:
    """Write the page.

    Args:
        path: where to.
    """
    table = ["| example | what is compared | here | baseline | seconds |", "| --- | --- | --- | --- | --- |"]
    sections = []
    for name, title in TITLES.items():
        if not was_run(name):
            continue
        run = kept(name)
        ours = "<br>".join(f"{n}: **{v}**" for n, v in run["ours"].items())
        theirs = "<br>".join(f"{n}: {v}" for n, v in run["baselines"].items())
        table.append(
            f"| [{title}](#{anchor(title)}) | {run['figure']} | {ours} | {theirs} | {run['seconds'] or '< 1'} |"
        )
        file = "compare.yaml" if name == "digits_rivals" else f"{name}.py"
        language = "yaml" if file.endswith("yaml") else "python"
        sections += [
            f"\n## {title}\n",
            f"{text_of(name)}\n",
            f"![{run['figure']}](../gallery/{name}.png)\n",
            f":::{{dropdown}} examples/{file}",
            f"```{{literalinclude}} ../../examples/{file}\n:language: {language}\n```\n:::\n",
        ]
    path.write_text(HEAD + "\n".join([*table, *sections]) + TAIL, "utf-8")


def anchor(title: str) -> str:
    """What a heading is linked by.

    Args:
        title: the heading.
    """
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")
