"""What the parts of an optimizer may ask of it, and the outcome of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..engine import Home as EngineHome
from ..engine import Segment
from .all_params import AllParams
from .graphless import Graphless
from .precision import Precision
from .watch import Watchers


@dataclass
class StepInfo:
    """The outcome of a step, readable as ``optimizer.last_step``.

    Attributes:
        evaluations: how often the closure was called.
        backward_evaluations: how many of these calls computed gradients.
        step_size: the step size that a line search or trust region chose; None without one.
        status: "ok", or what went wrong in a word or two (a search that failed, a loss that was not finite).
        loss: the loss at the start of the step; None without a closure.
        accepted_loss: the loss at the point that a line search or trust region accepted, where it has evaluated it.
        falling: a search has failed because the loss fell as far as it looked.
        uphill: the update that a line search was given leads uphill.
        retries: a line search has failed, and will try other step sizes at the next step.
    """

    evaluations: int = 0
    backward_evaluations: int = 0
    step_size: float | Tensor | None = None
    status: str = "ok"
    loss: Tensor | None = None
    accepted_loss: float | None = None
    falling: bool = False
    uphill: bool = False
    retries: bool = False


class Home(EngineHome, Protocol):
    """The optimizer, as its modules and a step see it.

    Attributes:
        param_groups: its groups.
        lr_scales_update: whether the lr of the groups scales the final update, for want of one LR module.
        modules: the chain.
        watchers: who looks at the modules while they run.
        model: the model it was given, or None.
        deterministic: whether the closure is the same function at every step; None where that is found out.
        graphless: evaluates the loss without a graph where only its value is wanted.
        precision: the dtypes that states are kept in.
    """

    precision: Precision

    param_groups: list[dict[str, Any]]
    lr_scales_update: bool
    modules: tuple[Any, ...]
    watchers: Watchers
    model: nn.Module | None
    deterministic: bool | None
    graphless: Graphless

    @property
    def all_params(self) -> AllParams:
        """The parameters of all groups, and all that is derived from them."""

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """Where the state of a parameter or stand-in is kept: a dict and a prefix."""

    def first_state(self) -> dict[str, Any]:
        """The dict that module-wide state is kept in: that of the first parameter."""

    def state_dicts(self) -> list[dict[str, Any]]:
        """The dicts that the state of all parameters is kept in."""

    def stages(self, chain: Any) -> list[Any]:
        """What a chain runs in turn."""

    def segment(self, rule: Any) -> Segment:
        """What runs a rule alone."""

    def replace_grads(self, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Put other gradients into ``p.grad``, until the closure is called again or the step ends."""

    def return_grads(self) -> None:
        """Put the user's gradients back."""

    def evaluated(self) -> None:
        """The closure has been called for the first time in this step, and may have changed settings."""

    def adopt(self, child: Any, parent: Any, name: str) -> None:
        """Make a module and its children part of this optimizer."""

    def drop_params(self) -> None:
        """Forget what was derived from the parameters."""
