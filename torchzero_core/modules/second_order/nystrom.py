"""Newton's method with a sketch of the Hessian (Frangella, Tropp & Udell 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Count, NonNegative, Positive, Seed
from ...core.vector_method import Unit
from ...linalg import cg, nystrom
from .products import HessianProducts

NO_PRODUCT = "Hessian product not finite"


class NystromSketchAndSolve(HessianProducts):
    r"""Newton's method with a Hessian of low rank.

    .. math::
        H ≈ U Λ U', \quad
        u ← U(Λ + reg·I)^{-1} U'u + \frac{1}{reg}(u - UU'u)

    ``rank`` Hessian products a step; no n×n matrix. What the sketch does not see is divided by ``reg``, so ``reg`` has
    to be of the size of the eigenvalues beyond the rank: with a smaller one those directions take steps that are too
    long. A line search behind it takes care of that.

    Args:
        rank: of the approximation; at most the number of elements.
        reg: added to the diagonal of H.
        hvp_method: how Hessian products are computed. "forward": from one further gradient; "central": from two, with
            an error of order h²; "autograd": exactly, from a closure(backward=False) whose loss can be differentiated.
        h: the distance of the further gradients.
        inner: a module that gives the right-hand side.
        seed: of the sketch; by default drawn from torch's global generator.

    Raises:
        ValueError: settings that differ between parameter groups.
        RuntimeError: with "autograd", a loss that has no graph.

    Reference:
        Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Analysis and Applications 44,
        2023, arXiv:2110.02820, section 1.4; Frangella, Rathore, Zhao and Udell, "SketchySGD", 2022, arXiv:2211.08597.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> scale = torch.tensor([100.0, 1.0, 1.0])
        >>> def closure(backward=True):
        ...     loss = (scale * p**2).sum() / 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.NystromSketchAndSolve(rank=1, reg=1.0))
        >>> for _ in range(10):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-4
        True
    """

    gathers = True

    rank: Count
    reg: Positive = 1e-3
    hvp_method: Literal["forward", "central", "autograd"] = "autograd"
    h: Positive = 1e-3
    inner: Child | None = None
    seed: Seed | None = None

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Sketch the Hessian."""
        unit.given.sketch = sketch(self, unit, unit.settings["rank"], u)
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The solution for the sketch."""
        if unit.given.sketch is None:
            return x
        basis, values, shift = unit.given.sketch
        reg = unit.settings["reg"]
        return inverse(basis, values + reg, 1 / (shift + reg), x)


class NystromPCG(HessianProducts):
    r"""Newton's method by conjugate gradients that a sketch of the Hessian preconditions.

    Solves (H + reg·I) x = u with

    .. math:: P^{-1} = (λ_r + reg)\, U(Λ + reg·I)^{-1}U' + I - UU', \quad H ≈ U Λ U',

    which takes the largest eigenvalues out of the way, so that far fewer products are needed than without. A step
    costs ``sketch_size`` products for the sketch and one for each iteration; no n×n matrix. At the first direction of
    negative curvature the solver stops with what it has, which points downhill.

    Args:
        sketch_size: rank of the preconditioner; at most the number of elements.
        maxiter: largest number of iterations in a step. None: as many as there are elements, at most 1000.
        tol: tolerance of the solver relative to ‖u‖.
        reg: added to the diagonal of H.
        hvp_method: how Hessian products are computed. "forward": from one further gradient; "central": from two, with
            an error of order h²; "autograd": exactly, from a closure(backward=False) whose loss can be differentiated.
        h: the distance of the further gradients.
        inner: a module that gives the right-hand side.
        seed: of the sketch; by default drawn from torch's global generator.

    Raises:
        ValueError: settings that differ between parameter groups.
        RuntimeError: with "autograd", a loss that has no graph.

    Reference:
        Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Analysis and Applications 44,
        2023, arXiv:2110.02820, algorithm 5.1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.NystromPCG(sketch_size=1), tz.m.StrongWolfe())
        >>> for _ in range(30):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    gathers = True

    sketch_size: Count
    maxiter: Count | None = None
    tol: Beta = 1e-3
    reg: NonNegative = 1e-6
    hvp_method: Literal["forward", "central", "autograd"] = "autograd"
    h: Positive = 1e-3
    inner: Child | None = None
    seed: Seed | None = None

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Sketch the Hessian."""
        unit.given.sketch = sketch(self, unit, unit.settings["sketch_size"], u)
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The approximate solution of (H + reg·I) d = x."""
        if unit.given.sketch is None:
            return x
        h, (basis, values, _) = unit.settings, unit.given.sketch
        least = values[-1] + h["reg"]
        scales = torch.where(least > 0, least / (values + h["reg"]), 1.0)  # nothing to learn from a Hessian of zero
        result = cg(
            unit.given.on(unit),
            x,
            tol=h["tol"],
            maxiter=min(unit.numel(), 1000) if h["maxiter"] is None else h["maxiter"],
            reg=h["reg"],
            preconditioner=lambda r: inverse(basis, 1 / scales, 1.0, r),
        )
        if result.status == "breakdown":
            unit.given.info.status = NO_PRODUCT
        if result.curved is None:
            return result.x
        return result.curved if result.iterations == 1 else result.x + result.curved


def sketch(module: HessianProducts, unit: Unit, rank: int, like: Tensor) -> tuple[Tensor, Tensor, float] | None:
    """Basis and eigenvalues of the Hessian's approximation, and its shift; None where a product is not finite.

    Args:
        module: whose generator draws.
        unit: the parameters.
        rank: of the approximation.
        like: a vector.
    """
    n = like.numel()
    generator = module.generator(like.device)
    test = torch.randn(n, min(rank, n), generator=generator, dtype=like.dtype, device=like.device)
    found = nystrom(unit.given.on(unit), test)
    if found is None:
        unit.given.info.status = NO_PRODUCT
    return found


def inverse(basis: Tensor, values: Tensor, rest: float, x: Tensor) -> Tensor:
    """U diag(values)⁻¹ U'x + rest·(x − UU'x).

    Args:
        basis: U, with orthonormal columns.
        values: the eigenvalues on it.
        rest: what the complement is multiplied by.
        x: the vector.
    """
    inside = basis.mT @ x
    return basis @ (inside / values - rest * inside) + rest * x
