"""What the engine asks of whoever uses it. It knows no optimizer, no module and no step beyond this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..distributed import Reductions
from .params import Params
from .transaction import Transaction


class Rounding(Protocol):
    """How parameters of less than 32 bits are moved."""

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether it is for parameters of a dtype."""

    def store(self, params: list[Tensor], values: list[Tensor]) -> None:
        """Write values of float32 to parameters."""

    def subtract(self, params: Sequence[Tensor], update: Sequence[Tensor]) -> None:
        """p ← p − u for parameters of any dtype."""


class Home(Protocol):
    """Where parameters live.

    Attributes:
        compile: whether rules run as generated kernels.
        settings_version: counts the changes of settings.
        distributed: what other ranks know.
        transaction: what has to be undone where the step fails.
    """

    compile: bool
    settings_version: int
    distributed: Reductions
    transaction: Transaction

    @property
    def rounding(self) -> Rounding | None:
        """What rounds new parameters; None: to the nearest."""

    def group_number(self, param: Tensor) -> int:
        """What sets apart parameters that the final scale may treat differently."""

    def final_scale(self, param: Tensor) -> float:
        """What the last update is multiplied by."""

    def warn_once(self, key: str, message: str) -> None:
        """A warning, once for each key."""


class Step(Protocol):
    """One step."""

    params: Params
    #: At the start of the step, where it was evaluated.
    loss: Tensor | None

    @property
    def grad(self) -> list[Tensor] | None:
        """The gradients if they were evaluated."""

    def get_grad(self) -> list[Tensor]:
        """The gradients."""

    def get_loss(self, backward: bool = False) -> Tensor:
        """The loss at the start of the step."""

    def run_child(self, module: Any, inputs: dict[int, Tensor]) -> dict[int, Tensor]:
        """The result of a module that is no rule, by the position of the parameter."""
