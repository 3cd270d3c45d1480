"""Sphinx settings; the API reference and the picture of the floors are made afresh at each build."""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from docs.picture import picture  # noqa: E402 - found by the line above

project = "torchzero_core"
author = copyright = "torchzero_core contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # attributes that autodoc lists as members stay described once


def public(home):
    """The public classes and functions of a package, by the name they are imported under."""
    names = getattr(home, "__all__", None) or [name for name in vars(home) if not name.startswith("_")]
    found = {}
    for name in sorted(names, key=str.lower):
        item = getattr(home, name)
        if (inspect.isclass(item) or inspect.isfunction(item)) and item.__module__.startswith(home.__name__):
            found[name] = item
    return found


def write_page(file, title, intro, prefix, items):
    lines = [f"# {title}", "", intro, "", "```{eval-rst}"]
    seen = {}
    for name, item in items.items():
        if item in seen:
            lines += [f"``{name}`` is another spelling of :class:`{prefix}.{seen[item]}`.", ""]
            continue
        seen[item] = name
        kind = "autoclass" if inspect.isclass(item) else "autofunction"
        lines += [f".. {kind}:: {prefix}.{name}", *(["   :members:"] if kind == "autoclass" else []), ""]
    lines += ["```", ""]
    (HERE / "api" / f"{file}.md").write_text("\n".join(lines))


def write_reference():
    """One page for each family of modules, and one for each other package."""
    import torchzero_core.modules as modules

    (HERE / "api").mkdir(exist_ok=True)
    for old in (HERE / "api").glob("*.md"):
        old.unlink()
    families = [info.name for info in pkgutil.iter_modules(modules.__path__) if info.ispkg]
    pages = [("torchzero_core.core", "torchzero_core.core", "core", "The core")]
    pages += [
        (f"torchzero_core.modules.{family}", "torchzero_core.m", family, family.replace("_", " ").capitalize())
        for family in families
    ]
    pages += [
        ("torchzero_core.optim", "torchzero_core.optim", "optim", "Optimizers that are not modules"),
        ("torchzero_core.optim.wrappers", "torchzero_core.optim.wrappers", "packages", "Optimizers of other packages"),
        ("torchzero_core.linalg", "torchzero_core.linalg", "linalg", "Linear algebra"),
        ("tz_lightning", "tz_lightning", "lightning", "Lightning"),
    ]
    written = []
    for package, prefix, file, title in pages:
        try:
            home = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:  # a package may not be there yet, but one that is must import
                raise
            continue
        items = public(home)
        if items:
            write_page(file, title, inspect.getdoc(home) or "", prefix, items)
            written.append(file)
    index = ["# API reference", "", "```{toctree}", ":maxdepth: 1", "", *written, "```", ""]
    (HERE / "api" / "index.md").write_text("\n".join(index))
    (HERE / "api" / "floors.svg").write_text(picture(HERE.parent))


write_reference()
