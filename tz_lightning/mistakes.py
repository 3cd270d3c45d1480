"""What to say of a command line or a configuration that cannot be read: the true culprit, and the nearest right one."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import torchzero_core as tz
from torchzero_core.core.mistakes import ELSEWHERE, unknown_option
from torchzero_core.core.near import did_you_mean, near, same
from torchzero_core.core.stopping import StoppingRule

from . import catalogue

#: What may stand beside a class_path.
_BESIDE = ("class_path", "init_args", "dict_kwargs")
#: Lines of jsonargparse's report that say nothing to a user.
_NOISE = (
    "Does not validate", "Subtypes:", "Errors:", "Given value type", "Subclass types expect", "a class path (str)",
    "a dict with", "a dict without", "Expected a path but",
)  # fmt: skip
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null",
    "list": "a list", "dict": "settings by name",
}  # fmt: skip


# -- jsonargparse's report ---------------------------------------------------------------------------------------------
@dataclass
class _Finding:
    """A line that says what is wrong, and where: names of options and classes, the outermost first."""

    where: list[str]
    text: str
    indent: int
    owner: str = ""
    given: str = ""
    keys: list[str] = field(default_factory=list)

    @property
    def only_type(self) -> bool:
        """Whether it says no more than that a value is of another type."""
        return self.text.startswith(("Expected a <class", "Import path", "Not a valid subclass", "Expected a typing."))


def short_error(message: str, vocabulary: Iterable[str] = ()) -> str:
    r"""The path to a wrong value and what is wrong with it, from jsonargparse's nested report.

    Args:
        message: the report.
        vocabulary: the names of the options that there are.

    Example:
        >>> report = ["Parser key \"lr\":", "  Errors:", "    - Expected a <class 'float'>. Got value: x"]
        >>> short_error("\n".join(report))
        'lr: expected a number, got x'
    """
    vocabulary = list(vocabulary)
    if found := re.match(r"unrecognized arguments: (.*)", message, re.S):
        return _unknown_words(found[1], vocabulary)
    if found := re.search(r"Subcommand '\w+' does not accept option '([^']*)'", message):
        return f"there is no option {found[1]!r}.{_near_option(found[1], vocabulary)}"
    if found := re.match(r"ambiguous option: --([\w.]+)", message):
        return f"there is no option --{found[1]}.{_near_option(found[1], vocabulary, '--')}"
    if found := re.search(r"argument subcommand: invalid choice: '([^']*)' \(choose from (.*)\)", message):
        names = re.findall(r"\w+", found[2])
        return f"no command is called {found[1]!r}.{did_you_mean(found[1], names) or f' There are {found[2]}.'}"
    findings = list(_findings(message))
    if not findings:
        return " ".join(message.split())
    telling = [f for f in findings if not f.only_type] or findings
    deepest = max(len(f.where) for f in telling)
    best = [f for f in findings if len(f.where) == deepest]
    real = [f for f in best if not f.only_type]
    chosen = real[0] if real else best[0]
    text, where = _said(chosen, best), _readable(chosen.where)
    if where and text.startswith((f"{where[-1]} ", f"{where[-1]}: ")):
        where.pop()
    return ": ".join([*where, text])


def _findings(message: str) -> Iterator[_Finding]:
    """Every line that is a statement, with what it stands under."""
    stack: list[tuple[int, str, str]] = []
    found: list[_Finding] = []
    for line in message.splitlines():
        body = line.lstrip()
        indent = len(line) - len(body)
        if body.startswith("- "):
            body, indent = body[2:], indent + 2
        if not body:
            continue
        if given := re.match(r"Given value: (.*)", body):
            for one in found:
                if one.indent > indent and not one.given:
                    one.given = given[1]
            continue
        if body.startswith(_NOISE):
            continue
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if key := re.match(r'Parser key "([^"]*)":\s*(.*)', body):
            stack.append((indent, key[1], ""))
            body = key[2]
            indent += 1
        elif owner := re.match(r"Problem with given class_path '([^']*)':\s*(.*)", body):
            stack.append((indent, owner[1].rsplit(".", 1)[-1], owner[1]))
            body = owner[2]
            indent += 1
        if inner := re.match(
            r"Type (?:typing|collections\.abc)\.Callable\[.* class: (.*)\. Got value: Namespace\(class_path='([\w.]+)'",
            body,
        ):
            stack.append((indent, inner[2].rsplit(".", 1)[-1], inner[2]))  # a function that makes a scheduler
            body = inner[1]
        if body:
            owners = [path for _, _, path in stack if path]
            keys = [name for _, name, path in stack if not path]
            where = [name for _, name, _ in stack]
            found.append(_Finding(where, body, indent, owners[-1] if owners else "", keys=keys))
    yield from found


def _readable(where: list[str]) -> list[str]:
    """The path without what stands for a class that nobody has named."""
    return [name for name in where if name not in ("Optimizer", "Module", "LRScheduler", "Callback")]


def _said(finding: _Finding, beside: list[_Finding]) -> str:
    """What is wrong, in words."""
    text, key = finding.text, finding.keys[-1] if finding.keys else ""
    if fault := structure_fault(_value(finding.given)):
        return fault
    if found := re.match(r"Option '([^']*)' is not accepted", text):
        return _no_option(finding, found[1])
    if fault := base_fault(finding.owner):
        return fault
    if found := re.match(r"the following arguments are required: (.*)", text):
        name, place = finding.owner.rsplit(".", 1)[-1], ".".join(finding.keys)
        first = found[1].split(",")[0]
        return f"{name} needs {found[1]} (under init_args in YAML, --{place}.{first}=... on the command line)"
    if found := re.match(r"unrecognized arguments: --([^\s=]+)(?:[\s=]+(.*))?", text, re.S):
        return _inside_a_chain(finding, found[1], found[2] or "...")
    if found := re.match(r"No module named '([\w.]*)'", text):
        path = re.search(rf"\b{re.escape(found[1])}\.[\w.]+", f"{finding.owner} {finding.given}")
        way_out = _alone(path[0], key) if path else ""
        return f"a class cannot be imported: there is no Python module {found[1]!r}{way_out}"
    if found := re.match(r"Expected a dot import path string: '?(.*?)'?$", text):
        words = [word for one in beside for word in re.findall(r"'(\w+)'", one.text) if "Literal" in one.text]
        return no_class(found[1], key, words)
    if found := re.match(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{found[1]} is no {_kind_of(key).lower()}{_instead(found[1], key)}"
    if found := re.match(r"'list' object has no attribute 'keys'", text):
        return "init_args are settings by name, as in init_args: {lr: 0.1}, and not a list"
    if found := re.match(
        r"Multiple subclasses with name (\w+)\. Give the full class path to avoid ambiguity: (.*)", text
    ):
        return f"several classes are called {found[1]}; write one of {found[2].rstrip('.')}"
    if found := re.match(r"(?:tz\.m has no module|module '[^']*' has no attribute) '(\w+)'", text):
        return (
            f"there is no {finding.owner}{alone}" if (alone := _alone(finding.owner, key)) else no_class(found[1], key)
        )
    if key == "optimizer" and isinstance(_value(finding.given), list):
        return f"an optimizer is one class; a list of modules is {_CHAIN}"
    if finding.only_type or text.startswith("Expected a"):
        return _wrong_type(finding, beside)
    if found := re.search(r"Callable\[.*Expected an import path or a subclass spec, but got (.*?)\. Got value", text):
        kind = _kind_of(key).lower()
        return f"{_a(kind)} is a name or {{class_path: NAME, init_args: {{...}}}}, and not {found[1]}"
    if text.startswith("File does not exist"):
        return text
    return " ".join(text.split())


#: How a list of modules is written.
_CHAIN = "{class_path: ModularChain, init_args: {modules: [...]}}"


def _alone(path: str, key: str) -> str:
    """What to say of a path whose last name is known by itself; "" where it is not."""
    known = same(path.rsplit(".", 1)[-1], names_of(key))
    return f"; write {known} alone" if known else ""


def _wrong_type(finding: _Finding, beside: list[_Finding]) -> str:
    """What was expected, where the types alone say what is wrong."""
    kinds: list[str] = []
    for one in beside:
        if found := re.match(r"Expected a <class '(?:[\w.]*\.)?(\w+)'>", one.text):
            kinds.append(_KINDS.get(found[1], f"a {found[1]}"))
        elif found := re.match(r"Expected a typing\.Literal\[(.*?)\]", one.text):
            kinds.append(f"one of {found[1]}")
        elif found := re.match(r"Not a valid subclass of (\w+)", one.text):
            kinds.append(f"a {found[1]}")
    value = next((v[1] for one in beside if (v := re.search(r"Got value: (.*)", one.text))), finding.given)
    kinds = [kind for kind in dict.fromkeys(kinds) if kind != "null"] or kinds
    nested = re.match(r"NestedArg\(key='([^'.]*)\.([^']*)', val='?(.*?)'?\)$", finding.given)
    if nested and finding.keys[-1:] == ["groups"]:
        return f"a group is written as a whole, --{'.'.join(finding.keys)}.{nested[1]}='{{{nested[2]}: {nested[3]}}}'"
    if value.startswith("NestedArg"):
        value = value.partition("val=")[2].rstrip(")").strip("'")
    if kinds == ["a list"] and finding.keys[-1:] == ["modules"] and same(value, catalogue.modules()):
        option = f"--{'.'.join(finding.keys)}"
        return f"expected a list, got {value}; write {option}+={value} for each module, or {option}='[{value}, ...]'"
    return f"expected {' or '.join(kinds)}, got {value}"


def _inside_a_chain(finding: _Finding, option: str, value: str) -> str:
    """What to say of an option that reaches for a module within a chain, which only groups can."""
    head, _, setting = option.replace("init_args.", "").rpartition(".")
    path = f"{head}.{setting}" if same(head.split(".")[0], catalogue.modules()) else setting
    last = finding.owner.rsplit(".", 1)[-1]
    of_last = f" of the last module, {last}" if last != "ModularChain" else ""
    return (
        f"{option!r} is no setting{of_last}. Any module's is set by --optimizer.groups='{{\"*\": {{{path}: {value}}}}}'"
    )


def _value(text: str) -> Any:
    """A value from its repr, where it is one of Python's own."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _no_option(finding: _Finding, option: str) -> str:
    """What to say of a setting that a class does not have."""
    cls = _class(finding.owner)
    name = finding.owner.rsplit(".", 1)[-1]
    first, key = option.split(".")[0], finding.keys[-1] if finding.keys else ""
    if name in ("Optimizer", "LRScheduler", "Module", "Callback"):
        kind, names = _kind_of(key).lower(), names_of(key)
        if known := first if first in names else same(first, names):
            return f"{_a(kind)} is written {{class_path: {known}, init_args: {{...}}}}, not {{{first}: ...}}"
        return f"say which {kind} first, as in --{key}=NAME or class_path: NAME, and then its {first!r}"
    if fault := base_fault(finding.owner):
        return fault
    takes = parameters(cls)
    meant = _SYNONYMS.get(first)
    if cls is not None and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(cls).parameters.values()):
        hint = f"What it passes on stands in dict_kwargs: {{{first}: ...}}, beside init_args."
    elif meant in takes:
        hint = f"Did you mean {meant}?"
    elif first == "betas" and "beta1" in takes:
        hint = ELSEWHERE[first]
    elif name == "ModularChain" and (owners := _with_setting(first)):
        most = f"{', '.join(owners[:3])}{', …' if owners[3:] else ''}"
        hint = f"It is a setting of modules ({most}): {{class_path: {owners[0]}, init_args: {{{first}: ...}}}}."
    elif first in ELSEWHERE and cls is not None and issubclass(cls, tz.Module):
        hint = unknown_option(name, {first: _nested(finding.given)}, takes)
    else:
        hint = did_you_mean(first, takes, 2).strip() or f"It takes {', '.join(takes) or 'nothing'}."
    return f"{name} has no setting {first!r}. {hint}"


