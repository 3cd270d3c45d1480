"""Models that are minimised exactly, by the eigenvalues of the Hessian: in a ball, and with a cubic term."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...core import OpenFraction, Positive, StateKind
from .base import Growth, Model, Radius, TrustMethod


class TrustExact(Radius):
    r"""Newton's method in a trust region, with the exact minimum of the model.

    .. math:: s = -(B + λI)^{-1} g, \quad λ ≥ \max(0, -λ_{\min}(B)), \quad λ\,(Δ - ‖s‖) = 0

    The number λ is found from the eigenvalues of B, which takes O(n³) once a step. The "hard case", where g has no
    part along the most negative eigenvalue, goes along its eigenvector to the boundary.

    Raises:
        ValueError: settings that differ between parameter groups.
        TypeError: a ``hess`` that has no Hessian.
        RuntimeError: a loss that has no graph, without ``hess``.

    Reference: Moré and Sorensen, "Computing a trust region step", SIAM J. Scientific and Statistical Computing 4, 1983.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.TrustExact())
        >>> for _ in range(30):
        ...     loss = optimizer.step(lambda backward=True: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2)
        >>> loss.item() < 1e-8
        True
    """

    def within(self, model: Model, radius: float) -> tuple[Tensor, bool]:
        """The minimum within the ball."""
        values, _ = model.B.eigen
        if float(values[0]) > 0:
            newton = shifted_step(model, 0.0)
            if model.norm(newton) <= radius:
                return newton, False
        return secular(model, lambda shift: radius), True


class CubicRegularization(TrustMethod):
    r"""Newton's method with cubic regularisation: the step minimises the model with the cube of its length.

    .. math:: m(s) = g's + \tfrac{1}{2} s'Bs + \tfrac{σ}{3} ‖s‖³

    Its minimum is global and exact: s = −(B + λI)⁻¹g with λ = σ‖s‖ no less than −λ_min(B), found from the eigenvalues
    of B. σ shrinks after steps that go as well as the model says and grows after those that do not. No Hessian is
    too indefinite for it, and near saddles it finds the way out.

    Args:
        init: σ at first.
        min_sigma: the smallest σ.
        nplus: what σ is multiplied by after a step that is rejected.
        nminus: what it is multiplied by after one that went as the model said.
        rho_good: the share of the predicted decrease from which on a step went well.

    Raises:
        ValueError: settings that differ between parameter groups.
        TypeError: a ``hess`` that has no Hessian.
        RuntimeError: a loss that has no graph, without ``hess``.

    Reference: Nesterov and Polyak, "Cubic regularization of Newton method and its global performance", Mathematical
    Programming 108, 2006; Cartis, Gould and Toint, "Adaptive cubic regularisation methods", Mathematical Programming
    127, 2011.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([0.0, 0.1], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.CubicRegularization())
        >>> for _ in range(20):  # a saddle at 0, and minima at x = 1 and x = -1
        ...     loss = optimizer.step(lambda backward=True: p[0] ** 4 / 4 - p[0] ** 2 / 2 + p[1] ** 2)
        >>> round(loss.item(), 4)
        -0.25
    """

    kept = {"sigma": StateKind.POSITIVE}

    init: Positive = 1.0
    min_sigma: Positive = 1e-8
    nplus: Growth = 2.0
    nminus: OpenFraction = 0.5
    rho_good: OpenFraction = 0.9

    def begin(self, model: Model) -> None:
        """σ is the state."""
        model.state.setdefault("sigma", max(model.settings["init"], model.settings["min_sigma"]))

    def solve(self, model: Model) -> tuple[Tensor, float, bool]:
        """The minimum of the cubic model."""
        sigma = model.state["sigma"]
        step = secular(model, lambda shift: shift / sigma)
        return step, model.decrease(step) - sigma / 3 * model.norm(step) ** 3, True

    def resize(self, model: Model, ratio: float, *, kept_short: bool) -> None:
        h, state = model.settings, model.state
        if not ratio > h["eta"]:
            state["sigma"] = min(state["sigma"] * h["nplus"], 1 / torch.finfo(model.g.dtype).eps)
        elif ratio > h["rho_good"]:
            state["sigma"] = max(state["sigma"] * h["nminus"], h["min_sigma"])


def shifted_step(model: Model, low: float, gap: float = 0.0) -> Tensor:
    """−(B + (low + gap)·I)⁻¹g by the eigenvalues; nothing along those that become zero or negative.

    Args:
        model: the model.
        low: a shift.
        gap: what is added to the shifted eigenvalues, after them, so that it may be small beside ``low``.
    """
    values, vectors = model.B.eigen
    shifted = (values + low) + gap
    return -(vectors @ torch.where(shifted > 0, vectors.mT @ model.g / shifted, 0.0))


def secular(model: Model, length: Callable[[float], float]) -> Tensor:
    """The step −(B + λI)⁻¹g whose length is that for its λ, at least −λ_min(B): a secular equation, by bisection.

    ‖s‖ falls with λ, and the wanted length does not, so there is one solution. In the hard case, where even the longest
    step is too short, an eigenvector of the least eigenvalue makes up for the rest.

    Args:
        model: the model.
        length: the wanted length for a λ.
    """
    values, vectors = model.B.eigen
    low = max(0.0, -float(values[0]))
    shifted = (values + low).double().cpu().tolist()
    parts = (vectors.mT @ model.g).double().square().cpu().tolist()

    def too_long(gap: float) -> bool:
        terms = [(part, value + gap) for part, value in zip(parts, shifted, strict=True) if part]
        return any(d <= 0 for _, d in terms) or math.sqrt(sum(part / d / d for part, d in terms)) > length(low + gap)

    if not too_long(0.0):
        step = shifted_step(model, low)
        rest = length(low) ** 2 - model.dot(step, step)
        return step + math.sqrt(rest) * vectors[:, 0] if low > 0 and rest > 0 else step
    below, above = 0.0, max(shifted[-1], low, 1e-300)
    while too_long(above) and above < 1e300:
        below, above = above, 4 * above
    for _ in range(300):  # the gap to −λ_min is bisected, first its order of magnitude and then its digits
        near = above < 4 * below
        middle = (below + above) / 2 if near else math.sqrt(max(below, above * 1e-32)) * math.sqrt(above)
        if not below < middle < above:
            break
        below, above = (middle, above) if too_long(middle) else (below, middle)
    return shifted_step(model, low, above)
