"""The pages of the reference, written afresh at each build: what a user calls, family by family, and the table of all.

A page shows of a class what is called by those it is written for: of a module its constructor, of a base what its
authors override and call. :data:`MEMBERS` says which, :func:`missing` what of the public names stands on no page.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torchzero_core
from torchzero_core import core, modules, optim, recipes, stopping
from torchzero_core.core import Module, Range, Transform

HERE = Path(__file__).parent
M = "torchzero_core.m"
#: The members that are shown, by the name of the class; of all others none is.
MEMBERS = {
    "torchzero_core.Modular": "step zero_grad add_param_group state_dict load_state_dict reset requires_closure"
    " unrolled_modules watch summary forget_evaluations",
    "torchzero_core.Module": "step post_step check_settings set_child set_param_groups reset"
    " global_state get_state get_settings generator save_generators requires_closure needs_gradient has_scale"
    " size_effect",
    "torchzero_core.Transform": "rule check",
    "torchzero_core.Var": "get_loss get_grad get_update peek_update closure wrap_closure grad update loss_approx"
    " clone select absorb absorb_parts run_inner",
    "torchzero_core.Context": "params grads loss loss_with_gradients step first child call evaluate random noise"
    " of_shape finfo full",
    "torchzero_core.Reductions": "mean_loss mean_grads gather sum_scalar max_scalar agree",
    "torchzero_core.stopping.Progress": "",
    "torchzero_core.stopping.StoppingRule": "met state_dict load_state_dict reset",
    f"{M}.Split": "choice",
    f"{M}.BinaryOperation": "transform",
    f"{M}.MultiOperation": "transform",
    f"{M}.ReduceOperation": "transform",
    f"{M}.GradApproximator": "pre_step approximate",
    f"{M}.LineSearch": "search make_objective make_objective_with_derivative evaluate_step_size"
    " evaluate_step_size_loss_and_derivative",
    f"{M}.LineFunction": "with_slope start rounding length moves best",
    f"{M}.Projection": "project unproject keeper",
    f"{M}.QuasiNewtonH": "update_H",
    f"{M}.QuasiNewtonB": "update_B",
    f"{M}.TrustMethod": "begin solve resize",
    f"{M}.ConjugateGradientBase": "beta",
    "torchzero_core.optim.Split": "step",
    "tz_lightning.ModularCLI": "",
}
#: What a module is derived from, and what belongs to it; they stand on the page of the bases.
BASES = [
    "BinaryOperation", "MultiOperation", "ReduceOperation", "GradApproximator", "LineSearch", "LineFunction",
    "MaxLineSearchItersReached", "Projection", "QuasiNewtonH", "QuasiNewtonB", "TrustMethod", "ConjugateGradientBase",
]  # fmt: skip
#: What stands on the page of the optimizer.
TOP = "Modular Module Transform Chain Var StepInfo Advice groups kinds"
#: The names of families that are no words.
TITLES = {"ops": "Operations", "grad_approximation": "Gradient approximations", "quasi_newton": "Quasi-Newton methods"}
TITLES |= {"step_size": "Learning rate and step size", "line_search": "Line searches", "clipping": "Clipping"}
TITLES |= {"conjugate_gradient": "Conjugate gradients", "second_order": "Second order", "momentum": "Momentum"}
TITLES |= {"trust_region": "Trust regions", "weight_decay": "Weight decay", "smoothing": "Smoothing"}


@dataclass
class Page:
    """A page of the reference.

    Attributes:
        name: of its file.
        title: its heading.
        intro: what stands below it.
        prefix: where its items are imported from.
        items: classes, functions and others by name.
        sections: the items by heading, where there is more than one heading.
    """

    name: str
    title: str
    intro: str
    prefix: str
    items: dict[str, Any]
    sections: dict[str, list[str]] = field(default_factory=dict)


def families() -> list[str]:
    """The names of the families, as folders are."""
    return [info.name for info in pkgutil.iter_modules(modules.__path__) if info.ispkg]


def public(home: ModuleType) -> dict[str, Any]:
    """What a package offers, by the name it is imported under; its packages aside."""
    names: Iterable[str] = getattr(home, "__all__", None) or [name for name in vars(home) if not name.startswith("_")]
    found = {name: getattr(home, name) for name in sorted(names, key=str.lower)}
    return {name: item for name, item in found.items() if not inspect.ismodule(item)}


def headline(item: Any) -> str:
    """The first sentence or paragraph of a docstring."""
    return " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())


def family_page(family: str) -> Page:
    """The page of a family: its modules, by file where there are many."""
    home = importlib.import_module(f"torchzero_core.modules.{family}")
    items = {name: item for name, item in public(home).items() if item.__name__ not in BASES}
    sections: dict[str, list[str]] = {}
    if len(items) > 40:
        for name, item in items.items():
            sections.setdefault(headline(importlib.import_module(item.__module__)).rstrip("."), []).append(name)
    intro = HERE / "families" / f"{family}.md"
    text = intro.read_text(encoding="utf-8") if intro.exists() else inspect.getdoc(home) or ""
    return Page(family, TITLES.get(family, family.capitalize()), text, M, items, dict(sorted(sections.items())))


def pages() -> Iterator[Page]:
    """All pages but the table."""
    for family in families():
        yield family_page(family)
    yield from author_pages()
    yield from other_pages()


def author_pages() -> Iterator[Page]:
    """The optimizer, and what modules are written with."""
    names, of_core = public(torchzero_core), public(core)
    yield Page(
        "core",
        "Optimizer and module",
        "What every chain is made of. [The optimizer](../guide/optimizer.md) says how it is used, "
        "[writing modules](../guide/modules.md) how a module is written.",
        "torchzero_core",
        {name: names[name] for name in names if name in TOP.split()},
    )
    yield Page(
        "language",
        "The language of rules",
        "What a `rule` is written with: the update is a `Value`, the rest is asked of the `Context`, and state is "
        "declared as a `Slot`.",
        "torchzero_core",
        {name: names[name] for name in ("Value", "Context", "Slot", "Reductions", "RankMeans")},
    )
    yield Page(
        "settings",
        "Types of settings",
        "The types of annotated class attributes, by `from torchzero_core.core import Beta`. "
        "[Writing modules](../guide/modules.md#settings) shows them at work.",
        "torchzero_core.core",
        {name: item for name, item in of_core.items() if name not in names and name != "Params"},
    )
    yield Page(
        "bases",
        "Bases of modules",
        "For those who write modules: a base leaves only the idea to write. [Writing modules](../guide/modules.md) has "
        "an example of each.",
        M,
        {name: item for name, item in public(modules).items() if getattr(item, "__name__", "") in BASES},
    )


def other_pages() -> Iterator[Page]:
    """What is no module."""
    yield Page(
        "optim",
        "Minimising and other optimizers",
        "Whole minimisations, and optimizers that are no modules.",
        "torchzero_core.optim",
        public(optim),
    )
    yield Page(
        "stopping",
        "Stopping rules",
        "`tz.stopping`: when a run is over, for `tz.minimize`, `SwitchWhen`, `tz_lightning.StopWhen` and loops of "
        "one's own.",
        "torchzero_core.stopping",
        public(stopping),
    )
    yield Page(
        "recipes",
        "Recipes",
        "`tz.recipes`: the chains of well-known optimizers, as lists of modules. `tz.Modular(model, "
        "*tz.recipes.adamw(lr=3e-4))` is an optimizer, and in YAML the name alone is one.",
        "torchzero_core.recipes",
        {name: item for name, item in public(recipes).items() if inspect.isfunction(item)},
    )
    wrappers = "torchzero_core.optim.wrappers"
    home = importlib.import_module(wrappers)
    yield Page("packages", "Optimizers of other packages", inspect.getdoc(home) or "", wrappers, public(home))
    lightning = importlib.import_module("tz_lightning")
    yield Page("lightning", "Lightning", inspect.getdoc(lightning) or "", "tz_lightning", public(lightning))


def expected() -> dict[str, Any]:
    """Every public name, with what it is."""
    homes = {"torchzero_core": torchzero_core, M: modules, "torchzero_core.core": core, "torchzero_core.optim": optim}
    homes |= {"torchzero_core.stopping": stopping, "torchzero_core.recipes": recipes}
    for name in ("torchzero_core.optim.wrappers", "tz_lightning"):
        homes[name] = importlib.import_module(name)
    found = {f"{prefix}.{name}": item for prefix, home in homes.items() for name, item in public(home).items()}
    # what the catalogue needs for itself; a table; the type of var.params, which is a list to everybody
    beside = {
        f"{M}.{name}"
        for name, item in public(modules).items()
        if not getattr(item, "__module__", "").startswith("torchzero_core.modules")
    }
    beside |= {"torchzero_core.recipes.RECIPES", "torchzero_core.core.Params"}
    return {name: item for name, item in found.items() if name not in beside}


def missing(documented: Iterable[str]) -> list[str]:
    """The public names that are described under none of their names.

    Args:
        documented: the full names that the built pages describe.
    """
    wanted = expected()
    there = {id(wanted[name]) for name in documented if name in wanted}
    return sorted(name for name, item in wanted.items() if id(item) not in there)


def entry(prefix: str, name: str, item: Any) -> list[str]:
    """The lines that describe one item."""
    full = f"{prefix}.{name}"
    if inspect.isfunction(item):
        return [f".. autofunction:: {full}", ""]
    if inspect.isclass(item):
        lines = [f".. autoclass:: {full}"]
        if name == "Value":
            lines += ["   :members:", "   :undoc-members:"]
        elif members := MEMBERS.get(full):
            lines.append(f"   :members: {', '.join(members.split())}")
        return [*lines, ""]
    return [f".. py:data:: {full}", "", f"   {described(name)}", ""]


def described(name: str) -> str:
    """What is said of a type above its definition in the source."""
    if name == "Target":
        return "What a rule is applied to: the words that :class:`Transform` takes as its target."
    for place in (Module, Transform, Range):
        source = inspect.getsource(inspect.getmodule(place) or place)
        if found := re.search(rf"((?:^#: .*\n)+)^{name}: TypeAlias = (.*)$", source, re.M):
            return " ".join(line.removeprefix("#: ") for line in found[1].splitlines())
        if found := re.search(rf"^{name}: TypeAlias = (.*)$", source, re.M):
            return f"``{found[1]}``"
    return ""


def write_page(page: Page) -> None:
    """Write a page: its modules in a table, then each."""
    seen: dict[int, str] = {}
    names, others = [], []
    for name in sorted(page.items, key=lambda n: (getattr(page.items[n], "__name__", n) != n, n.lower())):
        item = page.items[name]
        if (inspect.isclass(item) or inspect.isfunction(item)) and id(item) in seen:
            others.append((name, seen[id(item)]))
        else:
            seen[id(item)] = name
            names.append(name)
    lines = [f"# {page.title}", "", page.intro, ""]
    sections = page.sections or {"": names}
    for title, inside in sections.items():
        shown = [name for name in inside if name in names]
        if title:
            lines += [f"## {title}", ""]
        lines += ["```{eval-rst}"]
        if len(shown) > 2:
            lines += ["", ".. list-table::", "   :class: short", "   :widths: 3 7", ""]
            for name in sorted(shown, key=str.lower):
                item = page.items[name]
                line = headline(item) if inspect.isclass(item) or inspect.isfunction(item) else described(name)
                lines += [f"   * - :py:obj:`{name} <{page.prefix}.{name}>`", f"     - {line}"]
            lines.append("")
        for name in shown:
            lines += entry(page.prefix, name, page.items[name])
        lines += ["```", ""]
    if others:
        told = "; ".join(f"`{name}` is {{py:obj}}`{same} <{page.prefix}.{same}>`" for name, same in others)
        lines += [f"Other spellings: {told}.", ""]
    save(HERE / "api" / f"{page.name}.md", "\n".join(lines))


def closure_needed(cls: type[Module]) -> str:
    """Whether a chain with the module needs a closure: yes, no, or it depends on how it is set."""
    value = next(vars(base)["requires_closure"] for base in cls.__mro__ if "requires_closure" in vars(base))
    return "depends" if isinstance(value, property) else "yes" if value else "no"


def papers(cls: type[Module]) -> str:
    """The first paper of a docstring, with a link where there is one to follow."""
    found = re.search(r"^References?:\s+(.*?)(?:\n\s*\n|\Z)", inspect.getdoc(cls) or "", re.S | re.M)
    if not found:
        return ""
    text = " ".join(found[1].split())
    first = re.split(r"; ", text)[0].rstrip(".")
    year = re.search(r"\b(1[89]|20)\d\d\b", first)
    who = re.split(r', ["“]' if '"' in first else ", ", first)[0]
    who = re.sub(r"\b(?:[A-Z]\. ?)+", "", who).strip(" ,") or first
    label = f"{who} {year[0]}" if year and year[0] not in who else who
    arxiv, doi = re.search(r"arXiv:(\d+\.\d+)", first), re.search(r"doi:(10\.\S+?)[,.]?(?:\s|$)", first)
    address = f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else f"https://doi.org/{doi[1]}" if doi else ""
    return f"`{label} <{address}>`__" if address else label


def catalogue() -> list[tuple[str, str, type[Module]]]:
    """Family, name and class of every module."""
    rows = []
    for family in families():
        home = importlib.import_module(f"torchzero_core.modules.{family}")
        for name, item in public(home).items():
            if inspect.isclass(item) and issubclass(item, Module) and item.__name__ not in BASES:
                rows.append((family, name, item))
    return rows


def write_table(rows: Sequence[tuple[str, str, type[Module]]]) -> None:
    """The table of all modules."""
    lines = [
        "# All modules",
        "",
        f"{len({cls for _, _, cls in rows})} modules, as `tz.m.Adam` in Python and `class_path: Adam` in YAML. "
        "*Closure*: whether a chain with the module has to be given one ([closures](../guide/closures.md)). Type to "
        "filter; several words have to occur all.",
        "",
        "```{eval-rst}",
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: modules",
        "   :widths: 14 18 44 8 16",
        "",
        "   * - Family",
        "     - Module",
        "     - What it does",
        "     - Closure",
        "     - Paper",
    ]
    seen: set[type[Module]] = set()
    for family, name, cls in rows:
        other = cls.__name__ != name or cls in seen
        seen.add(cls)
        line = f"Another spelling of :py:obj:`{cls.__name__} <{M}.{cls.__name__}>`." if other else headline(cls)
        target = cls.__name__ if other else name
        lines += [
            f"   * - :doc:`{TITLES.get(family, family.capitalize())} <{family}>`",
            f"     - :py:obj:`{name} <{M}.{target}>`",
            f"     - {line}",
            f"     - {closure_needed(cls)}",
            f"     - {papers(cls)}".rstrip(),
        ]
    lines += ["```", ""]
    save(HERE / "api" / "modules.md", "\n".join(lines))


def save(file: Path, text: str) -> None:
    """Write a file if it is not as it should be already: Sphinx reads anew what is newer than before."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def write() -> Mapping[str, Page]:
    """Write all pages anew."""
    (HERE / "api").mkdir(exist_ok=True)
    written = {page.name: page for page in pages()}
    for old in (HERE / "api").glob("*.md"):
        if old.stem not in (*written, "modules"):
            old.unlink()
    for page in written.values():
        write_page(page)
    write_table(catalogue())
    return written