def _with_setting(setting: str) -> list[str]:
    """The modules that have a setting; first the one that is there for it, and those that have the fewest others."""
    owners = {name: takes for name, cls in catalogue.modules().items() if setting in (takes := parameters(cls))}
    return sorted(owners, key=lambda name: (same(setting, [name]) is None, len(owners[name]), name))


#: What settings are called elsewhere.
_SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay", "decay": "weight_decay", "mu": "momentum", "epsilon": "eps"}


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _nested(given: str) -> Any:
    found = re.search(r"val='([^']*)'", given)
    return _value(found[1]) if found else "..."


def parameters(cls: Any) -> list[str]:
    """The names that the constructor of a class takes from a configuration."""
    if cls is None:
        return []
    found = inspect.signature(cls).parameters.values()
    hidden = ("params", "optimizer", "self", "last_epoch") if issubclass(cls, (Optimizer, LRScheduler)) else ()
    return [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in hidden]


def _class(path: str) -> Any:
    home, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


# -- names of classes --------------------------------------------------------------------------------------------------
#: What an option takes: how that is called, and the class that all of it comes from.
_BASES: dict[str, tuple[str, tuple[type, ...]]] = {
    "optimizer": ("Optimizer", (Optimizer,)),
    "parts": ("Optimizer", (Optimizer,)),
    "lr_scheduler": ("Scheduler", (LRScheduler, ReduceLROnPlateau)),
    "scheduler": ("Scheduler", (LRScheduler,)),
    "schedulers": ("Scheduler", (LRScheduler,)),
    "callbacks": ("Callback", (Callback,)),
    "logger": ("Logger", (Logger,)),
    "model": ("Model", (LightningModule,)),
    "data": ("Data module", (LightningDataModule,)),
    "rule": ("Stopping rule", (StoppingRule,)),
    "rules": ("Stopping rule", (StoppingRule,)),
}


