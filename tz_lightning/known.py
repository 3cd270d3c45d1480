"""What a deterministic loss was where a step ended, so that the next one need not evaluate it again."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.memory import recursive_detach
from torch import Tensor, nn
from torch.optim import Optimizer

from torchzero_core.core import Modular
from torchzero_core.core.graphless import Graphless
from torchzero_core.optim import Split

from .hooked import Hooked
from .outside import Outside
from .side_effects import Keeper


@dataclass
class Point:
    """An evaluation.

    Attributes:
        values: of the parameters.
        loss: the loss.
        grads: its gradients.
        output: what the training step returned, without its graph.
        logged: what it logged.
        quiet: whether it did nothing but log.
    """

    values: list[Tensor]
    loss: Tensor
    grads: list[Tensor | None]
    output: Any
    logged: list[Any]
    quiet: bool


class KnownPoints:
    """The latest evaluation with gradients, and the best of the others: where a step ends is nearly always one of them.

    Whether the loss is the same function at every step, as the user has said, is tried out once: the first point that
    could serve is evaluated nevertheless.

    Args:
        params: the parameters.

    Attributes:
        trusted: whether it was tried out.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self._params, self._points = list(params), list[Point]()
        self.trusted = self._refuted = False

    def note(self, loss: Tensor, output: Any, logged: list[Any], *, quiet: bool) -> None:
        """Remember an evaluation at the present point."""
        if self._refuted:
            return
        values = [p.detach().clone() for p in self._params]
        grads = [None if p.grad is None else p.grad.detach().clone() for p in self._params]
        self._points.sort(key=lambda point: float(point.loss))
        self._points[1:] = [Point(values, loss.detach().clone(), grads, recursive_detach(output), logged, quiet)]

    def recall(self) -> Point | None:
        """The evaluation at the present point, if there was one."""
        for point in self._points:
            if all(p.dtype == v.dtype and torch.equal(p, v) for p, v in zip(self._params, point.values, strict=True)):
                return point
        return None

    def compare(self, point: Point, loss: Tensor | None) -> None:
        """Look whether the loss is what it was.

        Args:
            point: an earlier evaluation at the same point.
            loss: the loss now.
        """
        old, new = float(point.loss), float("nan") if loss is None else float(loss)
        near = torch.finfo(point.loss.dtype).eps ** 0.5 * max(abs(old), abs(new))
        if abs(old - new) <= near or (old != old and new != new):
            self.trusted = True
            return
        self._refuted, self._points = True, []
        warnings.warn(
            f"deterministic=True, but at the same parameters the loss was {old:g} in one step and is {new:g} in the "
            "next one: dropout, other data in each step, or another source of chance. Every step now evaluates the "
            "loss where it starts, as without deterministic=True; remove it.",
            UserWarning,
            stacklevel=2,
        )


class Repeats:
    """Notices that each step starts with the loss that the one before has ended with, and says how that saves work.

    Nothing is left out without a word: a training step may depend on the epoch, on hooks and on whatever else, and that
    the loss has been the same so far does not say that it will be.
    """

    #: So many steps in a row have to start so, and so many steps are looked at.
    ENOUGH, MOST = 5, 30

    def __init__(self) -> None:
        self._ended: float | None = None
        self._same = self._steps = 0

    def note(self, optimizer: Optimizer) -> None:
        """Look at the last step of an optimizer."""
        if not isinstance(optimizer, Modular) or optimizer.deterministic is not None or self._steps >= self.MOST:
            return
        self._steps += 1
        info = optimizer.last_step
        started = None if info.loss is None else float(info.loss)
        self._same = self._same + 1 if started is not None and started == self._ended else 0
        self._ended = None if info.accepted_loss is None else float(info.accepted_loss)
        if self._same == self.ENOUGH:
            self._steps = self.MOST
            rank_zero_info(
                f"The loss at the start of {self._same} steps in a row was what the step before had ended with, to the "
                "last bit, as if all of the data were in one batch. If they are, say so with "
                "tz.Modular(..., deterministic=True), in YAML deterministic: true, and each step takes one evaluation "
                "less."
            )


class Memory:
    """What is remembered of an optimizer from one step to the next.

    Args:
        module: the model.
        optimizer: the raw optimizer.
        who: whose evaluations they are.

    Attributes:
        starts_with_gradients: whether the first evaluation of the next step will be asked for gradients, as far as is
            known: as that of the last one was.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, who: str) -> None:
        self.repeats, self.graphless, self.hooked = Repeats(), Graphless(), Hooked(optimizer)
        self.starts_with_gradients = not _starts_with_value(optimizer)
        self.keeper, self.outside = Keeper(module, optimizer), Outside(module, who)
        self.known: KnownPoints | None = None
        if isinstance(optimizer, Modular) and optimizer.deterministic:
            self.known = KnownPoints([p for group in optimizer.param_groups for p in group["params"]])


def _starts_with_value(optimizer: Optimizer) -> bool:
    """Whether an optimizer asks for no gradients at first, as far as can be told before it was stepped."""
    if isinstance(optimizer, Split):
        return all(map(_starts_with_value, optimizer.optimizers))
    return isinstance(optimizer, Modular) and optimizer.modules[0].starts_with_value
