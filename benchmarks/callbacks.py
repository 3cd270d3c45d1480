"""What the callbacks that watch cost, as a share of the training: ``python -m benchmarks.callbacks``.

Medians of the processor time of a step, with one thread. A monitor that logs every so many steps is seen in both kinds
of steps of one run, those that it logs and the others.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import torchzero_core as tz
from tz_lightning import ClosureMonitor, ClosureOptimization, SkipNonFinite, UpdateNormMonitor

m = tz.m
Batch = list[Tensor]
#: The chains, as functions that make their modules.
CHAINS: dict[str, Callable[[], list[Any]]] = {
    "ClipNorm, Adam, WeightDecay, LR": lambda: [m.ClipNorm(1.0), m.Adam(), m.WeightDecay(0.01), m.LR(1e-3)],
    "LBFGS, StrongWolfe": lambda: [m.LBFGS(), m.StrongWolfe()],
}
#: Steps between two that are logged while it is measured, and in the table.
INTERVAL, LOGGED = 10, 50
#: What logs every so many steps.
MONITORS: dict[str, Callable[[int], Callback]] = {
    "UpdateNormMonitor": UpdateNormMonitor,
    "UpdateNormMonitor(per_module, per_layer)": lambda every: UpdateNormMonitor(every, True, True),
    "ClosureMonitor": lambda every: ClosureMonitor(every, progress_bar=False),
}


class Network(LightningModule):
    """Four layers.

    Args:
        chain: makes the modules.
        width: of the layers.
    """

    def __init__(self, chain: Callable[[], list[Any]], width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(width, width) for _ in range(4)]
        self.net = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
        self.chain = chain

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss."""
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> tz.Modular:
        """The chain."""
        return tz.Modular(self.net, *self.chain())


class Times(Callback):
    """Notes when batches begin."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the processor time."""
        self.at.append(time.process_time())


def times_of_steps(chain: Callable[[], list[Any]], callbacks: list[Callback], width: int, steps: int) -> list[float]:
    """The processor time of each step, without those until the first one that is logged.

    Args:
        chain: makes the modules.
        callbacks: to be measured.
        width: of the network.
        steps: to be made.
    """
    x = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    number = INTERVAL + steps + 1
    batches: DataLoader[Batch] = DataLoader([[x, x.roll(1, 1).tanh()]] * number, batch_size=None)  # type: ignore[arg-type]
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=CSVLogger(folder, flush_logs_every_n_steps=10**9),
            callbacks=[times, *callbacks, ClosureOptimization()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10**9,
        )
        trainer.fit(Network(chain, width), batches)
    return [after - before for before, after in zip(times.at, times.at[1:], strict=False)][INTERVAL:]


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print a table.

    Args:
        args: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256, help="of the four layers")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(args)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{4 * options.width * (options.width + 1):,} parameters, {options.steps} steps, µs of the processor\n")
    print(f"| chain | callback | a step | one that is logged | every {LOGGED} steps |\n| --- | --- | --- | --- | --- |")
    for chain, modules in CHAINS.items():
        plain = statistics.median(times_of_steps(modules, [], options.width, options.steps))
        print(f"| {chain} | none | {1e6 * plain:,.0f} | | |")
        for name, monitor in MONITORS.items():
            times = times_of_steps(modules, [monitor(INTERVAL)], options.width, options.steps)
            logged = statistics.median(times[INTERVAL - 1 :: INTERVAL])
            other = statistics.median(t for i, t in enumerate(times, 1) if i % INTERVAL)
            share = (logged - other) / LOGGED / other
            print(f"| {chain} | {name} | {1e6 * other:,.0f} | {1e6 * logged:,.0f} | {share:+.1%} |", flush=True)
        always = statistics.median(times_of_steps(modules, [SkipNonFinite()], options.width, options.steps))
        print(f"| {chain} | SkipNonFinite | {1e6 * always:,.0f} ({always / plain - 1:+.1%}) | | |", flush=True)


if __name__ == "__main__":
    main()