def _kind_of(key: str) -> str:
    return _BASES.get(key.rsplit(".", 1)[-1].rstrip("+"), ("Module", ()))[0]


def names_of(key: str) -> list[str]:
    """The short names of the classes that an option takes.

    Args:
        key: the option.

    Example:
        >>> "adamw" in names_of("optimizer"), "Adam" in names_of("modules")
        (True, True)
    """
    bases = _BASES.get(key.rsplit(".", 1)[-1].rstrip("+"), ("", ()))[1]
    if not bases:
        return list(catalogue.modules())
    found = {cls.__name__ for base in bases for cls in _subclasses(base) if not cls.__name__.startswith("_")}
    return sorted(found - {*_BASES_OF_OTHERS, *_SPELLED, "Callback", "LightningDataModule", "ClosureModule"})


#: Optimizers that a configuration spells otherwise.
_SPELLED = {
    "Modular": "ModularChain, with modules: [{class_path: Adam}, ...] under init_args",
    "Split": "SplitOptimizer, with parts: {hidden_matrices: muon, rest: adamw}",
}
#: Classes that stand among the optimizers and schedulers, and are none.
_BASES_OF_OTHERS = ("Optimizer", "Wrapper", "LRScheduler")


def base_fault(path: str) -> str:
    """What is wrong with a class that can be imported, and yet not be taken; "" where nothing is.

    Args:
        path: of the class.

    Example:
        >>> base_fault("torchzero_core.core.Transform")
        'Transform is no module by itself; it is there to be derived from'
        >>> base_fault("torchzero_core.core.Modular")[:48]
        'Modular: a configuration spells it ModularChain,'
    """
    cls = _class(path)
    name = getattr(cls, "__name__", "")
    home = getattr(cls, "__module__", "").split(".")[0]
    if cls is None or home not in ("torch", "torchzero_core"):
        return ""
    if issubclass(cls, Optimizer) and name in _SPELLED:
        return f"{name}: a configuration spells it {_SPELLED[name]}"
    of_others = issubclass(cls, (Optimizer, LRScheduler)) and name.strip("_") in _BASES_OF_OTHERS
    of_modules = issubclass(cls, tz.Module) and cls not in catalogue.modules().values() and cls is not tz.Chain
    if not (of_others or of_modules):
        return ""
    kind = "module" if of_modules else "optimizer" if issubclass(cls, Optimizer) else "scheduler"
    return f"{name} is no {kind} by itself; it is there to be derived from"


