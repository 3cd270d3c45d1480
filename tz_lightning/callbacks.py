"""Callbacks that watch."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from torchzero_core.core import Modular
from torchzero_core.core.watch import WatchHandle

from . import compat


class UpdateNormMonitor(Callback):
    """Logs how large the updates are: of all parameters, and after each module of a chain.

    It logs ``norm/update`` (how far the parameters moved), ``norm/param`` (their norm before), ``norm/ratio`` of the
    two, ``norm/grad``, and for a chain ``norm/chain/<module>``, the norm of the update as each module passed it on.
    Between the steps that are logged it does nothing; at these the chain runs unfused and the parameters are copied.

    Args:
        every_n_steps: log every so many steps; None for the Trainer's ``log_every_n_steps``.
        layers: log ``norm/update/<parameter>`` for each parameter too.
        prefix: what the names start with.
    """

    def __init__(self, every_n_steps: int | None = None, layers: bool = False, prefix: str = "norm") -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"UpdateNormMonitor(every_n_steps={every_n_steps}) must be at least 1.")
        self.every_n_steps, self.layers, self.prefix = every_n_steps, layers, prefix
        self._before: list[Tensor] | None = None
        self._chain: dict[str, Tensor] = {}
        self._handles: list[WatchHandle] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note where the parameters are, and watch the chain."""
        every = self.every_n_steps or compat.log_every_n_steps(trainer)
        step = compat.logging_step(trainer) + 1
        if not trainer.loggers or not every or step % every or compat.accumulates(trainer):
            return
        self._before = [p.detach().clone() for p in pl_module.parameters()]
        self._handles = [o.watch(self._see) for o in trainer.optimizers if isinstance(o, Modular)]

    def _see(self, path: str, update: list[Tensor]) -> None:
        self._chain[path] = _norm(update)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log."""
        before = self._before
        if before is None:
            return
        names, params = zip(*pl_module.named_parameters(), strict=True)
        moved = [p.detach() - b for p, b in zip(params, before, strict=True)]
        update, size = _norm(moved), _norm(before)
        found = {"update": update, "param": size, "ratio": update / size}
        grads = [p.grad for p in params if p.grad is not None]
        if grads:
            found["grad"] = _norm(grads)
        found |= {f"chain/{path}": norm for path, norm in self._chain.items()}
        if self.layers:
            found |= {f"update/{name}": _norm([m]) for name, m in zip(names, moved, strict=True)}
        metrics = {f"{self.prefix}/{name}": float(value) for name, value in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=compat.logging_step(trainer))
        self._stop()

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._before, self._chain, self._handles = None, {}, []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no longer."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no longer."""
        self._stop()


def _norm(tensors: list[Tensor]) -> Tensor:
    """The norm of all floating point values."""
    found = [_values(t) for t in tensors if t.is_floating_point() or t.is_complex()]
    return torch.stack([n.abs() for n in torch._foreach_norm(found)]).norm() if found else torch.zeros(())


def _values(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor
