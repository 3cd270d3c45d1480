"""Chains from the command line and from YAML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from torchzero_core.core import Modular

from . import catalogue, parts, recipes  # what --optimizer adamw finds
from .chain import ModularChain, parameters_of
from .closure import ClosureOptimization
from .mistakes import (
    faults_of_classes,
    names_of,
    no_class,
    parameters,
    raised_in,
    refusal,
    said_in_training,
    short_error,
    structure_fault,
    trainer_fault,
)  # fmt: skip
from .schedule import ChainedScheduler, SequentialLR, WarmupCosine


class TwiceError(yaml.YAMLError):
    """A key that stands twice in one place of a configuration, of which YAML would take the last one.

    Args:
        key: the key.
        first: where it stands first.
        again: where it stands again.
    """

    def __init__(self, key: str, first: yaml.Mark, again: yaml.Mark) -> None:
        self.problem_mark = again
        self.fault = f"the key {key!r} stands twice" + (
            f", here and on line {first.line + 1}" if first.line != again.line else ""
        )
        super().__init__(self.fault)


def _refuse_twice(text: str) -> None:
    """Refuse a configuration in which a key stands twice."""
    nodes: list[yaml.Node] = [node for node in (yaml.compose(text, yaml.SafeLoader),) if node is not None]
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: dict[str, yaml.Mark] = {}
            for key, value in node.value:
                nodes.append(value)
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in keys:
                        raise TwiceError(key.value, keys[key.value], key.start_mark)
                    keys[key.value] = key.start_mark


def load_yaml(text: str) -> Any:
    """YAML as jsonargparse reads it, with the names of parameters as text: those of Split are words for truth values.

    Raises:
        yaml.YAMLError: it is no YAML, or a key stands twice in one place.

    Example:
        >>> load_yaml("{filter: hidden_matrices, true: {class_path: Muon}, false: null}")
        {'filter': 'hidden_matrices', 'true': {'class_path': 'Muon'}, 'false': None}
        >>> load_yaml("{lr: 1, lr: 2}")
        Traceback (most recent call last):
        tz_lightning.cli.TwiceError: the key 'lr' stands twice
    """
    if text.count(":") > 1:
        _refuse_twice(text)
    return spelled_out(_with_text_keys(jsonargparse.get_loader("yaml")(text)))


#: Schedulers of torch that are made of schedulers, which no configuration can give, and those that stand for them.
_COMPOSED = {
    f"{place}{cls.__name__}": f"{cls.__module__}.{cls.__name__}"
    for cls in (SequentialLR, ChainedScheduler)
    for place in ("", "torch.optim.lr_scheduler.")
}


def spelled_out(value: Any) -> Any:
    """A configuration in which schedulers that are made of schedulers are those of this package.

    Settings of a class under which nothing stands are none.

    Args:
        value: the configuration, or a part of it.
    """
    if isinstance(value, str):
        return _COMPOSED.get(value, value)
    if isinstance(value, list):
        return [spelled_out(v) for v in value]
    if isinstance(value, dict):
        empty = ("init_args", "dict_kwargs") if "class_path" in value else ()
        return {k: spelled_out(v) for k, v in value.items() if v is not None or k not in empty}
    return value


def _with_text_keys(value: Any, names: bool = False) -> Any:
    if isinstance(value, list):
        return [_with_text_keys(v) for v in value]
    if not isinstance(value, dict):
        return value
    names = names or any(isinstance(k, str) for k in value)  # and not the keys of a dict of truth values
    return {
        str(k).lower() if names and isinstance(k, bool) else k: _with_text_keys(v, k == "init_args")
        for k, v in value.items()
    }


def _spelled_out_word(word: str) -> str:
    """A word of the command line, or an option with its value after "="."""
    option, equals, value = word.partition("=")
    return f"{option}={spelled_out(value)}" if equals and option.startswith("-") else spelled_out(word)


jsonargparse.set_loader("modular_yaml", load_yaml, (yaml.YAMLError,))


class ModularParser(LightningArgumentParser):
    """Says in one line what is wrong, instead of the whole usage and every type that did not fit."""

    def __init__(self, *args: Any, parser_mode: str = "modular_yaml", **kwargs: Any) -> None:
        super().__init__(*args, parser_mode=parser_mode, **kwargs)

    def parse_object(self, cfg_obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration that is given as a dict."""
        return super().parse_object(spelled_out(cfg_obj), *args, **kwargs)

    #: The names of the options of the program.
    vocabulary: Sequence[str] = ()
    #: The commands of the program, where this is the parser that they stand behind.
    commands: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Parse the words of a command line."""
        words = list(sys.argv[1:] if args is None else args)
        if (text := help_text(words)) is not None:
            print(text)
            sys.exit(0)
        if fault := _help_fault(words):
            self.error(fault)
        for file in _files(words):
            if fault := _fault_of(file):
                self.error(f"{file}{fault}")
        elsewhere = not words and (self.default_env or self.default_config_files)  # may say it all
        if self.commands and not elsewhere and (fault := _command_fault(words, self.commands, self.vocabulary)):
            self.error(fault)
        for word in words:
            if fault := _twice_in(word):
                self.error(fault)
        return super().parse_args([_spelled_out_word(word) for word in words], *rest, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and exit with status 2."""
        if not self.exit_on_error:  # a parser within a parser, which knows only a part of the path
            super().error(message, ex)
        program = self.prog.replace(" [options]", "")
        sys.stderr.write(f"{program}: error: {short_error(message, self.vocabulary)}\n(--help lists the options)\n")
        sys.exit(2)