def faults_of_classes(value: Any, where: str) -> Iterator[str]:
    """What is wrong with classes that a configuration names and that can be imported.

    Args:
        value: a part of the configuration as jsonargparse has read it.
        where: the path to it.
    """
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from faults_of_classes(one, where)
        return
    settings = value if isinstance(value, Mapping) else vars(value) if isinstance(value, Namespace) else {}
    if isinstance(path := settings.get("class_path"), str) and (fault := base_fault(path)):
        yield f"{where}: {fault}"
    for key, inner in settings.items():
        yield from faults_of_classes(inner, where if key in _BESIDE else f"{where}: {key}")


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def no_class(name: str, key: str, words: Iterable[str] = ()) -> str:
    """What to say of a class that there is not.

    Args:
        name: as it was written.
        key: the option that it was written for.
        words: what else the option may be.

    Example:
        >>> no_class("Adamm", "modules")
        "no module is called 'Adamm'. Did you mean 'Adam', 'RAdam' or 'NAdam'?"
    """
    kind, known = _kind_of(key), names_of(key)
    if not name:
        return f"the name of the {kind.lower()} is missing"
    if found := re.match(r"(\w+)[(,; ]", name):
        return (
            f"{name!r} is no name. Each {kind.lower()} is named alone, as {found[1]}; its settings are its init_args."
        )
    bare = name.rsplit(".", 1)[-1]
    if words := list(words):
        options = [*words, *(n for n in known if n not in words)]
        known_words = " nor ".join(map(repr, words))
        return f"{name!r} is neither {known_words} nor a function with its path.{_quoted(bare, options)}"
    if "." in name and same(bare, known) is None:
        return f"{name!r} cannot be imported.{_quoted(bare, known)}"
    exact = same(bare, known)
    if exact is None and kind == "Module" and same(bare, _chains()):
        return f"{catalogue.getattr_message(bare)} In YAML write its modules one by one."
    hint = f" Did you mean {exact!r}?" if exact else _instead(bare, key) or _quoted(bare, known)
    return f"no {kind.lower()} is called {name!r}.{hint}".replace("..", ".")


