"""Whether all processes train the same model."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import compat
from .hooks import check_interval


class RankDisagreement(RuntimeError):
    """Parameters differ between processes."""


class RankAgreement(Callback):
    """Checks that parameters are equal on all processes, bit for bit.

    Processes that average gradients start from the same parameters and make the same steps; where one decides from
    what it alone knows (its own batch, its own random numbers), they drift apart in silence. The training ends with an
    error that names the first parameter that differs, the processes, and by how much. With one process it does
    nothing. Parameters that are shared out over processes (FSDP) are left alone.

    Each check adds up the bits of every parameter and compares the sums; nothing large is sent.

    Args:
        every_n_steps: check every so many steps; also before the first one and at the end.
        buffers: look at buffers too, which processes have each for themselves unless they are synchronised.

    Raises:
        ValueError: an interval of less than one step.
        RankDisagreement: parameters differ.

    Example:
        >>> from tz_lightning import RankAgreement
        >>> RankAgreement(every_n_steps=100).every_n_steps
        100
    """

    def __init__(self, every_n_steps: int = 100, buffers: bool = False) -> None:
        check_interval(type(self).__name__, every_n_steps)
        self.every_n_steps, self.buffers = every_n_steps, buffers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what the training starts from."""
        self._check(trainer, pl_module, "before the first step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check where it is due."""
        step = compat.logging_step(trainer) + 1
        if step % self.every_n_steps == 0 and not compat.accumulates(trainer):
            self._check(trainer, pl_module, f"after step {step}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what has become of it."""
        self._check(trainer, pl_module, "at the end of the training")

    def _check(self, trainer: Trainer, module: LightningModule, when: str) -> None:
        if trainer.world_size == 1:
            return
        tensors = replicated(module, buffers=self.buffers)
        sums = torch.stack([bit_sum(t).to(trainer.strategy.root_device) for t in tensors.values()])
        found: Tensor = trainer.strategy.all_gather(sums)
        differ = (found != found[0]).any(0)
        if not bool(differ.any()):
            return
        place = int(differ.nonzero()[0])
        name, tensor = list(tensors.items())[place]
        values: Tensor = trainer.strategy.all_gather(tensor.detach().to(trainer.strategy.root_device))
        ranks = [r for r in range(len(values)) if found[r, place] != found[0, place]]
        gap = float((values.double() - values[0].double()).abs().max()) if not values.is_complex() else torch.nan
        raise RankDisagreement(
            f"RankAgreement: {when}, {name} is not the same on all processes: "
            f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, ranks))} and rank 0 differ by up to "
            f"{gap:.3g} ({int(differ.sum())} of {len(tensors)} tensors differ). Gradients are not averaged over the "
            "processes, or a step was decided from what one of them alone knows: its own loss, its own random numbers."
        )


def replicated(module: nn.Module, *, buffers: bool = False) -> dict[str, Tensor]:
    """The tensors of a model of which each process has all.

    Args:
        module: the model.
        buffers: those too.
    """
    found: dict[str, Tensor] = dict(module.named_parameters())
    if buffers:
        found |= dict(module.named_buffers())
    return {name: t for name, t in found.items() if not isinstance(t, DTensor) and t.layout is torch.strided}


def bit_sum(tensor: Tensor) -> Tensor:
    """A sum of all bits, each byte-wide or wider word with an odd factor of its place, modulo 2⁶⁴.

    Args:
        tensor: dense, of any dtype.

    Example:
        >>> a, b = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
        >>> [bool(bit_sum(a) == bit_sum(other)) for other in (b, a.clone(), a.flip(0))]
        [False, True, False]
    """
    flat = tensor.detach().contiguous().reshape(-1)
    width = flat.element_size()
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(width, torch.int64)
    words = flat.view(word) if width <= 8 else torch.view_as_real(flat).reshape(-1).view(torch.int64)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for part in words.split(1 << 22):  # in pieces, since each word becomes eight bytes
        places = 2 * torch.arange(len(part), device=part.device) + 1
        total = total * 31 + (part.to(torch.int64) * places).sum()
    return total
