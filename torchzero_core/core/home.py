"""Where the modules of one optimizer live: what they may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from ..engine import Home as EngineHome


class Home(EngineHome, Protocol):
    """The optimizer, as its modules and a step see it."""

    param_groups: list[dict[str, Any]]
    lr_scales_update: bool
    modules: tuple[Any, ...]
    _watchers: dict[int, Callable[[str, list[Tensor]], None]]
    _evaluations: Any

    @property
    def all_params(self) -> list[Tensor]:
        """The parameters of all groups."""

    @property
    def watched(self) -> bool:
        """Whether somebody looks at the update of each module."""

    def group_index(self, param: Tensor) -> int:
        """The number of the group a parameter is in."""

    def host_param(self, param: Tensor) -> Tensor:
        """The parameter that a stand-in stands for; a parameter itself."""

    def alias(self, fake: Tensor, real: Tensor, prefix: str) -> None:
        """Let a stand-in keep its state with a real parameter, under a prefix."""

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """Where the state of a parameter or stand-in is kept: a dict and a prefix."""

    def first_param(self, module: Any) -> Tensor:
        """The parameter with which module-wide state is kept."""

    def stores(self) -> list[dict[str, Any]]:
        """The state dicts of all parameters."""

    def same_list(self, params: list[Tensor]) -> list[Tensor]:
        """The same list object for the same parameters."""

    def keep(self, params: list[Tensor]) -> None:
        """Copy parameters that are about to be moved in the middle of a step."""

    def adopt(self, module: Any, parent: Any, name: str) -> None:
        """Make a module and its children part of this optimizer."""

    def invalidate(self) -> None:
        """Forget what was resolved."""
