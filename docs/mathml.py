"""Formulas without a network: TeX becomes MathML when the pages are built, which browsers draw by themselves."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

#: What docstrings write in Unicode, and stands for an operator and not for a letter.
SIGNS = {
    "←": r"\leftarrow ", "→": r"\rightarrow ", "·": r"\cdot ", "×": r"\times ", "⊙": r"\odot ", "≤": r"\le ",
    "≥": r"\ge ", "∈": r"\in ", "−": "-", "‖": r"\Vert ", "∞": r"\infty ", "∇": r"\nabla ", "≈": r"\approx ",
    "≠": r"\ne ", "…": r"\dots ", "∘": r"\circ ", "⟨": r"\langle ", "⟩": r"\rangle ", "½": r"\tfrac12 ",
}  # fmt: skip
WORD = re.compile(r"(\\(?:text|mathrm|operatorname|begin|end)\{[^{}]*\}|\\[A-Za-z]+|\\.)|((?:[A-Za-z]|\\_){3,})")
log = logging.getLogger(__name__)


def prepared(tex: str) -> str:
    """TeX with signs as commands, and names of three letters and more upright."""
    for sign, command in SIGNS.items():
        tex = tex.replace(sign, command)
    tex = tex.replace(r"\arg", r"\mathrm{arg}\,")
    # the halves of a name around an escaped underscore belong together
    tex = re.sub(r"(?<![\\A-Za-z])([A-Za-z]+(?:\\_[A-Za-z]+)+)", r"\\mathrm{\1}", tex)
    return WORD.sub(lambda found: found[1] or rf"\mathrm{{{found[2]}}}", tex)


def mathml(tex: str, *, block: bool) -> str:
    """A formula as MathML."""
    out = str(convert(prepared(tex), display="block" if block else "inline"))
    if "merror" in out or "\\" in re.sub(r"<mtext>.*?</mtext>", "", out):
        log.warning("a formula that is not understood: %s", tex)
    return out


def inline(self: Any, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(f'<span class="math">{mathml(node.astext(), block=False)}</span>')
    raise nodes.SkipNode


def display(self: Any, node: nodes.math_block) -> None:
    """One formula for each part between blank lines."""
    for part in filter(str.strip, re.split(r"\n\s*\n", node.astext())):
        self.body.append(f'<div class="math">{mathml(" ".join(part.split()), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
