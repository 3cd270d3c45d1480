"""Random chains with a module that evaluates the loss: ``python -m tests.closure_chains --seed 0 --count 300``.

Each has two to five modules of the registry, one of which needs a closure, and makes three steps on a function of 18
unknowns in float64. It runs, or is refused with a sentence before anything has moved; parameters stay finite; a run
that is resumed in the middle goes on bit for bit; and where the closure raises, at the first evaluation or later,
parameters, state and random numbers are as they were, and the step can be made again.
"""

from __future__ import annotations

import argparse
import copy
import io
import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchzero_core as tz
from tests.fuzz.check import refusal
from tests.problems import bits, make_params, same
from tests.registry import ENTRIES

STEPS = 3
#: Printing says nothing here.
LEFT_OUT = {"PrintShape", "PrintUpdate", "PrintLoss", "PrintParams"}
RESIDUALS = {"GaussNewton", "LevenbergMarquardt"}
NEED = [entry for entry in ENTRIES if entry.closure and entry.name not in LEFT_OUT]
OTHERS = [entry for entry in ENTRIES if not entry.closure and entry.name not in LEFT_OUT]


class Trouble(Exception):
    """What the closure raises."""


class Wrong(Exception):
    """Something does not hold.

    Args:
        kind: what, in a word or two.
        text: the details.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Refused(Exception):
    """The chain says that it cannot be."""


def draw(seed: int) -> list[Any]:
    """The entries of a chain.

    Args:
        seed: which one.
    """
    rng = random.Random(seed)
    chosen = [rng.choice(NEED)] + [rng.choice(NEED if rng.random() < 0.4 else OTHERS) for _ in range(rng.randint(1, 4))]
    rng.shuffle(chosen)
    return sorted(chosen, key=lambda entry: entry.name not in RESIDUALS)  # what takes residuals stands first


def loss_of(params: list[Tensor]) -> Tensor:
    """A quartic whose smallest curvature is positive."""
    return sum(
        ((i + 1) * (p - 0.3).square().sum() + 0.1 * p.pow(4).sum() for i, p in enumerate(params)), torch.zeros(())
    )


class Run:
    """A chain on parameters of its own.

    Args:
        build: makes the modules.
        residuals: the closure returns residuals.
    """

    def __init__(self, build: Callable[[], list[tz.Module]], *, residuals: bool) -> None:
        torch.manual_seed(0)
        self.params = make_params()
        self.optimizer = tz.Modular(self.params, *build())
        self.residuals, self.calls, self.fails = residuals, 0, 0

    def closure(self, backward: bool = True) -> Tensor:
        """The function, which raises where it is told to."""
        self.calls += 1
        if self.calls == self.fails:
            raise Trouble
        if self.residuals:
            return torch.cat([(p.reshape(-1) - 0.3) * (1 + 0.1 * p.reshape(-1)) for p in self.params])
        loss = loss_of(self.params)
        if backward:
            self.optimizer.zero_grad()
            loss.backward()
        return loss

    def step(self, fails: int = 0) -> int:
        """Make a step, and say how often it has evaluated.

        Args:
            fails: the evaluation that raises; 0 for none.
        """
        self.calls, self.fails = 0, fails
        self.optimizer.step(self.closure)
        return self.calls

    def all(self) -> tuple[Any, Any, Tensor]:
        """What must not change."""
        state = copy.deepcopy(self.optimizer.state_dict()["state"])
        return bits(self.params), {k: v for k, v in state.items() if v}, torch.get_rng_state()

    def saved(self) -> io.BytesIO:
        """The state as a file."""
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        return file

    def take_over(self, other: Run) -> None:
        """Go on where another run is.

        Args:
            other: the run.
        """
        with torch.no_grad():
            for p, q in zip(self.params, other.params, strict=True):
                p.copy_(q)
        self.optimizer.load_state_dict(torch.load(other.saved(), weights_only=True))


def guarded(fn: Callable[[], Any], what: str) -> Any:
    """Call a function; an error is a refusal if it is a sentence of ours, and else wrong."""
    try:
        return fn()
    except Trouble:
        raise
    except Exception as error:
        sentence = refusal(error)
        if sentence is not None:
            raise Refused(sentence) from error
        raise Wrong("crash", f"{what}: {type(error).__name__}: {error}") from error


def guarded_load(run: Run, other: Run) -> None:
    """Go on where another run is; what a run has saved may not be refused."""
    try:
        run.take_over(other)
    except Exception as error:
        raise Wrong("state is refused", f"{type(error).__name__}: {error}") from error


def check(build: Callable[[], list[tz.Module]], rng: random.Random, *, residuals: bool = False) -> str:
    """What becomes of a chain: "ran" or "diverged".

    Args:
        build: makes the modules.
        rng: says which evaluation raises.
        residuals: the closure returns residuals.

    Raises:
        Refused: it is refused.
        Wrong: something does not hold.
    """
    run = guarded(lambda: Run(build, residuals=residuals), "construction")
    resumed = Run(build, residuals=residuals)
    for i in range(STEPS):
        before = run.all()
        if i:
            guarded_load(resumed, run)
        try:
            trial = copy.deepcopy(run)
            trial.optimizer, trial.params = copy.deepcopy((run.optimizer, run.params))
            calls = guarded(trial.step, f"step {i}")
        except Refused:
            if not same(bits(trial.params), before[0]):
                raise Wrong("refused after moving", f"step {i}") from None
            raise
        draws = not torch.equal(torch.get_rng_state(), before[2])
        fails = rng.choice([1, rng.randint(1, max(calls, 1)), max(calls, 1)])
        torch.set_rng_state(before[2])
        try:
            guarded(lambda fails=fails: run.step(fails), f"step {i} that fails")
        except Trouble:
            after = run.all()
            for name, a, b in zip(("parameters", "state", "random numbers"), before, after, strict=True):
                if name == "random numbers" and draws:
                    continue  # a module without a seed draws one in its first step
                if not same(a, b):
                    which = "the first" if fails == 1 else "a later"
                    raise Wrong(
                        f"{name} changed by an error at {which} evaluation", f"step {i}, call {fails} of {calls}"
                    ) from None
        else:
            raise Wrong("the error is swallowed", f"step {i}, call {fails} of {calls}")
        torch.set_rng_state(before[2])
        guarded(run.step, f"step {i} again")
        # without a seed a module has drawn one in the step that failed, and keeps it
        if not draws and not same(bits(run.params), bits(trial.params)):
            raise Wrong("another step after an error", f"step {i}, call {fails} of {calls}")
        if not all(bool(p.isfinite().all()) for p in run.params):
            return "diverged"
        if i and not draws:
            torch.set_rng_state(before[2])
            guarded(resumed.step, f"step {i} resumed")
            if not same(bits(run.params), bits(resumed.params)):
                raise Wrong("not resumed", f"step {i}")
    return "ran"


def outcome(seed: int) -> tuple[str, str]:
    """What becomes of the chain of a seed, and the details.

    Args:
        seed: which chain.
    """
    entries = draw(seed)
    residuals = any(entry.name in RESIDUALS for entry in entries)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return check(lambda: [e.module() for e in entries], random.Random(seed), residuals=residuals), ""
        except Refused as error:
            return "refused", str(error)
        except Wrong as error:
            return error.kind, str(error)


def main(given: list[str] | None = None) -> None:
    """Draw, and print what does not hold and statistics."""
    parser = argparse.ArgumentParser("python -m tests.closure_chains", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    kinds: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.count):
        began = time.perf_counter()
        kind, text = outcome(seed)
        kinds[kind] += 1
        names = ", ".join(entry.id for entry in draw(seed))
        if kind == "refused":
            sentences[re.sub(r"\d+", "#", text)[:110]] += 1
        elif kind != "ran":
            print(f"{seed} {text[:300] or kind}\n    {names}", flush=True)
        if time.perf_counter() - began > 20:
            print(f"{seed} takes {time.perf_counter() - began:.0f} s\n    {names}", flush=True)
    print(f"drawn {kinds.total()}: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
    for text, n in sentences.most_common(40):
        print(f"  refused {n}: {text}")


if __name__ == "__main__":
    main()
