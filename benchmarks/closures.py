"""Evaluations, Hessian products and time of minimisers that evaluate the loss: ``python -m benchmarks.closures``.

Each method runs from the standard start until an evaluation finds f − f* ≤ 1e-8 (float64), beside the same method of
scipy, of torch and of pytorch-minimize. An evaluation is one value with its gradient. The table becomes the section
"Closures" of ``RESULTS.md``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import torchzero_core as tz

from .mgh import F64, Problem, problems
from .report import REPORT, put_section
from .units import markdown

#: The heading of what ``--large`` measures.
LARGER = "### Larger problems"
GOAL = 1e-8
LIMIT = 1500
#: Our chains, what they are called elsewhere, and the ratio of evaluations to scipy's that is accepted.
METHODS: dict[str, tuple[Callable[[], list[tz.Module]], str, str, float]] = {
    "LBFGS": (lambda: [tz.m.LBFGS(), tz.m.StrongWolfe()], "L-BFGS-B", "l-bfgs", 0.9),
    "BFGS": (lambda: [tz.m.BFGS(), tz.m.StrongWolfe()], "BFGS", "bfgs", 0.8),
    "PolakRibiere": (lambda: [tz.m.PolakRibiere(), tz.m.StrongWolfe(c2=0.1)], "CG", "cg", 1.0),
    "NewtonCG": (lambda: [tz.m.NewtonCG(), tz.m.StrongWolfe()], "Newton-CG", "newton-cg", 0.7),
}


class _Reached(Exception):
    """The goal, or the end of patience."""


@dataclass
class Count:
    """One run.

    Attributes:
        problem: what was minimised.
        evaluations: how many values there were until the goal.
        products: how many Hessian products, where they are not evaluations.
        reached: whether the goal was reached.
        seconds: of wall time.
    """

    problem: Problem
    evaluations: int = 0
    products: int = 0
    reached: bool = False
    seconds: float = math.nan

    def value(self, x: Tensor) -> Tensor:
        """The function, counted.

        Args:
            x: where.

        Raises:
            _Reached: it is low enough, or there were too many.
        """
        loss = self.problem.fun(x)
        self.evaluations += 1
        if float(loss.detach()) - self.problem.minimum <= GOAL:
            self.reached = True
            raise _Reached
        if self.evaluations >= LIMIT:
            raise _Reached
        return loss

    def __str__(self) -> str:
        return f"{self.evaluations}" if self.reached else "–"


def counted(problem: Problem, run: Callable[[Count], None]) -> Count:
    """Run a minimiser and count.

    Args:
        problem: what to minimise.
        run: the minimiser.
    """
    count, began = Count(problem), time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(count)
    except _Reached:
        pass
    count.seconds = time.perf_counter() - began
    return count


def ours(chain: Callable[[], list[tz.Module]], *, deterministic: bool | None = True) -> Callable[[Count], None]:
    """A chain, stepped; where a search fails it begins again with the gradient, as ``tz.minimize`` does."""

    def run(count: Count) -> None:
        x = count.problem.start.clone().requires_grad_()
        optimizer = tz.Modular([x], *chain(), deterministic=deterministic, advice=False)

        def closure(backward: bool = True) -> Tensor:
            loss = count.value(x)
            if backward:
                x.grad = None
                loss.backward()
            return loss

        failures = 0
        while failures < 10:
            optimizer.step(closure)
            failures = failures + 1 if optimizer.last_step.status != "ok" else 0
            if failures:
                optimizer.reset()

    return run


def scipys(method: str) -> Callable[[Count], None]:
    """The minimiser of scipy; where it ends above the goal it has failed."""
    options: dict[str, Any] = {"L-BFGS-B": {"maxfun": 10**6, "ftol": 0, "gtol": 0}, "Newton-CG": {"xtol": 0}}.get(
        method, {"gtol": 0}
    )

    def run(count: Count) -> None:
        from scipy.optimize import minimize

        def fun(array: Any) -> tuple[float, Any]:
            x = torch.tensor(array, requires_grad=True)
            loss = count.value(x)
            return loss.item(), torch.autograd.grad(loss, x)[0].numpy()

        minimize(fun, count.problem.start.numpy(), jac=True, method=method, options={"maxiter": 10**6, **options})

    return run


def torchs(count: Count) -> None:
    """torch.optim.LBFGS with its search, a whole run in one step."""
    _torch_lbfgs(count, 10**6)


def torchs_stepped(count: Count) -> None:
    """torch.optim.LBFGS with its search, one iteration a step."""
    _torch_lbfgs(count, 1)


def _torch_lbfgs(count: Count, iterations: int) -> None:
    x = count.problem.start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=iterations,
        max_eval=10**6,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = count.value(x)
        loss.backward()
        return loss

    for _ in range(1 if iterations > 1 else LIMIT):
        optimizer.step(closure)


def pytorch_minimizes(method: str) -> Callable[[Count], None]:
    """The minimiser of pytorch-minimize."""
    options = {"gtol": 0.0} if method != "newton-cg" else {"xtol": 0.0}

    def run(count: Count) -> None:
        from torchmin import minimize

        minimize(count.value, count.problem.start, method=method, max_iter=LIMIT, options=options)

    return run


def ratio(counts: Sequence[Count], others: Sequence[Count]) -> tuple[float, float, int, int]:
    """The geometric mean of ratios of evaluations, the largest, how many are above 1.5, and failures of ours alone."""
    pairs = list(zip(counts, others, strict=True))
    both = [a.evaluations / b.evaluations for a, b in pairs if a.reached and b.reached]
    failed = sum(not a.reached and b.reached for a, b in pairs)
    return statistics.geometric_mean(both), max(both), sum(r > 1.5 for r in both), failed


def evaluations(chosen: Sequence[Problem]) -> str:
    """The table of evaluations on test functions, and what it comes to."""
    there = find_spec("torchmin") is not None
    columns: dict[str, list[Count]] = {}
    for name, (chain, scipy, peer, _) in METHODS.items():
        columns[name] = [counted(p, ours(chain)) for p in chosen]
        columns[f"scipy {scipy}"] = [counted(p, scipys(scipy)) for p in chosen]
        if there:
            columns[f"pytorch-minimize {peer}"] = [counted(p, pytorch_minimizes(peer)) for p in chosen]
    columns["torch LBFGS"] = [counted(p, torchs) for p in chosen]
    stepped = [counted(p, ours(METHODS["LBFGS"][0], deterministic=None)) for p in chosen]
    columns["LBFGS, no word"], columns["torch LBFGS, stepped"] = stepped, [counted(p, torchs_stepped) for p in chosen]
    rows = [["problem", *columns]]
    rows += [[str(p), *(str(column[i]) for column in columns.values())] for i, p in enumerate(chosen)]
    heads = ["ours", "beside", "geometric mean of ratios", "accepted", "largest", "above 1.5", "failures of ours alone"]
    summary = [heads]
    pairs = [(name, f"scipy {scipy}", f"{goal}") for name, (_, scipy, _, goal) in METHODS.items()]
    pairs += [(name, f"pytorch-minimize {peer}", "") for name, (_, _, peer, _) in METHODS.items() if there]
    pairs += [("LBFGS", "torch LBFGS", ""), ("LBFGS, no word", "torch LBFGS, stepped", "1.0")]
    for a, b, goal in pairs:
        mean, largest, above, failed = ratio(columns[a], columns[b])
        summary.append([a, b, f"{mean:.2f}", goal, f"{largest:.2f}", str(above), str(failed)])
    return f"{markdown(summary, 2)}\n\n{markdown(rows, 1)}"


def large() -> list[Problem]:
    """A quadratic of 1000 unknowns and condition 1e4, and logistic regression of 10,000 rows of 784."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, 4, 1000, dtype=F64)
    basis = torch.linalg.qr(torch.randn(1000, 1000, dtype=F64, generator=generator))[0]
    hessian, start = basis @ (scale[:, None] * basis.mT), basis @ torch.ones(1000, dtype=F64)
    rows = torch.randn(10_000, 784, dtype=F64, generator=generator)
    signs = torch.sign(
        rows @ torch.randn(784, dtype=F64, generator=generator) / 28
        + torch.randn(10_000, dtype=F64, generator=generator)
    )

    def logistic(x: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-signs * (rows @ x)).mean() + 5e-4 * x.square().sum()

    w = torch.zeros(784, dtype=F64)
    for _ in range(20):  # Newton's method, for the minimum
        p = torch.sigmoid(-signs * (rows @ w))
        gradient = -(rows.mT @ (signs * p)) / 10_000 + 1e-3 * w
        curved = (rows.mT * (p * (1 - p))) @ rows / 10_000 + 1e-3 * torch.eye(784, dtype=F64)
        w = w - torch.linalg.solve(curved, gradient)
    return [
        Problem("quadratic, 1000 unknowns, condition 1e4", lambda x: 0.5 * x @ hessian @ x, start),
        Problem("logistic regression, 10000 × 784", logistic, torch.zeros(784, dtype=F64), float(logistic(w))),
    ]


