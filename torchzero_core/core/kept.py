"""What modules that are no rules keep: it is declared, and checked where it is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

#: What the name of a state starts with that is the position of a random generator on a device.
POSITION = "generator:"


class StateKind(Enum):
    """The kind of a state that a module writes itself, as ``kept = {"radius": StateKind.POSITIVE}`` in its class."""

    COUNT = "a whole number from 0 on"
    POSITIVE = "a positive number"
    NUMBER = "a number"
    TRUTH = "True or False"
    SEEDS = "a list of whole numbers"
    VALUES = "a tensor of floating point numbers"
    LIST = "a list of tensors of floating point numbers"
    WHOLE = "a tensor of whole numbers"
    MASK = "a tensor of truth values"
    POSITION = "the position of a random generator"
    #: Nothing is known of it here.
    OTHER = "what its module can load"

    def taken(self, name: str, value: Any) -> Any:
        """A value that was loaded as the module reads it; numbers may come in tensors.

        Args:
            name: of the state.
            value: what was loaded.

        Raises:
            ValueError: it is none of this kind.
        """
        if self in _NUMBERS and isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
            value = value.item()
        if not _FITS[self](value):
            what = f"of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else repr(value)[:60]
            count = "a count" if self is StateKind.COUNT else self.value
            raise ValueError(f"The state {name!r} is {count} and not {what}: the state dict is damaged.")
        return int(value) if self is StateKind.COUNT else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_position(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.uint8 and value.ndim == 1 and value.numel() > 0


_NUMBERS = {StateKind.COUNT, StateKind.POSITIVE, StateKind.NUMBER, StateKind.TRUTH}
_FITS: Mapping[StateKind, Callable[[Any], bool]] = {
    StateKind.COUNT: lambda v: _is_number(v) and math.isfinite(v) and v >= 0 and v == int(v),
    StateKind.POSITIVE: lambda v: _is_number(v) and 0 < v < math.inf,
    StateKind.NUMBER: _is_number,
    StateKind.TRUTH: lambda v: isinstance(v, bool) or v in (0, 1),
    StateKind.SEEDS: lambda v: isinstance(v, (list, tuple)) and all(_is_number(n) and n == n // 1 >= 0 for n in v),
    StateKind.VALUES: _is_floating,
    StateKind.LIST: lambda v: isinstance(v, (list, tuple)) and all(map(_is_floating, v)),
    StateKind.WHOLE: lambda v: isinstance(v, Tensor) and v.dtype in (torch.int64, torch.int32),
    StateKind.MASK: lambda v: isinstance(v, Tensor) and v.dtype is torch.bool,
    StateKind.POSITION: _is_position,
    StateKind.OTHER: lambda v: True,
}


def kept_of(cls: type) -> dict[str, StateKind]:
    """What the modules of a class declare that they keep, their bases included.

    Args:
        cls: the class.
    """
    out: dict[str, StateKind] = {}
    for base in reversed(cls.__mro__):
        out.update(dict.fromkeys(vars(base).get("vectors", ()), StateKind.VALUES))
        out.update(vars(base).get("kept", {}))
    return out
