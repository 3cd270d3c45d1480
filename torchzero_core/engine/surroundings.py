"""What the engine asks of whoever uses it. It knows no optimizer, no module and no step beyond this."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ..distributed import Reductions


class Home(Protocol):
    """Where parameters live."""

    compile: bool
    version: int
    settings_version: int
    distributed: Reductions

    def group_number(self, param: Tensor) -> int:
        """What sets apart parameters that the final scale may treat differently."""

    def final_scale(self, param: Tensor) -> float:
        """What the last update is multiplied by."""

    def workspace(self, name: str, params: list[Tensor]) -> list[Tensor]:
        """Scratch tensors shaped like parameters."""

    def warn_once(self, key: str, message: str) -> None:
        """A warning, once for each key."""


class Step(Protocol):
    """One step."""

    params: list[Tensor]

    def get_grad(self) -> list[Tensor]:
        """The gradients."""

    def run_child(self, module: Any, inputs: dict[int, Tensor]) -> dict[int, Tensor]:
        """The result of a module that is no rule, by the position of the parameter."""
