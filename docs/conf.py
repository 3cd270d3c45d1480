"""Sphinx settings; the reference and the pictures are made afresh at each build."""

import inspect
import sys
import typing
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from sphinx.util import logging  # noqa: E402
from sphinx.util.inspect import stringify_signature  # noqa: E402
from sphinx.util.nodes import make_refnode  # noqa: E402

from docs import chain_picture, picture, reference  # noqa: E402 - found by the line above
from torchzero_core import __version__  # noqa: E402

project = "torchzero_core"
author = copyright = "torchzero_core contributors"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "docs.mathml",
]
exclude_patterns = ["_build", "families"]
html_theme = "furo"
html_title = f"torchzero_core {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["modules.js"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 72
python_use_unqualified_type_names = True
napoleon_use_ivar = True  # attributes that autodoc lists as members stay described once
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

log = logging.getLogger(__name__)
HOMES = ("torchzero_core", reference.M, "torchzero_core.core", "torchzero_core.stopping", "tz_lightning")


def find(app, env, node, contnode):
    """Where a name is described: docstrings say torchzero_core.core.Var, the page torchzero_core.Var."""
    objects, target = env.get_domain("py").objects, node["reftarget"]
    last = target.rsplit(".", 1)[-1]
    ours = "." not in target or target.startswith(("torchzero_core.", "tz_lightning."))
    for prefix in HOMES if ours and node.get("refdomain") == "py" else ():
        if found := objects.get(f"{prefix}.{last}"):
            return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contnode, last)
    return None


def signature(app, what, name, item, options, text, returns):
    """Types as they are written: without the ranges and roles that an annotation carries."""
    if what != "class" or not text or not any(word in text for word in ("Range(", "Role.", "Check(")):
        return None
    hints = typing.get_type_hints(item.__init__)
    given = inspect.signature(item)
    shown = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in given.parameters.values()]
    return stringify_signature(given.replace(parameters=shown), unqualified_typehints=True), returns


def complete(app, env):
    """A public name that stands on no page is a warning, and warnings are errors."""
    for name in reference.missing(env.get_domain("py").objects):
        log.warning("%s is public and stands on no page of the reference; docs/reference.py says what is where", name)


def contents(app, docname, source):
    """In the contents, dots stand for the pages of the guide that are named nowhere else."""
    if docname == "index":
        here = [str(file.relative_to(HERE).with_suffix("")) for file in sorted(HERE.glob("guide/*.md"))]
        rest = "".join(f"{name}\n" for name in here if f"\n{name}\n" not in source[0])
        source[0] = source[0].replace("\n...\n", f"\n{rest}")


def setup(app):
    app.connect("source-read", contents)
    app.connect("autodoc-process-signature", signature)
    app.connect("missing-reference", find)
    app.connect("env-check-consistency", complete)


reference.write()
reference.save(HERE / "api" / "floors.svg", picture.picture(HERE.parent))
reference.save(HERE / "api" / "chain.svg", chain_picture.picture())
