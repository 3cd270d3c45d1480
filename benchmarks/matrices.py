"""Matrix methods beside their peers: ``python -m benchmarks.matrices``.

They refresh their factors every ten steps, so what is compared is the processor time of ten steps, in turns, in one
process, with one thread; and the dearest step with the median one. Each stands beside its own matrix products:
Muon beside all of them, Shampoo and SOAP beside those of a step without a refresh, as if refreshes cost nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from torchzero_core.linalg import add_gram_
from torchzero_core.linalg.orthogonalize import newton_schulz_dtype

from .report import REPORT, machine, put_section
from .stats import paired
from .subjects import absent, parameters
from .units import Table, human, markdown

PERIOD = 10
Shapes = list[tuple[int, ...]]
Step = Callable[[], Any]


@dataclass
class Racer:
    """Who takes part: its name, how its step is made for parameters, and the seconds of each of its steps."""

    name: str
    make: Callable[[list[Tensor]], Step]
    seconds: list[float] = field(default_factory=list)

    def periods(self) -> list[float]:
        """The seconds of each ten steps; the first step, which makes the state, is left out."""
        rest = self.seconds[1:]
        return [sum(rest[i : i + PERIOD]) for i in range(0, len(rest) - PERIOD + 1, PERIOD)]

    def worst(self) -> float:
        """The dearest step in terms of the median one."""
        return max(self.seconds[1:]) / statistics.median(self.seconds[1:])


@dataclass
class Race:
    """A kind of work; the first racer is what the others are measured against."""

    name: str
    shapes: Shapes
    racers: list[Racer]
    periods: int = 2


def ours(name: str, **settings: Any) -> Callable[[list[Tensor]], Step]:
    """A chain of one of the modules and a learning rate."""

    def make(params: list[Tensor]) -> Step:
        import torchzero_core as tz

        return tz.Modular(params, getattr(tz.m, name)(**settings), tz.m.LR(1e-3)).step

    return make


def theirs(name: str, **settings: Any) -> Callable[[list[Tensor]], Step]:
    """An optimizer of pytorch-optimizer."""

    def make(params: list[Tensor]) -> Step:
        import pytorch_optimizer

        return getattr(pytorch_optimizer, name)(params, lr=1e-3, **settings).step

    return make


def hidden(d: int, layers: int) -> Shapes:
    """The hidden matrices of a GPT-2 with d channels."""
    return [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)] * layers


def products(params: list[Tensor]) -> Step:
    """The matrix products of five Newton–Schulz iterations in float32, in the form that takes fewer."""
    shapes: dict[tuple[int, ...], int] = {}
    for p in params:
        shapes[tuple(p.shape)] = shapes.get(tuple(p.shape), 0) + 1
    work = []
    for shape, count in shapes.items():
        n, k = sorted(shape)
        x, a = torch.randn(count, n, k), torch.randn(count, n, n)
        work.append((x, a, torch.empty_like(x), torch.empty_like(a), 2 * k >= 3 * n))

    def step() -> None:
        for x, a, y, b, gram in work:
            for _ in range(2 if gram else 5):  # the Gram form makes X anew after three steps and after two more
                torch.bmm(x, x.mT, out=b)
                torch.bmm(a, x, out=y)
            # in the Gram form five squares, three products of polynomials, three updates of two products each
            for _ in range(14 if gram else 5):
                torch.bmm(a, a, out=b)

    return step


def least(times: int) -> Callable[[list[Tensor]], Step]:
    """The matrix products that no step of Shampoo (once) or SOAP (there and back) can do without.

    They are the lower halves of GG' and G'G, and the products of G with a matrix for each side.
    """

    def make(params: list[Tensor]) -> Step:
        work = []
        for p in params:
            left, right = (torch.randn(n, n) for n in p.shape)
            g, x, y = torch.randn(p.shape), torch.empty(p.shape), torch.empty(p.shape)
            work.append((g, left, right, torch.zeros_like(left), torch.zeros_like(right), x, y))

        def step() -> None:
            for g, left, right, rows, columns, x, y in work:
                add_gram_(rows, g, beta=0.5)
                add_gram_(columns, g.mT, beta=0.5)
                for _ in range(times):
                    torch.mm(left, g, out=x)
                    torch.mm(x, right, out=y)

        return step

    return make


def races() -> list[Race]:
    """What is raced, as far as the peers are installed."""
    peers = find_spec("pytorch_optimizer") is not None
    soap = dict(merge_small=False, max_dim=4096)
    shampoo: list[Racer] = [Racer("tz Shampoo", ours("Shampoo")), Racer("staggered", ours("Shampoo", stagger=True))]
    basis: list[Racer] = [
        Racer("tz SOAP", ours("SOAP", **soap)),
        Racer("staggered", ours("SOAP", **soap, stagger=True)),
    ]
    if peers:
        shampoo.insert(0, Racer("pytorch-optimizer", theirs("Shampoo", preconditioning_compute_steps=PERIOD)))
        basis.insert(0, Racer("pytorch-optimizer", theirs("SOAP", precondition_frequency=PERIOD)))
    shampoo.append(Racer("its products, no refresh", least(1)))
    basis.append(Racer("its products, no refresh", least(2)))
    muon: list[Racer] = [
        Racer("matrix products alone", lambda params: products(params)),
        Racer("tz Muon float32", ours("Muon", ns_dtype=torch.float32)),
        Racer("tz Muon", ours("Muon")),
    ]
    if hasattr(torch.optim, "Muon"):
        muon.append(Racer("torch Muon", lambda params: torch.optim.Muon(params, weight_decay=0.0).step))
    return [
        Race("Muon, GPT-2 with 256 channels, 4 layers", hidden(256, 4), muon, 1),
        Race("Shampoo, 8 × 512², refresh every 10", [(512, 512)] * 8, shampoo),
        Race("SOAP, GPT-2 with 512 channels, 1 layer, refresh every 10", hidden(512, 1), basis),
    ]


def units() -> str:
    """In what Newton–Schulz is computed here, which decides how far torch's Muon is away."""
    if newton_schulz_dtype("cpu") is torch.bfloat16:
        return "Muon: this processor has units for bfloat16, which torch's Muon uses as ours does."
    return "Muon: this processor has no units for bfloat16; torch's Muon emulates it, ours takes float32."


