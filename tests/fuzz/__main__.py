"""The command line of the fuzzer."""

from __future__ import annotations

import argparse
import re
import traceback
from collections import Counter

import torch

from tests.fuzz.check import Runner, outcome
from tests.fuzz.draw import Case

#: Seconds that a case may take.
PATIENCE = 20.0


def main() -> None:
    """Draw cases, print what does not hold, and statistics."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--show", action="store_true", help="each case, and tracebacks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.count):
        if args.show:
            print(seed, Case(seed), flush=True)
        kind, text, seconds = outcome(seed)
        if kind == "refused":
            sentences[re.sub(r"\d+", "#", text)[:110]] += 1
        elif kind != "held":
            print(f"{seed} {kind}: {text[:300]}\n    {Case(seed)}", flush=True)
            if args.show and "crash" in kind:
                _trace(seed)
        elif seconds > PATIENCE:
            kind = "slow"
            print(f"{seed} slow: {seconds:.0f} s\n    {Case(seed)}", flush=True)
        counts[kind] += 1
    print(f"drawn {sum(counts.values())}: " + ", ".join(f"{k} {n}" for k, n in counts.most_common()))
    for text, n in sentences.most_common(40):
        print(f"  refused {n}: {text}")


def _trace(seed: int) -> None:
    try:
        Runner(Case(seed)).check()
    except Exception as error:
        traceback.print_exception(error.__cause__ or error)


if __name__ == "__main__":
    main()
