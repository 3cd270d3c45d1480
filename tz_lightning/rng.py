"""Random generators in checkpoints."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from . import compat


class RNGCheckpoint(Callback):
    """Saves the global random generators with checkpoints, so that a run goes on with the numbers that were to come.

    Those of Python, numpy and torch, on the CPU and on all CUDA devices: dropout, noise, and the order of a shuffled
    ``DataLoader`` are then those of the run that was not interrupted. In the middle of an epoch that also takes a
    loader which itself can be resumed (one with ``state_dict``). Generators of modules of a chain are part of its state
    anyway. What worker processes of a loader draw follows from its seed, which comes from torch's generator.

    Each process saves and loads its own CUDA devices; the checkpoint is that of rank 0.

    Example:
        >>> from tz_lightning import RNGCheckpoint
        >>> sorted(RNGCheckpoint().state_dict())
        ['cuda', 'mid_epoch', 'numpy', 'python', 'torch']
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note whose epochs are meant."""
        self._trainer = trainer

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget them."""
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        """The states of all generators, as tensors and plain values."""
        name, keys, *rest = np.random.get_state()  # noqa: NPY002
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "mid_epoch": self._trainer is not None and compat.mid_epoch(self._trainer),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have them put back when the training begins."""
        self._loaded = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them back before the loader draws its order."""
        if self._loaded is not None:
            _restore(self._loaded)
            if not self._loaded["mid_epoch"]:
                self._loaded = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In the middle of an epoch: put them back once more, now that the loader has drawn its order."""
        if self._loaded is not None:
            _restore(self._loaded)
            self._loaded = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_trainer": None}


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator.cpu(), device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
