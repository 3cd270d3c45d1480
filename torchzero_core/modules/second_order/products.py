"""What the methods share that know the Hessian by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core import StepInfo, Var
from ...core.evaluate import uniform_settings
from ...core.point import StepPoint
from ...core.vector_method import Unit, VectorMethod
from ...linalg import SymmetricOperator, hvp


@dataclass(eq=False)
class System:
    """The system of a step: products with H, the solver's tolerance, and where to say how it went."""

    product: Callable[[list[Tensor]], list[Tensor]]
    info: StepInfo
    tol: float = 0.0

    def on(self, unit: Unit) -> Callable[[Tensor], Tensor]:
        """Products with vectors."""
        return lambda v: unit.vector(self.product(unit.tensors(v)))


class HessianProducts(VectorMethod):
    """Base of methods that know the Hessian by its products; ``unit.given`` is their :class:`System`.

    A subclass has the settings ``hvp_method`` and ``h``.
    """

    requires_closure = True
    starts_anew = False

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """With autograd the module takes the gradient itself, so that it can be differentiated again."""
        return self.defaults["hvp_method"] != "autograd"

    def prepare(self, var: Var) -> System:
        """Evaluate the gradient of the step, if nothing has done so yet, in the way that the products need it."""
        settings = uniform_settings(self, var.params)
        method, h, point = settings["hvp_method"], settings["h"], StepPoint(var, self.path)
        _ = point.grads_with_graph if method == "autograd" else point.grads
        return System(lambda v: hvp(point, v, method, h), var.info)

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """Products with H + reg·I."""
        product, reg = unit.given.on(unit), unit.settings["reg"]
        assert unit.update is not None
        return SymmetricOperator(lambda v: product(v) + reg * v, unit.update)