def products(problem: Problem) -> list[list[str]]:
    """Newton's method with exact products: evaluations, Hessian products and seconds, ours and pytorch-minimize's."""
    rows = []

    def newton(count: Count) -> None:
        ours(lambda: [tz.m.NewtonCG(hvp_method="autograd"), tz.m.StrongWolfe()])(count)

    runs: dict[str, Callable[[Count], None]] = {"NewtonCG, autograd": newton}
    if find_spec("torchmin") is not None:
        runs["pytorch-minimize newton-cg"] = pytorch_minimizes("newton-cg")
    for name, run in runs.items():
        with Products() as seen:
            count = counted(problem, run)
        rows.append([problem.name, name, str(count), str(seen.number), f"{count.seconds:.2f}"])
    return rows


class Products:
    """Counts Hessian products within it: gradients of what is no number."""

    def __enter__(self) -> Products:
        self.number, self._grad = 0, torch.autograd.grad
        plain = self._grad

        def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **options: Any) -> Any:
            self.number += grad_outputs is not None
            return plain(outputs, inputs, grad_outputs, *args, **options)

        torch.autograd.grad = grad
        return self

    def __exit__(self, *_: object) -> None:
        torch.autograd.grad = self._grad


def times(chosen: Sequence[Problem]) -> str:
    """Evaluations and seconds on the larger problems."""
    rows = [["problem", "method", "evaluations", "Hessian products", "seconds"]]
    for problem in chosen:
        runs: dict[str, Callable[[Count], None]] = {}
        for name, (chain, scipy, peer, _) in METHODS.items():
            runs |= {name: ours(chain), f"scipy {scipy}": scipys(scipy)}
            if find_spec("torchmin") is not None and peer != "newton-cg":
                runs[f"pytorch-minimize {peer}"] = pytorch_minimizes(peer)
        runs["torch LBFGS"] = torchs
        for name, run in runs.items():
            count = counted(problem, run)
            rows.append([problem.name, name, str(count), "", f"{count.seconds:.2f}"])
        rows += products(problem)
    return markdown(rows, 2)


