"""What is to be compared, read from YAML."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer

from torchzero_core.core.near import did_you_mean

from ..chain import ModularChain
from ..cli import ModularParser, load_yaml
from ..mistakes import short_error, structure_fault
from .problems import PROBLEMS

#: Whatever may stand at the top of the file, and what it may be.
KEYS = ("problem", "optimizers", "budget", "seeds", "lr", "lr_scheduler", "monitor", "mode", "check_every", "folder")
LIMITS = ("steps", "evaluations", "seconds")


@dataclass(frozen=True)
class Search:
    """Learning rates that Optuna chooses.

    Attributes:
        low: the least.
        high: the largest.
        trials: how many are tried.
    """

    low: float
    high: float
    trials: int


Rates = list[float] | Search | None


@dataclass
class Rival:
    """An optimizer that takes part.

    Attributes:
        name: as tables show it.
        spec: as the file has it, for what the run is known by.
        make: gives the optimizer of parameters.
        rates: the learning rates to try; None for its own.
    """

    name: str
    spec: Any
    make: Callable[[Iterable[Any]], Optimizer]
    rates: Rates


@dataclass
class Plan:
    """A comparison.

    Attributes:
        problem: makes the model, and the data where they come apart.
        rivals: the optimizers.
        budget: limits by name: steps, evaluations, seconds; a run ends at the first.
        seeds: of weights, order of the batches, and random chains.
        monitor: the logged value that decides; None for the training loss.
        maximise: whether more of it is better.
        check_every: validation after so many steps; None for each epoch.
        scheduler: makes the scheduler of an optimizer, which then steps with it; None for a constant learning rate.
        folder: where the results go; None to choose by the file's name.
        source: the file's data, for what a run is known by.
    """

    problem: Callable[[], tuple[LightningModule, LightningDataModule | None]]
    rivals: list[Rival]
    budget: dict[str, float]
    seeds: list[int]
    monitor: str | None = None
    maximise: bool = False
    check_every: int | None = None
    scheduler: Callable[[Optimizer], Any] | None = None
    folder: str | None = None
    source: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a file.

        Args:
            path: of the YAML file.

        Raises:
            ValueError: what is wrong with it, as a sentence.
        """
        try:
            return cls.of(load_yaml(path.read_text("utf-8")))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark else ""
            raise ValueError(f"{path} is no YAML{where}: {getattr(error, 'problem', None) or error}.") from error

    @classmethod
    def of(cls, data: Any) -> Plan:
        """The comparison that a file describes.

        Args:
            data: the content of the file.

        Raises:
            ValueError: what is wrong with it, as a sentence.
        """
        data = _table(data, "a comparison", KEYS)
        for key in ("problem", "optimizers", "budget"):
            if key not in data:
                raise ValueError(f"{key} is missing; a comparison has a problem, optimizers and a budget.")
        rates = _rates(data.get("lr"), "lr")
        rivals = data["optimizers"]
        if not isinstance(rivals, dict) or not rivals:
            raise ValueError("optimizers: names with an optimizer or a list of modules each, such as {mine: [Adam]}.")
        mode = data.get("mode", "min")
        if mode not in ("min", "max"):
            raise ValueError(f"mode: min or max, not {mode!r}.")
        every = data.get("check_every")
        scheduler = data.get("lr_scheduler")
        monitor = data.get("monitor")
        if monitor is None and mode == "max":
            raise ValueError("mode: max needs a monitor; the training loss is for less.")
        return cls(
            problem=_problem(data["problem"]),
            rivals=[_rival(str(name), spec, rates) for name, spec in rivals.items()],
            budget=_budget(data["budget"]),
            seeds=[_whole(seed, "seeds", 0) for seed in _list(data.get("seeds", [0]), "seeds")],
            monitor=None if monitor is None else str(monitor),
            maximise=mode == "max",
            check_every=None if every is None else _whole(every, "check_every", 1),
            scheduler=None
            if scheduler is None
            else _parse("lr_scheduler", "lr_scheduler", scheduler, LRSchedulerCallable),
            folder=data.get("folder"),
            source=data,
        )

    def key(self, rival: Rival, lr: float | None, seed: int) -> str:
        """What a run is known by: its optimizer, learning rate and seed, and a hash of all that it depends on.

        Args:
            rival: the optimizer.
            lr: the learning rate.
            seed: the seed.
        """
        shared = {key: self.source.get(key) for key in ("problem", "budget", "monitor", "check_every", "lr_scheduler")}
        whole = json.dumps([shared, rival.name, rival.spec, lr, seed], sort_keys=True, default=str)
        name = re.sub(r"[^A-Za-z0-9]+", "-", rival.name).strip("-")
        rate = "own" if lr is None else f"{lr:.4g}"
        return f"{name}_lr-{rate}_seed-{seed}_{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def _table(data: Any, what: str, keys: Iterable[str]) -> dict[str, Any]:
    """A mapping whose keys are known."""
    keys = tuple(keys)
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} is a table with {', '.join(keys)}, not {data!r}.")
    for key in data:
        if key not in keys:
            raise ValueError(
                f"{key!r} means nothing in {what}; it has {', '.join(keys)}.{did_you_mean(str(key), keys)}"
            )
    return dict(data)


def _list(value: Any, where: str) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError(f"{where}: the list is empty.")
    return values


