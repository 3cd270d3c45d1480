"""Real Ctrl-Cs at random moments of a run: `python -m tests.fuzz.signals --count 1000`.

A child process makes steps; this one sends it SIGINT after random delays. After each, parameters and state in the child
are those of a whole number of steps, to the last bit those of a run that nobody has disturbed, and the run goes on.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import torchzero_core as tz
from tests.problems import bits, make_params, same
from torchzero_core.core import Module

m = tz.m


def _is_matrix(p: torch.Tensor) -> bool:
    return p.ndim > 1


#: Chains by name, and whether their steps get a closure.
CHAINS: dict[str, tuple[Callable[[], list[Module]], bool]] = {
    "Adam": (lambda: [m.Adam(), m.LR(0.1)], False),
    "rules": (lambda: [m.ClipNorm(1.0), m.EMA(0.9), m.NormalizeByEMA(), m.WeightDecay(1e-2), m.LR(0.1)], False),
    "with a closure": (lambda: [m.Adam(), m.LR(0.1)], True),
    "accumulating": (lambda: [m.GradientAccumulation([m.Adam(), m.LR(0.1)], 3)], False),
    "Split": (lambda: [m.Split(_is_matrix, [m.Muon(), m.LR(0.1)], [m.Adam(), m.LR(0.05)])], False),
    "SOAP": (lambda: [m.SOAP(precond_freq=2), m.LR(0.1)], False),
    "Shampoo": (lambda: [m.Shampoo(update_freq=2), m.LR(0.1)], False),
    "GaLore": (lambda: [m.GaLore(m.Adam(), 2, 3, 1.0), m.LR(0.1)], False),
    "Wrap": (lambda: [m.Wrap(torch.optim.AdamW, lr=0.1)], False),
    "LBFGS": (lambda: [m.LBFGS(history_size=4), m.StrongWolfe()], True),
    "BFGS": (lambda: [m.BFGS(), m.Backtracking()], True),
    "NewtonCG": (lambda: [m.NewtonCG(), m.Backtracking()], True),
    "Newton": (lambda: [m.Newton(), m.StrongWolfe()], True),
    "conjugate": (lambda: [m.PolakRibiere(), m.StrongWolfe(c2=0.1)], True),
    "trust": (lambda: [m.TrustCG(hess=m.SR1())], True),
    "SPSA": (lambda: [m.SPSA(seed=0), m.Adam(), m.LR(0.1)], True),
    "smoothing": (lambda: [m.GaussianSmoothing(seed=0, n_samples=3), m.Adam(), m.LR(0.1)], True),
    "projection": (lambda: [m.VectorProjection([m.LBFGS(), m.Backtracking()], project_params=True)], True),
    "Multistep": (lambda: [m.Multistep([m.Adam(), m.LR(0.05)], 3)], True),
    "Alternate": (lambda: [m.Alternate([m.Adam(), m.LR(0.1)], [m.LBFGS(), m.Backtracking()], steps=[2, 1])], True),
}
#: Steps of a run.
STEPS = 25


def _loss(params: list[torch.Tensor]) -> torch.Tensor:
    terms = [((p - i - 1) ** 2).sum() + 0.1 * (p**4).sum() for i, p in enumerate(params)]
    return torch.stack(terms).sum() + 0.1 * sum(p.sum() for p in params) ** 2


class Subject:
    """A run of a chain.

    Args:
        name: of the chain.
        compile: whether it is compiled.
    """

    def __init__(self, name: str, *, compile: bool) -> None:
        make, self.with_closure = CHAINS[name]
        self.params = make_params([(4, 3), (5,), ()])
        torch.manual_seed(0)
        self.optimizer = tz.Modular(self.params, *make(), compile=compile)

    def closure(self, backward: bool = True) -> torch.Tensor:
        """The loss."""
        loss = _loss(self.params)
        if backward:
            self.optimizer.zero_grad()
            loss.backward()
        return loss

    def step(self) -> None:
        """Make a step."""
        if self.with_closure:
            self.optimizer.step(self.closure)
        else:
            self.closure()
            self.optimizer.step()

    def all(self) -> tuple[Any, ...]:
        """What must be that of a whole number of steps."""
        state = {
            k: {n: _copied(v) for n, v in values.items()} for k, values in self.optimizer.state_dict()["state"].items()
        }
        return bits(self.params), {k: v for k, v in state.items() if v}, self.optimizer.current_step


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, (list, tuple)) else value


class Child:
    """Makes runs, and says after each signal what it has found."""

    def __init__(self) -> None:
        self.armed = False
        self.seen = self.told = 0
        signal.signal(signal.SIGINT, self.handle)

    def handle(self, *_: object) -> None:
        """As Python's own, within a step."""
        self.seen += 1
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def run(self, name: str, *, compile: bool) -> None:
        """Make a run, and tell after each signal what became of it."""
        twin = Subject(name, compile=compile)
        known = [twin.all()]
        for _ in range(STEPS):
            twin.step()
            known.append(twin.all())
        subject = Subject(name, compile=compile)
        while subject.optimizer.current_step < STEPS:
            before, outcome = subject.optimizer.current_step, "made"
            try:
                self.armed = True
                subject.step()
                self.armed = False
            except KeyboardInterrupt:
                outcome = "stopped"
            made = subject.optimizer.current_step
            if not (made == before + 1 or (outcome == "stopped" and made == before)):
                outcome = f"wrong: {made} steps after {before}"
            elif not same(subject.all(), known[made]):
                outcome = f"wrong: not what it is after {made} steps"
            if self.seen != self.told or outcome.startswith("wrong"):
                self.told = self.seen
                print(f"{name}{' compiled' * compile}: {outcome}", flush=True)
                if outcome.startswith("wrong"):
                    raise SystemExit(1)
        if self.seen != self.told:
            self.told = self.seen
            print(f"{name}{' compiled' * compile}: between runs", flush=True)


def child(seed: int) -> None:
    """Make runs until somebody ends this process."""
    torch.set_num_threads(1)
    me, rnd = Child(), random.Random(seed)
    names = [(name, compile) for name in CHAINS for compile in (False, True)]
    rnd.shuffle(names)
    print("ready", flush=True)
    while True:
        for name, compile in names:
            me.run(name, compile=compile)


def disturb(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send one child so many signals.

    Args:
        count: how many.
        seed: of the delays and of the order of the chains.

    Returns:
        How often a step was made or stopped, and what was wrong.
    """
    rnd, outcomes, wrong = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as cache:  # so that the compiler is interrupted too
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.signals", "--child", "--seed", str(seed)]
        environment = {**os.environ, "TORCHZERO_CACHE": cache}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            try:
                for _ in range(count):
                    try:
                        process.wait(rnd.expovariate(1 / 0.02))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGINT)
                    line = process.stdout.readline().strip()
                    outcomes[line.rsplit(": ", 1)[-1]] += 1
                    if not line or ": wrong" in line:
                        wrong.append(line or f"it has ended: {process.stderr.read()[-2000:]}")
                        break
            finally:
                process.kill()
    return outcomes, wrong


def main() -> None:
    """Send signals, and print what became of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.signals", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--each", type=int, default=50, help="how many to one process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help="be the process that is interrupted")
    args = parser.parse_args()
    if args.child:
        child(args.seed)
    outcomes: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + -(-args.count // args.each)):
        found, wrong = disturb(args.each, seed)
        outcomes += found
        for text in wrong:
            print(f"seed {seed}: {text}", flush=True)
    print(f"{outcomes.total()} signals: " + ", ".join(f"{k} {n}" for k, n in outcomes.most_common()))


if __name__ == "__main__":
    main()