def network(seed: int, *, width: int = 32, points: int = 128) -> Problem:
    """A network of three hidden layers that solves u'' = −f with f = (3π)² sin 3πx and u = 0 at both ends.

    Args:
        seed: of the weights at the start.
        width: of the hidden layers.
        points: where the equation is looked at.

    Returns:
        The problem, which counts as solved at a loss of 1e-3.
    """
    shapes = [(width, 1), (width,), (width, width), (width,), (width, width), (width,), (1, width), (1,)]
    sizes = [math.prod(shape) for shape in shapes]
    generator = torch.Generator().manual_seed(seed)
    weights = [
        (2 * torch.rand(shape, dtype=F64, generator=generator) - 1) / math.sqrt(1 if i < 2 else width)
        for i, shape in enumerate(shapes)
    ]
    inputs = torch.linspace(0, 1, points, dtype=F64).unsqueeze(1).requires_grad_()
    force = (3 * math.pi) ** 2 * torch.sin(3 * math.pi * inputs.detach())
    ends = torch.tensor([[0.0], [1.0]], dtype=F64)

    def at(x: Tensor, out: Tensor) -> Tensor:
        layers = [piece.view(shape) for piece, shape in zip(x.split(sizes), shapes, strict=True)]
        for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            out = torch.tanh(torch.nn.functional.linear(out, weight, bias))
        return torch.nn.functional.linear(out, *layers[-2:])

    def loss(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(at(x, inputs).sum(), inputs, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), inputs, create_graph=True)
        return 1e-3 * (bend + force).square().mean() + 10 * at(x, ends).square().mean()

    start = torch.cat([weight.reshape(-1) for weight in weights])
    return Problem("network for u'' = −f, 2241 unknowns", loss, start, 1e-3 - GOAL)