def _number(value: Any, where: str) -> float:
    """A positive number; YAML takes 1e-3 for a word."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{where}: {value!r} must be a positive number.")
    return number


def _whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: {value!r} must be a whole number from {least} on.")
    return value


def _budget(data: Any) -> dict[str, float]:
    limits = _table(data, "budget", LIMITS)
    if not limits:
        raise ValueError("budget: at least one of steps, evaluations and seconds.")
    return {
        name: _number(value, f"budget: {name}") if name == "seconds" else _whole(value, f"budget: {name}", 1)
        for name, value in limits.items()
    }


def _rates(value: Any, where: str) -> Rates:
    if value is None:
        return None
    if isinstance(value, Mapping):
        search = _table(value, where, ("low", "high", "trials"))
        if set(search) != {"low", "high", "trials"}:
            raise ValueError(f"{where}: a search has low, high and trials, such as {{low: 1e-4, high: 1, trials: 10}}.")
        low, high = _number(search["low"], f"{where}: low"), _number(search["high"], f"{where}: high")
        if low >= high:
            raise ValueError(f"{where}: low={low:g} must be less than high={high:g}.")
        return Search(low, high, _whole(search["trials"], f"{where}: trials", 1))
    return sorted({_number(rate, where) for rate in _list(value, where)})


def _rival(name: str, spec: Any, rates: Rates) -> Rival:
    """An optimizer: a list of modules, or a class_path with init_args; ``lr`` beside them is its own sweep."""
    where = f"optimizers: {name}"
    kept = spec
    if isinstance(spec, Mapping) and "lr" in spec:
        spec = dict(spec)
        rates = _rates(spec.pop("lr"), f"{where}: lr")
    if isinstance(spec, Mapping) and "modules" in spec:
        more = _table(spec, where, [p for p in inspect.signature(ModularChain).parameters if p != "params"])
        spec = {"class_path": "tz_lightning.ModularChain", "init_args": more}
    elif isinstance(spec, list):
        spec = {"class_path": "tz_lightning.ModularChain", "init_args": {"modules": spec}}
    elif not isinstance(spec, (str, Mapping)):
        raise ValueError(f"{where}: a list of modules, or a class_path with init_args, not {spec!r}.")
    return Rival(name, kept, _parse(where, "optimizer", spec, OptimizerCallable), rates)


def _problem(data: Any) -> Callable[[], tuple[LightningModule, LightningDataModule | None]]:
    """A built-in problem by name, or a model and its data by their classes."""
    if isinstance(data, str):
        data = {"name": data}
    data = _table(data, "problem", ("name", "init_args", "model", "data"))
    if "name" in data:
        if {"model", "data"} & set(data):
            raise ValueError("problem: a name, or a model with its data, and not both.")
        return _built_in(str(data["name"]), data.get("init_args") or {})
    if "model" not in data:
        raise ValueError(f"problem: one of {', '.join(PROBLEMS)}, or a model by its class_path.")
    make_model = _instance("problem: model", "model", data["model"], LightningModule)
    make_data = (
        _instance("problem: data", "data", data["data"], LightningDataModule) if data.get("data") else lambda: None
    )
    return lambda: (make_model(), make_data())


def _built_in(name: str, init_args: Any) -> Callable[[], tuple[LightningModule, None]]:
    if name not in PROBLEMS:
        raise ValueError(
            f"problem: none is called {name!r}; there are {', '.join(PROBLEMS)}.{did_you_mean(name, PROBLEMS)}"
        )
    kind = PROBLEMS[name]
    init_args = _table(init_args, f"problem: {name}", inspect.signature(kind).parameters)
    try:
        kind(**init_args)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"problem: {name}: {error}") from error
    return lambda: (kind(**init_args), None)


def _parsed(
    where: str, option: str, spec: Any, kind: Any
) -> tuple[jsonargparse.ArgumentParser, jsonargparse.Namespace]:
    """A specification as a command line would take it for an option, and the parser."""
    if fault := structure_fault(spec):
        raise ValueError(f"{where}: {fault}")
    parser = ModularParser(exit_on_error=False)
    parser.add_argument(f"--{option}", type=kind)
    try:
        return parser, parser.parse_object({option: spec})
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ValueError(_sentence(where, option, error)) from error


def _parse(where: str, option: str, spec: Any, kind: Any) -> Any:
    """A function that makes what the specification says of its first argument."""
    parser, parsed = _parsed(where, option, spec, kind)
    try:
        return _instantiated(parser, parsed, option)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise ValueError(_sentence(where, option, error)) from error


def _instance(where: str, option: str, spec: Any, kind: type) -> Callable[[], Any]:
    """A function that makes an instance, anew each time."""
    parser, parsed = _parsed(where, option, spec, kind)
    return lambda: _instantiated(parser, parsed, option)


def _instantiated(parser: jsonargparse.ArgumentParser, parsed: jsonargparse.Namespace, option: str) -> Any:
    """What was parsed as an object; jsonargparse has given the method another name."""
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(parsed)[option]


#: What jsonargparse says of a class that is to be called: what is wrong, and then the class.
_CALLED = r"Type typing\.Callable\S.*? callable class: (.*)\. Got value: Namespace\(class_path='([\w.]+)'.*"


def _sentence(where: str, option: str, error: Exception) -> str:
    text = getattr(error, "message", None) or str(error)
    if found := re.search(_CALLED, text, re.S):
        inside = found[1].replace("\n", "\n    ")
        text = f"{text[: found.start()]}Problem with given class_path '{found[2]}':\n      {inside}"
    text = short_error(text).removeprefix(f"{option}: ").removeprefix("ModularChain: ")
    return f"{where}: {re.sub(r', --[^ ]+ on the command line', '', text)}"
