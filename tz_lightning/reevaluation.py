"""Evaluating a training step again without its side effects."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

_ACTIVE: ContextVar[bool] = ContextVar("reevaluation", default=False)
#: What a metric remembers beside its states.
_METRIC_FIELDS = ("_update_count", "_computed", "_forward_cache", "_cache", "_is_synced")


def is_reevaluation() -> bool:
    """Whether the loss is evaluated again at another point of the same step.

    Only the first evaluation of a step logs, counts and changes buffers. Code with other side effects (it writes to a
    file, say) can ask.

    Example:
        >>> is_reevaluation()
        False
    """
    return _ACTIVE.get()


class Snapshot:
    """What an evaluation may change beside gradients: random generators, buffers, metrics.

    Args:
        module: the model.
    """

    def __init__(self, module: LightningModule) -> None:
        self.device = module.device
        self.random: tuple[Any, ...] = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
        self.cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.tensors: list[tuple[Tensor, Tensor]] = [(b, b.detach().clone()) for b in module.buffers()]
        self.fields: list[tuple[Metric, dict[str, Any]]] = []
        for metric in (m for m in module.modules() if isinstance(m, Metric)):
            fields = {k: vars(metric)[k] for k in _METRIC_FIELDS if k in vars(metric)}
            for name in metric._defaults:
                value = getattr(metric, name)
                fields[name] = list(value) if isinstance(value, list) else value
                if isinstance(value, Tensor):
                    self.tensors.append((value, value.detach().clone()))
            self.fields.append((metric, fields))

    def restore(self) -> None:
        """Put everything back. A tensor that is as it was is left alone: a graph may need it."""
        torch.set_rng_state(self.random[0])
        random.setstate(self.random[1])
        np.random.set_state(self.random[2])  # noqa: NPY002
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
        with torch.no_grad():
            for tensor, value in self.tensors:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for metric, fields in self.fields:
            for name, value in fields.items():
                setattr(metric, name, list(value) if isinstance(value, list) else value)


@contextmanager
def reevaluation(module: LightningModule, start: Snapshot) -> Iterator[None]:
    """Evaluate from the state of ``start``, without logging; afterwards everything is as it was before."""
    end = Snapshot(module)
    start.restore()
    token = _ACTIVE.set(True)
    own: dict[str, Any] = {name: vars(module)[name] for name in ("log", "log_dict") if name in vars(module)}
    attributes: dict[str, Any] = module.__dict__
    attributes.update(log=_ignore, log_dict=_ignore)
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del attributes[name]
        attributes.update(own)
        _ACTIVE.reset(token)
        end.restore()


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Instead of ``self.log``."""