def _chains() -> list[str]:
    return list(tz.m.CHAINS)


def _instead(name: str, key: str) -> str:
    """Where a class belongs that stands where another kind is wanted."""
    bare, kind = name.rsplit(".", 1)[-1], _kind_of(key)
    recipe = same(bare, tz.recipes.RECIPES)
    if kind == "Optimizer" and (module := same(bare, catalogue.modules())):
        way = f"the recipe {recipe!r}, or " if recipe else ""
        return f" {module} is a module; take {way}ModularChain with modules: [{{class_path: {module}}}]."
    if kind == "Module" and same(bare, names_of("optimizer")) and not hasattr(tz.m, bare):
        return f" It is an optimizer; {catalogue.getattr_message(bare)}"
    if kind == "Module" and hasattr(tz.m, bare):
        return f"; the module is called {bare} alone"
    return ""


def _quoted(name: str, known: Iterable[str]) -> str:
    found = near(name, known, 3)
    if not found:
        return ""
    *others, last = map(repr, found)
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


# -- the words of a command line ---------------------------------------------------------------------------------------
def _unknown_words(words: str, vocabulary: list[str]) -> str:
    """What to say of words that are no options."""
    first = words.split(" --")[0].strip()
    option = first.partition("=")[0]
    if " " in option and option.startswith("--"):
        name, _, rest = option.partition(" ")
        return f"{first!r} is one word in quotes; write {name}={rest}"
    if first in LightningCLI.subcommands():
        return (
            f"{first!r} is a command: it stands once, in front of all options, and only in a program that has commands"
        )
    if not option.startswith("-"):
        return f"{first!r} is no option; options begin with two hyphens, as in --trainer.max_epochs=3"
    if not option.startswith("--"):
        return f"there is no option {option}; options begin with two hyphens, as in -{first}"
    return f"there is no option {option}.{_near_option(option.removeprefix('--'), vocabulary, '--')}"


