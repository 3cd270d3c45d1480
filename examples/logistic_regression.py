"""Logistic regression by Newton's method, beside two solvers of scikit-learn.

The breast cancer data: 569 people, 30 standardised features and a bias, 31 unknowns. All three minimise the same
strictly convex function. The figure is how far the loss is above the minimum after six iterations, where scikit-learn's
``newton-cholesky`` makes the same steps in code written for this one model, and L-BFGS is its default.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils._testing import ignore_warnings
from torch import Tensor

import torchzero_core as tz
from examples.showing import Shown, show

data = load_breast_cancer()
features = (data.data - data.data.mean(0)) / data.data.std(0)
x, y = torch.tensor(features), torch.tensor(data.target * 2.0 - 1.0)


def objective(w: Tensor) -> Tensor:
    """Logistic loss with a penalty on the weights, not on the bias, as scikit-learn has it for C=1."""
    margins = y * (x @ w[:-1] + w[-1])
    return (torch.nn.functional.softplus(-margins).sum() + 0.5 * w[:-1].square().sum()) / len(y)


def by_newton(iterations: int) -> list[float]:
    """Losses at the start and after each iteration."""
    w = torch.zeros(31, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([w], tz.m.Newton(), tz.m.Backtracking())

    def closure(backward: bool = True) -> Tensor:
        loss = objective(w)
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    return [float(optimizer.step(closure)) for _ in range(iterations)] + [closure(False).item()]


@ignore_warnings(category=ConvergenceWarning)
def by_sklearn(solver: str, iterations: int) -> list[float]:
    """The same: it is run anew with each limit, since it shows nothing on the way."""
    losses = [float(objective(torch.zeros(31, dtype=torch.float64)))]
    for limit in range(1, iterations + 1):
        model = LogisticRegression(C=1.0, solver=solver, max_iter=limit, tol=1e-14).fit(features, data.target)
        losses.append(float(objective(torch.tensor(np.append(model.coef_, model.intercept_)))))
    return losses


def main() -> Shown:
    """All three."""
    runs = {"Newton": by_newton(12), **{f"scikit-learn {s}": by_sklearn(s, 12) for s in ("newton-cholesky", "lbfgs")}}
    lowest = min(min(losses) for losses in runs.values())
    above = {name: [max(loss - lowest, 1e-17) for loss in losses] for name, losses in runs.items()}
    return Shown(
        figure="loss above the minimum after 6 iterations",
        ours={"Newton": above["Newton"][6]},
        baselines={name: values[6] for name, values in above.items() if name != "Newton"},
        curves={name: (range(13), values) for name, values in above.items()},
        x="iteration",
        y="loss above the minimum",
    )


if __name__ == "__main__":
    show(main)
