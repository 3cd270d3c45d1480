"""Docstrings as they are read in a terminal: formulas in the letters that Unicode has, no markup."""

from __future__ import annotations

import re
import unicodedata

_WORDS = {
    "quad": "  ", "qquad": "    ", "max": "max", "min": "min", "sum": "Σ", "prod": "Π", "arg": "arg ", "top": "'",
    "left": "", "right": "", "Big": "", "big": "", ";": " ", ",": " ", "\\": "\n", "_": "_", "{": "{", "}": "}",
    "cdot": "·", "le": "≤", "ge": "≥", "times": "×", "odot": "⊙", "infty": "∞", "sign": "sign", "log": "log",
}  # fmt: skip
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0304", "tilde": "\u0303"}
_DOWN = dict(zip("0123456789+-=()aeoxhklmnpstijruvβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼᵣᵤᵥᵦᵧᵨᵩᵪ", strict=True))
_UP = dict(zip("0123456789+-=()abcdefghijklmnoprstuvwxyzT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ", strict=True))


def plain_text(text: str) -> str:
    r"""A docstring without markup.

    Args:
        text: the docstring, or a part of it.

    Example:
        >>> print(plain_text(r"The root of ``v``, see :class:`~torchzero_core.m.Adam`."))
        The root of v, see Adam.
    """
    text = re.sub(r"\.\. math::(.*(?:\n(?: +.*)?)*)", lambda found: _block(found[1]), text)
    text = re.sub(r":\w+:`~?([^`]*)`", lambda found: found[1].rsplit(".", 1)[-1], text)
    text = re.sub(r"``([^`]*)``", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def _block(body: str) -> str:
    """A formula that stands alone, indented."""
    rows = [row for part in re.split(r"\n\s*\n", body) for row in formula(part).splitlines() if row.strip()]
    return "\n" + "\n".join(f"    {' '.join(row.split())}" for row in rows) + "\n\n"


def formula(tex: str) -> str:
    r"""A formula in Unicode.

    Args:
        tex: it in TeX.

    Example:
        >>> formula(r"m_t = β_1 m_{t-1} + \frac{\hat u}{\sqrt{v} + ε}")
        'm\u209c = β₁ m\u209c₋₁ + û / (√v + ε)'
    """
    tex = re.sub(r"\s*\n\s*", " ", tex.strip())
    tex = re.sub(r"\\(?:begin|end)\{\w+\*?\}|&|\$", " ", tex)
    tex = re.sub(r"\\(?:text|mathrm|operatorname)\{([^{}]*)\}", r"\1", tex)
    while (found := re.search(r"\\t?frac|\\sqrt", tex)) is not None:
        first, rest = _argument(tex[found.end() :])
        if found[0] == "\\sqrt":
            tex = f"{tex[: found.start()]}√{_bracketed(first)}{rest}"
        else:
            second, rest = _argument(rest)
            tex = f"{tex[: found.start()]}{_bracketed(first)} / {_bracketed(second)}{rest}"
    for word, accent in _ACCENTS.items():
        while (found := re.search(rf"\\{word}(?:\{{([^{{}}]*)\}}|\s*(\w))", tex)) is not None:
            tex = f"{tex[: found.start()]}{_accented(found[1] or found[2], accent)}{tex[found.end() :]}"
    tex = re.sub(r"\\([A-Za-z]+|.)", lambda found: _WORDS.get(found[1], found[1]), tex)
    tex = re.sub(r"_(?:\{([^{}]*)\}|(\w))", lambda f: _script(f[1] or f[2], _DOWN, "_"), tex)
    tex = re.sub(r"\^(?:\{([^{}]*)\}|(\w))", lambda f: _script(f[1] or f[2], _UP, "^"), tex)
    return re.sub(r"[^\S\n]+", " ", tex.replace("{", "").replace("}", "")).strip()


def _argument(tex: str) -> tuple[str, str]:
    """The first argument of a command, and what follows it."""
    tex = tex.lstrip()
    if not tex.startswith("{"):
        return tex[:1], tex[1:]
    depth = 0
    for i, letter in enumerate(tex):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return tex[1:i], tex[i + 1 :]
    return tex, ""


def _bracketed(tex: str) -> str:
    """A part of a formula in brackets, unless it is one thing."""
    simple = re.fullmatch(r"(?:\\[a-z]+)?[\s{]*\w+\}*(?:[_^](?:\w|\{[^{}]*\}))*'*|\\sqrt\{[^{}]*\}|√.", tex.strip())
    return tex if simple else f"({tex})"


def _accented(text: str, accent: str) -> str:
    return unicodedata.normalize("NFC", text + accent)


def _script(text: str, letters: dict[str, str], mark: str) -> str:
    """A subscript or superscript, in small letters where there are such."""
    if all(letter in letters for letter in text):
        return "".join(letters[letter] for letter in text)
    return f"{mark}{text}" if len(text) == 1 else f"{mark}({text})"


__all__ = ["formula", "plain_text"]