def help_text(words: Sequence[str]) -> str | None:
    """What is shown for options such as ``--optimizer.help`` that choose among many classes: a line for each.

    Args:
        words: of the command line.

    Returns:
        None where nothing of the kind is asked for.
    """
    for place, word in enumerate(words):
        option, _, name = word.partition("=")
        if not option.startswith("--") or not option.endswith(".help"):
            continue
        after = words[place + 1] if place + 1 < len(words) else ""
        name = name or ("" if after.startswith("-") else after)
        key = option.removeprefix("--").removesuffix(".help").rsplit(".", 1)[-1]
        if name in catalogue.modules() and not (key == "optimizer" and name in names_of(key)):
            return catalogue.describe(name)
        if key == "optimizer" and name.rsplit(".", 1)[-1] in ("", "ModularChain"):
            return _help_of_optimizer(f"--{key}" if "." not in option.removesuffix(".help") else option[:-5], name)
        if key in ("modules", "module", "inner", "true", "false") and not name:
            return catalogue.listing()
        if key in ("lr_scheduler", "callbacks") and not name:
            return "\n".join(f"{name}" for name in names_of(key))
    return None


def _help_fault(words: Sequence[str]) -> str:
    """What is wrong with a name whose help is asked for, as in ``--optimizer.help=NAME``; "" where nothing is."""
    for word in words:
        option, _, name = word.partition("=")
        key = option.removeprefix("--").removesuffix(".help")
        known = key.rsplit(".", 1)[-1] in ("optimizer", "modules", "lr_scheduler", "callbacks")
        if option.endswith(".help") and known and name and "." not in name and name not in names_of(key):
            return f"{option}: {no_class(name, key)}"
    return ""


def _help_of_optimizer(option: str, name: str) -> str:
    settings = [
        f"A chain of modules: {option}=ModularChain, then module by module",
        f"  {option}.modules+=Adam {option}.modules.beta1=0.8 {option}.modules+=LR {option}.modules.lr=1e-3",
        f"{option}.modules.help=Adam tells about a module, {option}.help=adamw about a recipe. A chain also takes",
    ]
    takes = [n for n in parameters(ModularChain) if n != "modules"]
    settings += [f"  {option}.{n}: {t}" for n, t in catalogue.explanations(ModularChain).items() if n in takes]
    torch_s = [n for n in names_of("optimizer") if hasattr(torch.optim, n)]
    recipes_ = [f"Recipes, as in {option}=adamw {option}.lr=3e-4", *(f"  {line}" for line in catalogue.recipe_lines())]
    others = [] if name else ["", *recipes_, "", f"Of torch: {', '.join(torch_s)}"]
    return "\n".join([*settings, *others, "", "The modules by family:", "", catalogue.listing()])


def _files(words: Sequence[str]) -> list[str]:
    """The configuration files that a command line names."""
    found = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    return [*found, *(after for word, after in pairwise(words) if word in ("--config", "-c"))]


def _fault_of(file: str) -> str:
    """What is wrong with how a configuration file is written; "" where nothing is, or where there is no such file."""
    try:
        config = load_yaml(Path(file).read_text())
    except OSError:
        return ""
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        hint = " (a tab; YAML is indented with spaces)" if "\\t" in str(problem) or "any token" in str(problem) else ""
        fault = getattr(error, "fault", f"this is no YAML: {problem or error}{hint}")
        return f"{f', line {mark.line + 1}' if mark else ''}: {fault}"
    if not isinstance(config, dict):
        return f": a configuration is options by name, as in optimizer: adamw, and this is {config!r}"
    places = [config, *(config[name] for name in LightningCLI.subcommands() if isinstance(config.get(name), dict))]
    mine = ("optimizer", "lr_scheduler", "trainer")
    checked = ({name: place[name] for name in mine if name in place} for place in places)
    fault = next(
        (found for part in checked if (found := structure_fault(part) or trainer_fault(part.get("trainer")))), ""
    )
    return f": {fault}" if fault else ""