def _near_option(option: str, vocabulary: list[str], prefix: str = "") -> str:
    """The options that are most like one."""
    tops = sorted({name.split(".")[0] for name in vocabulary})
    head, dot, _ = option.partition(".")
    if dot and head in tops:
        inside = [name for name in vocabulary if name.startswith(f"{head}.")]
        return did_you_mean(option, inside, 2, 0.5, prefix) or f" There are {', '.join(inside[:8])}."
    if dot and (found := near(head, tops, 1)):
        return f" Did you mean {prefix}{found[0]}.{option[len(head) + 1 :]}?"
    settings = [*_SYNONYMS, *_SYNONYMS.values()]
    inside = [name for name in vocabulary if name.rpartition(".")[2] == option]
    if option in settings:
        inside = [f"optimizer.{_SYNONYMS.get(option, option)}"]
    if inside:
        return f" Did you mean {prefix}{inside[0]}?"
    return did_you_mean(head, tops, 1, 0.5, prefix) or f" There are {', '.join(tops)}."


# -- the structure of a configuration ----------------------------------------------------------------------------------
def trainer_fault(value: Any) -> str:
    """What is wrong with how the options of the Trainer are written; "" where nothing is.

    Args:
        value: what stands under ``trainer``.

    Example:
        >>> trainer_fault({"callbacks": {"UpdateNormMonitor": {"per_layer": True}}})
        'trainer.callbacks: a list of {class_path: NAME, init_args: {...}}, and not of UpdateNormMonitor: ...'
    """
    if value is not None and not isinstance(value, (Mapping, str)):
        return f"trainer: options by name, as in max_epochs: 3, and not {value!r}"
    callbacks = value.get("callbacks") if isinstance(value, Mapping) else None
    for one in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(one, Mapping) and not any(key in one for key in _BESIDE):
            strange = f"of {next(iter(one))}: ..." if one else "{}"
            return f"trainer.callbacks: a list of {{class_path: NAME, init_args: {{...}}}}, and not {strange}"
    return ""


def structure_fault(value: Any, where: str = "") -> str:
    """What is wrong with how classes are written in a configuration; "" where nothing is.

    Args:
        value: the configuration, or a part of it.
        where: the path to it.

    Example:
        >>> structure_fault({"optimizer": {"class_path": "adamw", "lr": 0.1}})
        "optimizer: 'lr' belongs under init_args: {class_path: adamw, init_args: {lr: ...}}"
        >>> structure_fault({"optimizer": {"class_path": "adamw", "init_arg": {"lr": 0.1}}})
        "optimizer: 'init_arg' stands beside class_path. Did you mean 'init_args'?"
    """
    path = f"{where}: " if where else ""
    if isinstance(value, list):
        faults = (structure_fault(v, where) for v in value)
        return next((fault for fault in faults if fault), "")
    if not isinstance(value, Mapping):
        return ""
    if "class_path" in value:
        if fault := _class_fault(value):
            return f"{path}{fault}"
    elif wrong := next((k for k in value if isinstance(k, str) and near(k, ["class_path"], 1, 0.8)), None):
        return f"{path}{wrong!r} is not known. Did you mean 'class_path'?"
    for key, inner in value.items():
        name = where if key in _BESIDE else str(key) if not where else f"{where}.{key}"
        if fault := structure_fault(inner, name):
            return fault
    return ""


