"""``tz.minimize`` beside ``scipy.optimize.minimize``: how many evaluations each method needs.

The function is Rosenbrock's in 50 dimensions, from the usual start. An evaluation is the value with its gradient, which
both sides get from the same torch code. Each method runs with its own defaults, but for the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

import torchzero_core as tz
from examples.showing import Shown, show

START = torch.tensor([-1.2, 1.0] * 25, dtype=torch.float64)
TOL = 1e-8


def rosenbrock(x: Tensor) -> Tensor:
    """Its minimum is 0 at (1, …, 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def by_torchzero(method: str, seen: Callable[[float], None]) -> None:
    """Minimise, and report each value."""

    def fun(x: Tensor) -> Tensor:
        value = rosenbrock(x)
        seen(value.item())
        return value

    tz.minimize(fun, START, method, maxfev=600)


def by_scipy(method: str, seen: Callable[[float], None]) -> None:
    """The same."""

    def fun(x: Any) -> tuple[float, Any]:
        point = torch.tensor(x, requires_grad=True)
        value = rosenbrock(point)
        seen(value.item())
        (grad,) = torch.autograd.grad(value, point)
        return value.item(), grad.numpy()

    optimize.minimize(fun, START.numpy(), jac=True, method=method)


def main() -> Shown:
    """Two methods of each."""
    curves: dict[str, list[float]] = {}
    for run, names in ((by_torchzero, ("lbfgs", "bfgs")), (by_scipy, ("L-BFGS-B", "BFGS"))):
        for name in names:
            values: list[float] = []
            run(name, values.append)
            library = "tz.minimize" if run is by_torchzero else "scipy"
            curves[f"{library} {name}"] = [max(v, 1e-16) for v in accumulate(values, min)]
    needed = {name: next((i + 1.0 for i, v in enumerate(c) if v < TOL), float("nan")) for name, c in curves.items()}
    return Shown(
        figure=f"evaluations until the value is below {TOL:.0e}",
        ours={name: n for name, n in needed.items() if name.startswith("tz")},
        baselines={name: n for name, n in needed.items() if name.startswith("scipy")},
        curves={name: (range(1, len(c) + 1), c) for name, c in curves.items()},
        x="evaluations of value and gradient",
        y="lowest value so far",
        digits=".0f",
    )


if __name__ == "__main__":
    show(main)