def _command_fault(words: Sequence[str], commands: Sequence[str], vocabulary: Sequence[str]) -> str:
    """What is wrong with where the command stands among its options; "" where nothing is.

    Args:
        words: of the command line.
        commands: the commands that there are.
        vocabulary: the names of their options.
    """
    place = next((i for i, word in enumerate(words) if word in commands), len(words))
    command = words[place] if place < len(words) else commands[0]
    tops = {name.partition(".")[0] for name in vocabulary} - {"config"}
    for word in words[:place]:
        if word.startswith("--") and word.lstrip("-").partition("=")[0].partition(".")[0] in tops:
            return f"{word} stands in front of the command that it belongs to; write {command} {word}"
    for file in _files(words[:place]):
        if found := next((key for key in _keys(file) if key in tops), None):
            return f"{file} has options of a command, such as {found}; write {command} --config={file}"
    for file in _files(words[place:]):
        if found := next((key for key in _keys(file) if key in commands), None):
            return (
                f"{file} has its options under {found!r}, as a file in front of the command has; leave that line out, "
                f"or write --config={file} {found}"
            )
    return "" if words else f"say what to do, as in {commands[0]} --optimizer=adamw; there are {', '.join(commands)}"


def _keys(file: str) -> list[str]:
    """The keys on top of a configuration file; none where there is no such file, or no such keys."""
    try:
        config = load_yaml(Path(file).read_text())
    except (OSError, yaml.YAMLError):
        return []
    return list(config) if isinstance(config, dict) else []


def _twice_in(word: str) -> str:
    """What is said of a word of the command line in whose value a key stands twice; "" of any other."""
    option, _, value = word.partition("=")
    if value[:1] not in ("{", "["):
        option, value = "", word
    try:
        if value[:1] in ("{", "["):
            load_yaml(value)
    except TwiceError as error:
        return f"{option.lstrip('-')}: {error}" if option else str(error)
    except yaml.YAMLError:
        pass  # the parser says so
    return ""