def _class_fault(value: Mapping[Any, Any]) -> str:
    name = value["class_path"]
    if not isinstance(name, str):
        return f"class_path is the name of a class, not {name!r}"
    strange = [str(key) for key in value if key not in _BESIDE]
    if strange:
        first = strange[0]
        if near(first, ["init_args"], 1, 0.7):
            return f"{first!r} stands beside class_path. Did you mean 'init_args'?"
        if first in _SCHEDULING:
            return f"{first!r} is an option of its own: {_SCHEDULING[first]}: {value[first]}"
        return f"{first!r} belongs under init_args: {{class_path: {name}, init_args: {{{first}: ...}}}}"
    args = value.get("init_args")
    if args is not None and not isinstance(args, Mapping):
        return f"init_args of {name} are settings by name, as in init_args: {{lr: 0.1}}, not {args!r}"
    if number := next((key for key in args or () if isinstance(key, (int, float)) and not isinstance(key, bool)), None):
        return f"{number!r} among the settings of {name} is no name; decimals have a point, as in 0.{number}"
    return ""


#: What Lightning's dictionaries of schedulers have beside the scheduler.
_SCHEDULING = {"interval": "lr_interval", "frequency": "lr_frequency"}


def last_frame(error: BaseException) -> FrameType | None:
    """Where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame


def raised_in(error: BaseException, package: str) -> bool:
    """Whether an error was raised by a line of a package, and not by what it calls."""
    frame = last_frame(error)
    return frame is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(f"{package}.")


def scheduler_of(error: BaseException) -> LRScheduler | None:
    """The scheduler of torch that has raised an error itself; None where none has."""
    frame = last_frame(error)
    found = frame.f_locals.get("self") if frame is not None and raised_in(error, "torch.optim.lr_scheduler") else None
    return found if isinstance(found, LRScheduler) else None


def said_in_training(error: Exception) -> str | None:
    """What ends a training with a sentence: what was raised of options, and not by the model.

    Args:
        error: what has ended it.

    Returns:
        None of anything else, whose traceback is wanted.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MisconfigurationException):  # of Lightning, or of a callback, about the options
        return text
    if isinstance(error, FileNotFoundError) and "heckpoint" in text:
        return f"ckpt_path: {text}"
    if found := re.match(r"SaveConfigCallback expected (.+) to NOT exist", text):
        return (
            f"{found[1]} is there already, of an earlier run: delete it, or write elsewhere, "
            "--trainer.default_root_dir=..."
        )
    if (scheduler := scheduler_of(error)) is not None:
        return f"lr_scheduler: {type(scheduler).__name__}: {text or type(error).__name__}"
    if raised_in(error, "lightning.pytorch.callbacks") and isinstance(error, (RuntimeError, ValueError)):
        return f"trainer.callbacks: {text}"
    return None


def refusal(error: BaseException) -> str:
    """What a class said that could not be made, with the option and the name of the class.

    Args:
        error: the exception that Lightning passed on.
    """
    trace, made = error.__traceback__, cast(Any, None)
    while trace is not None:
        made = trace.tb_frame.f_locals.get("args_class", made)
        trace = trace.tb_next
    text, name = " ".join(str(error).split()), getattr(made, "__name__", "")
    if "`cycle_momentum` option" in text:
        text = "the optimizer has no momentum that could be cycled; set cycle_momentum: false"
    inner = type(scheduler_of(error)).__name__
    if scheduler_of(error) is not None and inner != name:
        text = f"{inner}: {text}"
    option = "lr_scheduler" if isinstance(made, type) and issubclass(made, LRScheduler) else "optimizer"
    return f"{option}: {text}" if not name or text.startswith(name) else f"{option}: {name}: {text}"


__all__ = [
    "base_fault", "faults_of_classes", "names_of", "no_class", "parameters", "raised_in", "refusal", "said_in_training",
    "short_error", "structure_fault", "trainer_fault",
]  # fmt: skip
