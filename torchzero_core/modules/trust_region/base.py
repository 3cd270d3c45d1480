"""What every trust-region method shares: the model of a step, its trials, and what becomes of the region."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ...core import Beta, Child, Count, Module, OpenFraction, Positive, Range, StateKind, Var
from ...core.evaluate import uniform_settings
from ...core.point import StepPoint, loss_after, number_of
from ...core.vector_method import Curvature, Unit, VectorMethod, units_of
from ...linalg import DenseOperator, hessian

Growth: TypeAlias = Annotated[float, Range(1, math.inf, "[)")]
NOT_FINITE = "not finite"
NO_GRADIENT = "no gradient"
NO_DECREASE = "no decrease"
CONVERGED = "converged"
BOTTOMLESS = "loss falls to minus infinity"


@dataclass(eq=False)
class Model:
    """The quadratic m(s) = g's + ½ s'Bs of a step.

    Attributes:
        g: the update as a vector, which stands for the gradient.
        B: the Hessian, or what stands for it.
        unit: the parameters.
        settings: of the trust region.
        state: of the trust region.
        products: what a method has multiplied in the first tries of the step, for the later ones.
    """

    g: Tensor
    B: Curvature
    unit: Unit
    settings: Mapping[str, Any]
    state: MutableMapping[str, Any]
    products: list[Tensor] = field(default_factory=list)

    def dot(self, a: Tensor, b: Tensor) -> float:
        """The inner product of two vectors."""
        return float(self.unit.dot(a, b))

    def norm(self, a: Tensor) -> float:
        """The length of a vector."""
        return math.sqrt(max(self.dot(a, a), 0.0)) if bool(a.isfinite().all()) else math.nan

    def decrease(self, s: Tensor) -> float:
        """How much the model falls over a step.

        Args:
            s: the step.
        """
        return -self.dot(s, self.g + 0.5 * (self.B @ s))


class TrustMethod(Module):
    """Base class of methods that minimise a quadratic model of the loss where they trust it.

    A subclass defines :meth:`solve`, the step for the present size of the region, and :meth:`resize`, what becomes of
    the size. This class takes care of the model, evaluates the loss where the step leads, and tries again from the same
    gradient and Hessian while steps are rejected. Parameters are exactly those of the start after a rejected step.

    Args:
        hess: a method whose Hessian to use, such as BFGS, SR1, LBFGS, Newton or NewtonCG; it learns once from each
            point, and never from a rejected one. By default, the true Hessian.
        eta: a step is made if the loss falls by more than this share of what the model says.
        max_attempts: how many steps are tried. Then the best of them is made if it has lowered the loss at all, else
            the parameters stay where they are; the next step goes on with the size that the last one has left.
    """

    kept = {"rejected": StateKind.TRUTH}

    requires_closure = True
    keeps_place = True
    one_piece = True
    size_effect = "search"
    #: Whether a model needs a matrix, and not just its products.
    gathers: ClassVar[bool] = True
    #: What a user can do where the loss has no graph.
    without_graph: ClassVar[str] = "hess=tz.m.BFGS()"

    hess: Child | None = None
    eta: Beta = 0.15
    max_attempts: Count = 10

    # -- what a method defines ---------------------------------------------------------------------------------------
    def solve(self, model: Model) -> tuple[Tensor, float, bool]:
        """A step for the present size.

        Args:
            model: the model.

        Returns:
            The step, how much the loss falls by it according to the model, and whether the size has kept it short.
        """
        raise NotImplementedError(f"{type(self).__name__} has no solve(model).")

    def resize(self, model: Model, ratio: float, *, kept_short: bool) -> None:
        """Fit the size to how well the model has predicted the loss.

        Args:
            model: the model; its state has the size.
            ratio: of the actual and predicted decrease, -inf where the loss was not finite.
            kept_short: whether the size has kept the step short.
        """
        raise NotImplementedError(f"{type(self).__name__} has no resize(model, ratio).")

    def begin(self, model: Model) -> None:
        """Called with the model of a step before anything is tried; does nothing unless overridden.

        Args:
            model: the model.
        """

    def curvature(self, unit: Unit, point: StepPoint, settings: Mapping[str, Any]) -> Curvature:
        """The true Hessian, where no method gives another one.

        Args:
            unit: the parameters.
            point: where they are.
            settings: of the trust region.
        """
        (matrix,) = point.mean([hessian(point.grads_with_graph, point.params)])
        return DenseOperator(matrix)

    # -- the step ----------------------------------------------------------------------------------------------------
    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the Hessian starts from it; else it is evaluated together with that."""
        return self.children["hess"].needs_gradient if "hess" in self.children else False

    def step(self, var: Var) -> Var:
        """Find a step that lowers the loss, and make it the update."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        model = self._model(var)
        if model is None:
            var.info.step_size, var.info.status = 0.0, NO_GRADIENT
            return var
        unit, loss = model.unit, float(number_of(var.get_loss(), var))
        step, status, accepted = None, NOT_FINITE, loss
        if math.isfinite(loss) and bool(unit.largest((~model.g.isfinite()).any().float()) == 0):
            self.begin(model)
            step, status, accepted = self._search(model, var, loss)
        model.state["rejected"] = step is None
        var.info.status, var.info.accepted_loss = status, accepted
        var.info.step_size = 0.0 if step is None else model.norm(step)
        out = list(var.get_update())
        direction = torch.zeros_like(model.g) if step is None else -step
        for place, tensor in zip(unit.places, unit.tensors(direction), strict=True):
            out[place] = tensor.clone()
        var.update = out
        return var

    def _model(self, var: Var) -> Model | None:
        method, state = self.children.get("hess"), self.global_state
        if method is None:
            if not var.params:
                return None
            settings = uniform_settings(self, var.params)
            point = StepPoint(var, self.path, self.without_graph)
            _ = point.grads_with_graph if self.from_graph(settings) else point.grads
            units = units_of(self, var, concat=True, gathers=self.gathers, starts_anew=False)
        else:
            if not isinstance(method, VectorMethod):
                raise TypeError(
                    f"{self.path}(hess=...) takes one method that has a Hessian, such as tz.m.BFGS(), not "
                    f"{type(method).__name__}."
                )
            units = method.learn_from(var, again=not state.get("rejected", False))
        if len(units) > 1 or (units and not units[0].concat):
            raise ValueError(f"{self.path} takes one Hessian for all parameters; give {method} concat_params=True.")
        if not units:
            return None
        unit, settings = units[0], uniform_settings(self, var.params)
        B = self.curvature(unit, point, settings) if method is None else method.curvature(unit)
        return Model(unit.vector(unit.pick(var.get_update())), B, unit, settings, state)

    def from_graph(self, settings: Mapping[str, Any]) -> bool:
        """Whether the true Hessian is taken from the graph of the gradient."""
        return True

    def _search(self, model: Model, var: Var, loss: float) -> tuple[Tensor | None, str, float]:
        """The first step that is good enough, how it went, and the loss that it leads to."""
        if model.norm(model.g) == 0:
            return None, CONVERGED, loss
        rounding = 10 * _eps(var) * abs(loss)
        best, most, bottomless, sizes = None, 0.0, False, _numbers(model.state)
        for _ in range(model.settings["max_attempts"]):
            step, predicted, kept_short = self.solve(model)
            actual = -math.inf
            if not 0 < predicted < math.inf:  # rounding, or no minimum
                ratio = -math.inf
            else:
                actual = loss - self._loss_after(model, var, step)
                if actual == math.inf:  # a region without a bottom: a shorter step ends above it
                    bottomless, actual = True, -math.inf
                if actual > most:
                    best, most = step, actual
                # Where both are rounding their ratio says nothing (Conn, Gould and Toint, section 17.4.2).
                ratio = 1.0 if max(predicted, abs(actual)) <= rounding else actual / predicted
            self.resize(model, ratio, kept_short=kept_short)
            if ratio > model.settings["eta"]:
                return step, "ok", loss - actual
        var.info.falling = bottomless and best is None
        # Where the size has been fitted the next step tries other ones, down to those that are lost in rounding.
        shortest = _eps(var) * max(1.0, model.norm(model.unit.vector(model.unit.params)))
        fitted = _numbers(model.state) != sizes
        var.info.retries = best is None and not bottomless and fitted and model.norm(step) > shortest
        failed = BOTTOMLESS if bottomless else NO_DECREASE
        return best, failed if best is None else "ok", loss - most

    def _loss_after(self, model: Model, var: Var, step: Tensor) -> float:
        """The loss where a step leads."""
        # What a deterministic closure computes here is the start of the next step.
        backward = (
            var.modular is not None
            and var.modular.deterministic
            and ("hess" in self.children or not self.from_graph(model.settings))
        )
        return loss_after(var, model.unit.tensors(-step), f"{self.path}.start", backward=bool(backward))


def _numbers(state: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a state."""
    return {name: value for name, value in state.items() if isinstance(value, float)}


