"""The recipes as optimizers that a configuration file can name: ``optimizer: adamw``.

Each function of :mod:`torchzero_core.recipes` is a class here, a :class:`~tz_lightning.ModularChain` with the modules
of the recipe. Its constructor takes the parameters, what the recipe takes, and what a chain takes besides its modules.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import torchzero_core as tz
from torchzero_core.core.docstrings import explained
from torchzero_core.core.near import did_you_mean

from .chain import ModularChain

#: What a chain takes besides its parameters and modules.
_OPTIONS = [p for name, p in inspect.signature(ModularChain).parameters.items() if name not in ("params", "modules")]


def _constructor(name: str, recipe: Callable[..., Any]) -> Callable[..., None]:
    """A constructor with an explicit signature, which the command line reads."""
    chain_hints, hints = typing.get_type_hints(ModularChain.__init__), typing.get_type_hints(recipe)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(recipe).parameters.values()]
    options = [p.replace(annotation=chain_hints[p.name]) for p in _OPTIONS]
    me, first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), inspect.signature(ModularChain)
    params = first.parameters["params"].replace(annotation=Any)
    signature = inspect.Signature([me, params, *own, *options], return_annotation=None)
    names = [p.name for p in own]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        modules = recipe(**{key: values[key] for key in names})
        ModularChain.__init__(
            self, values["params"], modules, **{option.name: values[option.name] for option in _OPTIONS}
        )

    made: Any = __init__
    made.__signature__ = signature
    made.__annotations__ = {p.name: p.annotation for p in [params, *own, *options]} | {"return": None}
    made.__qualname__, made.__module__ = f"{name}.__init__", __name__
    return __init__


def _class(name: str, recipe: Callable[..., Any]) -> type[ModularChain]:
    """The class of a recipe."""
    doc = (inspect.getdoc(recipe) or "").split("\nExample:")[0].rstrip()
    options = explained(inspect.getdoc(ModularChain) or "")
    doc += ("" if "\nArgs:" in doc else "\n\nArgs:") + "".join(f"\n{options[option.name]}" for option in _OPTIONS)
    return type(
        name, (ModularChain,), {"__init__": _constructor(name, recipe), "__doc__": f"{doc}\n", "__module__": __name__}
    )


#: The classes by name.
CLASSES = {name: _class(name, recipe) for name, recipe in tz.recipes.RECIPES.items()}
globals().update(CLASSES)
__all__ = ["CLASSES", *CLASSES]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    hint = did_you_mean(name, CLASSES, prefix="tz_lightning.recipes.")
    raise AttributeError(f"tz_lightning.recipes has no {name!r}.{hint}")