class ModularCLI(LightningCLI):
    """A LightningCLI for chains.

    ``--optimizer ModularChain --optimizer.modules+=Adam --optimizer.modules.beta1=0.7`` builds a chain module by
    module; in YAML it is a list of ``class_path`` and ``init_args``. Modules go by their short names. Chains that
    evaluate the loss themselves run, since the CLI adds :class:`~tz_lightning.ClosureOptimization`.

    Whether a scheduler steps every "epoch" or every "step", which Lightning leaves to code, is ``--lr_interval``, with
    ``--lr_frequency`` beside it.
    """

    def __init__(self, *args: Any, trainer_defaults: dict[str, Any] | None = None, **kwargs: Any) -> None:
        defaults = dict(trainer_defaults or {})
        callbacks = defaults.get("callbacks", [])
        callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        defaults["callbacks"] = [*callbacks, ClosureOptimization()]
        kwargs.setdefault("parser_class", ModularParser)
        super().__init__(*args, **kwargs, trainer_defaults=defaults)  # type: ignore[misc]

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parsers, and tell each what options there are, for the sentence about one that there is not."""
        super().setup_parser(*args, **kwargs)
        if isinstance(self.parser, ModularParser):
            self.parser.commands = list(getattr(self, "_subcommand_parsers", {}))
        parsers = list(getattr(self, "_subcommand_parsers", {}).values())
        for parser in [*parsers, self.parser]:
            parser.vocabulary = list(
                (parsers[0] if parser is self.parser and parsers else parser).get_defaults().keys()
            )

    def instantiate_classes(self) -> None:
        """Instantiate the classes; a value that a constructor refuses ends the program with its sentence."""
        self._check_optimizer()
        self._check_classes()
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Does not validate" not in str(error):
                raise
            self._parser(self.subcommand).error(str(error), error)
        self._check_scheduler()

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            self._parser(self.subcommand).error(f"seed_everything: {error}", error)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer; a value that it refuses ends the program with its sentence."""
        try:
            trainer = super().instantiate_trainer(**kwargs)
            if trainer.accumulate_grad_batches < 1:
                raise ValueError(f"accumulate_grad_batches={trainer.accumulate_grad_batches} must be at least 1")
            return trainer
        except (ValueError, TypeError, MisconfigurationException) as error:
            if "Does not validate" in str(error) or (
                isinstance(error, TypeError) and not raised_in(error, "lightning")
            ):
                raise
            self._parser(self.subcommand).error(f"trainer: {' '.join(str(error).split())}", error)

    def _add_configure_optimizers_method_to_model(self, subcommand: str | None) -> None:
        try:
            with parameters_of(self.model):
                super()._add_configure_optimizers_method_to_model(subcommand)
        except (ValueError, TypeError, ImportError) as error:
            self._parser(subcommand).error(refusal(error), error)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if (sentence := said_in_training(error)) is None:
                raise
            self._parser(subcommand).error(sentence, error)

    def _check_optimizer(self) -> None:
        """Refuse a training without an optimizer."""
        own = is_overridden("configure_optimizers", self._model_class, LightningModule)
        if self.subcommand != "fit" or own or not self.auto_configure_optimizers or self.subclass_mode_model:
            return
        if self._get(self.config, "optimizer") is None:
            beside = " beside the lr_scheduler" if self._get(self.config, "lr_scheduler") is not None else ""
            self._parser(self.subcommand).error(
                f"there is no optimizer{beside}: give one, as in --optimizer=adamw --optimizer.lr=1e-3"
            )

    def _check_classes(self) -> None:
        """Refuse classes that no optimizer or scheduler can be made of."""
        for option in ("optimizer", "lr_scheduler"):
            for fault in faults_of_classes(self._get(self.config, option), option):
                self._parser(self.subcommand).error(fault)

    def _check_scheduler(self) -> None:
        """Refuse options of a scheduler that would do nothing."""
        parser, config = self._parser(self.subcommand), self.config_init
        interval, frequency = self._get(config, "lr_interval"), self._get(config, "lr_frequency")
        scheduler = self._get(config, "lr_scheduler")
        if frequency is not None and frequency < 1:
            parser.error(f"lr_frequency: {frequency} must be at least 1")
        if scheduler is None and (interval not in (None, "epoch") or frequency not in (None, 1)):
            parser.error("lr_interval and lr_frequency belong to an lr_scheduler, and there is none")
        own = type(self.model).configure_optimizers is not LightningModule.configure_optimizers
        if scheduler is not None and own and self.auto_configure_optimizers:
            parser.error(
                f"lr_scheduler: {type(self.model).__name__} has its own configure_optimizers, so it would do nothing"
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what concerns the scheduler; an override calls ``super().add_arguments_to_parser(parser)``."""
        parser.add_argument(
            "--lr_interval", type=Literal["epoch", "step"], default="epoch", help="When the lr_scheduler steps."
        )
        parser.add_argument("--lr_frequency", type=int, default=1, help="Every how many of these it steps.")

    def configure_optimizers(  # type: ignore[override]
        self, lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: Any = None
    ) -> Any:
        """The optimizer, told about the model, and the scheduler with its interval."""
        if isinstance(optimizer, Modular) and optimizer.model is None:
            optimizer.model = lightning_module
        if lr_scheduler is None:
            return optimizer
        if isinstance(lr_scheduler, WarmupCosine) and lr_scheduler.total is None:
            try:
                if (total := self._scheduler_steps()) is None:
                    raise ValueError("WarmupCosine: the training has no end, so total has to be given.")
                lr_scheduler.last(total)
            except ValueError as error:
                self._parser(self.subcommand).error(f"lr_scheduler: {error}", error)
        if isinstance(lr_scheduler, OneCycleLR):
            self._check_cycle(lr_scheduler)
        config = {
            "scheduler": lr_scheduler,
            "interval": self._get(self.config_init, "lr_interval"),
            "frequency": self._get(self.config_init, "lr_frequency"),
        }
        if hasattr(lr_scheduler, "monitor"):
            config["monitor"] = lr_scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _check_cycle(self, scheduler: OneCycleLR) -> None:
        """Refuse a cycle that is over before the training, which would end in an error there."""
        planned = self._scheduler_steps()
        if planned is not None and planned > scheduler.total_steps:
            unit = "epochs" if self._get(self.config_init, "lr_interval") == "epoch" else "steps"
            end = scheduler.total_steps * self._scheduler_frequency()
            self._parser(self.subcommand).error(
                f"lr_scheduler: OneCycleLR is over after {scheduler.total_steps} steps of its own, of which the "
                f"training makes {planned}: give it total_steps={planned}, or end the training, "
                f"--trainer.max_{unit}={end}"
            )

    def _scheduler_frequency(self) -> int:
        return self._get(self.config_init, "lr_frequency") or 1

    def _scheduler_steps(self) -> int | None:
        """How many steps the scheduler makes in the training; None where it has no end."""
        by_epoch = self._get(self.config_init, "lr_interval") == "epoch"
        total = self.trainer.max_epochs if by_epoch else self.trainer.estimated_stepping_batches
        if total is None or not 0 < total < float("inf"):
            return None
        return max(1, int(total) // self._scheduler_frequency())


__all__ = ["ModularCLI", "ModularChain", "parts", "recipes"]