def run(race: Race, log: Callable[[str], None] = print) -> None:
    """Let all make their steps in turns, in shuffled order.

    Args:
        race: the work.
        log: is told what goes on.
    """
    rng, steps = random.Random(0), []
    for racer in race.racers:
        params = parameters(race.shapes, torch.device("cpu"))
        steps.append((racer, racer.make(params)))
    for _ in range(1 + PERIOD * race.periods):
        for racer, step in rng.sample(steps, len(steps)):
            begun = time.process_time()
            step()
            racer.seconds.append(time.process_time() - begun)
    log(f"{race.name}: done")


def table(found: Sequence[Race]) -> str:
    """The results in Markdown."""
    rows: Table = [("work", "who", "mean step", "first / this", "dearest / median step")]
    for race in found:
        base = race.racers[0]
        for racer in race.racers:
            mean = sum(racer.periods()) / len(racer.periods()) / PERIOD
            ratio = paired(base.periods(), racer.periods())
            rows.append((race.name, racer.name, human(mean), str(ratio), f"{racer.worst():.2f}"))
    return markdown(rows, 2)


def main(given: Sequence[str] | None = None) -> None:
    """Run the races; print the table of those that were chosen, or write that of all into the report."""
    parser = argparse.ArgumentParser("python -m benchmarks.matrices", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="races whose name contains this")
    only = parser.parse_args(given).only
    chosen = [race for race in races() if only in race.name]
    torch.set_num_threads(1)
    for race in chosen:
        run(race, lambda line: print(line, flush=True))
    facts = [*machine(torch.device("cpu")), units(), *absent()]
    text = "\n".join([*(f"- {fact}" for fact in facts), "", table(chosen)])
    print(text) if only else put_section("Matrix methods", f"`python -m benchmarks.matrices`\n\n{text}", REPORT)


if __name__ == "__main__":
    main()