def overhead() -> str:
    """Milliseconds of whole runs, and an evaluation: Rosenbrock's function, and a small network from six starts.

    "Stepped" is one iteration a step, as in a training loop; others are whole runs in one call.
    """
    (rosenbrock,) = (p for p in problems() if p.name == "Rosenbrock")
    rows = [["problem", "method", "evaluations", "ms a run", "ms an evaluation"]]
    runs = {"LBFGS, stepped": ours(METHODS["LBFGS"][0]), "BFGS, stepped": ours(METHODS["BFGS"][0])}
    runs |= {"torch LBFGS": torchs, "torch LBFGS, stepped": torchs_stepped}
    if find_spec("torchmin") is not None:
        runs |= {f"pytorch-minimize {name}": pytorch_minimizes(name) for name in ("l-bfgs", "bfgs")}
    runs["scipy L-BFGS-B"] = scipys("L-BFGS-B")
    for starts, repeats in (([rosenbrock], 9), ([network(seed) for seed in range(6)], 1)):
        for name, run in runs.items():
            if len(starts) > 1 and "L-BFGS" not in name.upper().replace("LBFGS", "L-BFGS"):
                continue  # a matrix of 2241²
            counts = [[counted(p, run) for _ in range(repeats)] for p in starts]
            seconds = sum(statistics.median(count.seconds for count in each) for each in counts)
            total = sum(each[0].evaluations for each in counts)
            shown = f"{total}" if all(each[0].reached for each in counts) else "–"
            of = starts[0].name
            rows.append([of, name, shown, f"{1e3 * seconds / len(starts):.2f}", f"{1e3 * seconds / total:.3f}"])
    return markdown(rows, 2)


def text(*, quick: bool = False) -> str:
    """What stands in the section.

    Args:
        quick: without the larger problems.
    """
    parts = [
        f"`python -m benchmarks.closures`, {torch.get_num_threads()} thread. {__doc__.split(chr(10) * 2)[1]}",
    ]
    parts += ["### Evaluations", evaluations(problems()), "### Time", overhead()]
    return "\n\n".join(parts if quick else [*parts, LARGER, times(large())]) + "\n"


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write or print the section."""
    parser = argparse.ArgumentParser("python -m benchmarks.closures", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the larger problems; print and write nothing")
    parser.add_argument("--large", action="store_true", help="the larger problems alone; print and write nothing")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    if args.large:
        print(f"{LARGER}\n\n{times(large())}")
        return
    found = text(quick=args.quick)
    print(found) if args.quick else put_section("Closures", found, REPORT)


if __name__ == "__main__":
    main()