class Radius(TrustMethod):
    """Base class of methods within a ball ‖s‖ ≤ Δ.

    Args:
        init: Δ at first.
        max_radius: the largest Δ.
        nplus: what Δ is multiplied by after a step to the boundary that went as well as the model said.
        nminus: what it is multiplied by after one that went badly.
        rho_good: the share of the predicted decrease from which on a step went well.
        rho_bad: the share below which it went badly.
    """

    kept = {"radius": StateKind.POSITIVE}

    init: Positive = 1.0
    max_radius: Positive = 1000.0
    nplus: Growth = 2.0
    nminus: OpenFraction = 0.25
    rho_good: OpenFraction = 0.75
    rho_bad: OpenFraction = 0.25

    def begin(self, model: Model) -> None:
        """The radius is the state."""
        model.state.setdefault("radius", min(model.settings["init"], model.settings["max_radius"]))

    def resize(self, model: Model, ratio: float, *, kept_short: bool) -> None:
        h, state = model.settings, model.state
        if ratio < h["rho_bad"]:
            state["radius"] = max(h["nminus"] * state["radius"], torch.finfo(model.g.dtype).eps * h["init"])
        elif ratio > h["rho_good"] and kept_short:
            state["radius"] = min(h["nplus"] * state["radius"], h["max_radius"])

    def solve(self, model: Model) -> tuple[Tensor, float, bool]:
        step, kept_short = self.within(model, model.state["radius"])
        return step, model.decrease(step), kept_short

    def within(self, model: Model, radius: float) -> tuple[Tensor, bool]:
        """A step that lowers the model within the ball.

        Args:
            model: the model.
            radius: Δ.

        Returns:
            The step, and whether it ends at the boundary.
        """
        raise NotImplementedError(f"{type(self).__name__} has no within(model, radius).")


def to_boundary(model: Model, start: Tensor, along: Tensor, radius: float) -> tuple[float, float]:
    """The two numbers t with ‖start + t·along‖ = radius, ascending.

    Args:
        model: whose inner product counts.
        start: a point within the ball.
        along: a direction.
        radius: of the ball.
    """
    a, b, c = model.dot(along, along), 2 * model.dot(start, along), model.dot(start, start) - radius**2
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    # the root with no cancellation, and the other one by their product
    far = b + math.copysign(root, b)
    if far == 0:
        return 0.0, 0.0
    low, high = sorted((-far / (2 * a), -2 * c / far))
    return low, high


def _eps(var: Var) -> float:
    """Of the dtype of the loss."""
    dtype = var.get_loss().dtype
    return torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps
