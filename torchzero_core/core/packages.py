"""Packages that not everybody has."""

from __future__ import annotations

import importlib
from typing import Any


def required(module: str, extra: str, who: str) -> Any:
    """An optional package.

    Args:
        module: what to import.
        extra: the extra that installs it.
        who: asks.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"{who} needs {package}, which is not installed: pip install 'torchzero-core[{extra}]'."
        ) from error


def is_ours(cls: type) -> bool:
    """Whether a class is the library's own, so that its steps are tested.

    Args:
        cls: the class.
    """
    return cls.__module__.startswith(_OURS)


#: What the names of the library's own modules begin with.
_OURS = f"{__name__.partition('.')[0]}."
