"""Newton's method of higher order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor

from ...core import Count, OpenFraction, Positive, StateKind, Var
from ...core.declare import Range
from ...core.evaluate import uniform_settings
from ...core.packages import required
from ...core.point import StepPoint, loss_after, number_of
from ...core.vector_method import Unit, VectorMethod, reductions_of
from ...linalg import jacobian

AtLeastOne: TypeAlias = Annotated[float, Range(1, math.inf, "[)")]


@dataclass(eq=False)
class _Taylor:
    """A Taylor polynomial in float64: its derivative of order j has shape (n,)·j and is flattened to (n^(j−1), n)."""

    derivatives: list[Tensor]
    loss: float
    var: Var

    def __call__(self, s: Tensor) -> tuple[float, Tensor]:
        """How much it changes over a step, and its gradient there."""
        value, gradient = 0.0, torch.zeros_like(s)
        for order, d in enumerate(self.derivatives, 1):
            for _ in range(order - 1):
                d = (d.reshape(-1, len(s)) @ s).reshape(-1)
            gradient += d.reshape(-1) / math.factorial(order - 1)
            value += float(d.reshape(-1) @ s) / math.factorial(order)
        return value, gradient


@torch.enable_grad()
def _derivatives(grads: Sequence[Tensor], params: Sequence[Tensor], order: int, *, vectorize: bool) -> list[Tensor]:
    """The derivatives up to some order as :class:`_Taylor` has them.

    They are symmetric, so only entries whose places ascend are differentiated further: of order j about one in j!.
    """
    flat = torch.cat([g.reshape(-1) for g in grads])
    n = len(flat)
    axis = torch.arange(n, device="cpu")
    places = axis[:, None]  # of the entries in flat, in lexical order
    out = [flat.detach().to("cpu", torch.float64)]
    while len(out) < order:
        rows = jacobian(flat, params, vectorize=vectorize, create_graph=len(out) + 1 < order)
        every = torch.cartesian_prod(*[axis] * len(out)).reshape(-1, len(out)).sort(1).values
        weights = n ** torch.arange(len(out) - 1, -1, -1, device="cpu")
        where = torch.searchsorted((places * weights).sum(1), (every * weights).sum(1))
        out.append(rows.detach().to("cpu", torch.float64)[where])
        ascending = axis >= places[:, -1:]
        flat = rows[ascending.to(rows.device)]
        entry, last = ascending.nonzero(as_tuple=True)
        places = torch.cat([places[entry], last[:, None]], 1)
    return out


class HigherOrderNewton(VectorMethod):
    r"""Minimises the Taylor polynomial of the loss of some order, within a trust region.

    .. math:: m(s) = \sum_{j=1}^{k} \frac{1}{j!} ∇^j f(p)[s, …, s], \quad u ← -\arg\min_{s} m(s)

    The derivatives of order j are an n×…×n array with n^j entries, of which about one in j! is computed, so this is for
    a few parameters. The step is made if
    it lowers the loss; the trust region grows if the loss falls by at least 1/``trust_tol`` of what the polynomial
    says, and shrinks otherwise.

    Args:
        order: of the polynomial; 2 is Newton's method.
        trust_method: "bounds": no element moves further than the region's size r; "proximal": ‖s‖²/2r is added to the
            polynomial; "none": no trust region, for polynomials that are bounded from below.
        increase: what the size is multiplied by after a step that went as the polynomial said.
        decrease: what it is multiplied by after one that did not.
        trust_init: the size at first; by default 1 with "bounds" and 0.1 with "proximal".
        trust_tol: the largest ratio of predicted and actual decrease at which the region grows, at least 1.
        de_iters: iterations of differential evolution with which to look for the minimum in all of the box before it is
            refined; it needs "bounds".
        vectorize: many rows of a derivative in one batched backward pass.

    Raises:
        ImportError: scipy is not installed.
        ValueError: settings that differ between parameter groups; ``de_iters`` without "bounds".
        RuntimeError: a loss that has no graph.

    Reference:
        Nesterov, "Implementable tensor methods in unconstrained convex optimization", Mathematical Programming 186,
        2021.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([0.9, -0.4], dtype=torch.float64, requires_grad=True)
        >>> def quartic(backward=True):
        ...     return (p**4).sum() + (p[0] * p[1]) ** 2 + (p**2).sum()
        >>> optimizer = tz.Modular([p], tz.m.HigherOrderNewton(order=4))
        >>> _ = optimizer.step(quartic)
        >>> quartic().item() < 1e-8
        True
    """

    kept = {"trust_value": StateKind.POSITIVE}

    requires_closure = True
    needs_gradient = False
    starts_anew = False
    gathers = True

    order: Count = 4
    trust_method: Literal["bounds", "proximal", "none"] = "bounds"
    increase: AtLeastOne = 1.5
    decrease: OpenFraction = 0.75
    trust_init: Positive | None = None
    trust_tol: AtLeastOne = 2
    de_iters: Count | None = None
    vectorize: bool = True

    def __post_init__(self) -> None:
        if self.defaults["de_iters"] is not None and self.defaults["trust_method"] != "bounds":
            raise ValueError("HigherOrderNewton: de_iters searches a box, so it needs trust_method='bounds'.")
        required("scipy.optimize", "scipy", "HigherOrderNewton")

    def prepare(self, var: Var) -> _Taylor:
        """Loss and derivatives of the step."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate derivatives: call optimizer.step(closure).")
        h = uniform_settings(self, var.params)
        order, grads = h["order"], StepPoint(var, self.path, "SPSA and LBFGS").grads_with_graph
        derivatives = _derivatives(grads, var.params, order, vectorize=h["vectorize"])
        derivatives = reductions_of(var).mean_grads(derivatives)
        return _Taylor(derivatives, float(number_of(var.get_loss(), var)), var)

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Nothing but the size of the trust region is known from earlier steps."""
        if "trust_value" not in unit.state:
            init = unit.settings["trust_init"]
            usual = 0.1 if unit.settings["trust_method"] == "proximal" else 1.0
            unit.state["trust_value"] = usual if init is None else float(init)
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """Minus the step to the minimum of the polynomial."""
        polynomial: _Taylor = unit.given
        if not all(bool(d.isfinite().all()) for d in polynomial.derivatives):
            polynomial.var.info.status = "derivatives not finite"
            return torch.zeros_like(x)
        return -self._minimum(polynomial, unit.settings, unit.state["trust_value"]).to(x)

    def finish(self, unit: Unit, direction: Tensor) -> Tensor:
        """Make the step if it lowers the loss, and fit the trust region."""
        polynomial, h, state = unit.given, unit.settings, unit.state
        expected = -polynomial((-direction).to("cpu", torch.float64))[0]
        actual = polynomial.loss - loss_after(polynomial.var, unit.tensors(direction), f"{self.path}.start")
        better, polynomial.var.info.falling = math.isfinite(actual) and actual > 0, actual == math.inf
        if h["trust_method"] != "none":
            fits = better and expected <= h["trust_tol"] * actual
            state["trust_value"] *= h["increase"] if fits else h["decrease"]
        if not better:
            polynomial.var.info.status = (
                "no decrease" if polynomial.var.info.status == "ok" else "derivatives not finite"
            )
        return direction if better else torch.zeros_like(direction)

    def _minimum(self, polynomial: _Taylor, h: Any, size: float) -> Tensor:
        optimize = required("scipy.optimize", "scipy", "HigherOrderNewton")
        method, n = h["trust_method"], polynomial.derivatives[0].numel()
        # In lengths of the trust region, and with a slope of 1 at first: scipy's search never ends in one of 1e13.
        unit = 1.0 if method == "none" else size
        bounds = [(-1.0, 1.0)] * n if method == "bounds" else None
        slope = float(polynomial.derivatives[0].abs().max()) * unit
        scale = slope if 0 < slope < math.inf else 1.0

        def model(s: Any) -> tuple[float, Any]:
            step = torch.from_numpy(s) * unit
            value, gradient = polynomial(step)
            if method == "proximal":
                value, gradient = value + float(step @ step) / (2 * size), gradient + step / size
            return value / scale, (gradient * (unit / scale)).numpy()

        start = torch.zeros(n, dtype=torch.float64, device="cpu").numpy()
        if h["de_iters"] is not None:
            seed = int(torch.randint(2**31 - 1, (), generator=self.generator("cpu"), device="cpu"))
            start = optimize.differential_evolution(
                lambda s: model(s)[0], bounds, maxiter=h["de_iters"], seed=seed, polish=False
            ).x
        options = dict(ftol=1e-14, gtol=1e-10, maxiter=1000)
        found = optimize.minimize(model, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return torch.from_numpy(found.x) * unit
