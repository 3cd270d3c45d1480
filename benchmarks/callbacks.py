"""What the callbacks that watch cost, as a share of the training: ``python -m benchmarks.callbacks``.

The same network is trained with and without each of them, in turn, and the medians of the processor time per step are compared, with one thread.
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
#: What is measured, with the chains it is measured on.
CASES: dict[str, tuple[Callable[[], list[Callback]], Sequence[str]]] = {
    "none": (list, tuple(CHAINS)),
    "UpdateNormMonitor(50)": (lambda: [UpdateNormMonitor(50)], tuple(CHAINS)),
    "UpdateNormMonitor(50, per_module, per_layer)": (lambda: [UpdateNormMonitor(50, True, True)], tuple(CHAINS)),
    "UpdateNormMonitor(1, per_module, per_layer)": (lambda: [UpdateNormMonitor(1, True, True)], tuple(CHAINS)),
    "ClosureMonitor(50)": (lambda: [ClosureMonitor(50, progress_bar=False)], ("LBFGS, StrongWolfe",)),
    "SkipNonFinite()": (lambda: [SkipNonFinite()], tuple(CHAINS)),
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


def seconds_per_step(chain: Callable[[], list[Any]], callbacks: list[Callback], width: int, steps: int) -> float:
    """The mean processor time of a step, without the first ones.

    Args:
        chain: makes the modules.
        callbacks: to be measured.
        width: of the network.
        steps: to be made; a multiple of 50 counts each logged step as often as it is there.
    """
    warm = 51  # the first step that is logged is past
    x = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    batches = [[x, x.roll(1, 1).tanh()]] * (steps + warm + 2)  # one epoch
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps + warm + 1,
            logger=CSVLogger(folder, flush_logs_every_n_steps=10**9),
            callbacks=[times, *callbacks, ClosureOptimization()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10**9,
        )
        loader: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(Network(chain, width), loader)
    return (times.at[warm + steps] - times.at[warm]) / steps


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print a table.

    Args:
        args: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=384, help="of the four layers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(args)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    parameters = 4 * options.width * (options.width + 1)
    print(f"{parameters:,} parameters, {options.steps} steps, the medians of {options.rounds} rounds\n")
    print("| chain | callback | processor µs a step | more than none |\n| --- | --- | --- | --- |")
    for chain, modules in CHAINS.items():
        found: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for case, (callbacks, where) in CASES.items():
                if chain in where:
                    value = seconds_per_step(modules, callbacks(), options.width, options.steps)
                    found.setdefault(case, []).append(value)
        for case, values in found.items():
            extra = statistics.median(v / base - 1 for v, base in zip(values, found["none"], strict=True))
            more = "" if case == "none" else f"{extra:+.1%}"
            print(f"| {chain} | {case} | {1e6 * statistics.median(values):,.0f} | {more} |", flush=True)


if __name__ == "__main__":
    main()
