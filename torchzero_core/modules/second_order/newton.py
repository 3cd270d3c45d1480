"""Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...core import Child, NonNegative, StepInfo, Var
from ...core.evaluate import uniform_settings
from ...core.point import StepPoint
from ...core.vector_method import Unit, VectorMethod, reductions_of
from ...linalg import DenseOperator, SymmetricOperator, hessian, solve_symmetric, solved_by_cholesky


@dataclass(eq=False)
class _Curvature:
    """The Hessian of a step, what solves with it, and where to say how it went."""

    matrix: Tensor
    info: StepInfo
    solve: Callable[[Tensor], Tensor] | None = None


class Newton(VectorMethod):
    r"""Newton's method with the whole Hessian.

    .. math:: u ← (H + reg·I)^{-1} u

    The system is solved by Cholesky factors, else by LU factors, else by least squares. Where the Hessian is not
    positive definite the direction may point uphill, unless ``eig_reg``, ``search_negative`` or ``eigval_tfm`` says
    what to do: ``eigval_tfm=lambda values: values.abs().clamp(min=1e-3)`` is the saddle-free Newton method.

    Args:
        reg: added to the diagonal of H.
        eig_reg: where the least eigenvalue is negative, it is taken from the diagonal too, so that H + … is positive
            definite.
        search_negative: where H has a negative eigenvalue, the direction is the eigenvector of the most negative one,
            turned downhill.
        hessian_method: how the rows of H are taken. "autograd": by backward passes through the graph of the gradient,
            as ``vectorize`` says; "func": the same under ``torch.func.vmap``; "autograd.functional": one row after the
            other, as ``torch.autograd.functional.hessian`` does, unless ``vectorize``.
        vectorize: many rows in one batched backward pass. False takes less memory, and works for operations that have
            no batching rule.
        inner: a module that gives the right-hand side.
        H_tfm: ``H_tfm(H, u)`` returns a matrix and whether it is the inverse already.
        eigval_tfm: ``eigval_tfm(values)`` returns the eigenvalues to use in place of those of H; those for
            ``torch.abs`` are only computed where one is negative.

    Raises:
        ValueError: settings that differ between parameter groups.
        RuntimeError: a loss that has no graph.

    Reference:
        Nocedal and Wright, Numerical Optimization, 2006, sections 3.3 and 3.4; Dauphin et al., "Identifying and
        attacking the saddle point problem", 2014, arXiv:1406.2572.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Newton(), tz.m.Backtracking())
        >>> for _ in range(30):
        ...     loss = optimizer.step(lambda backward=True: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2)
        >>> loss.item() < 1e-8
        True
    """

    requires_closure = True
    needs_gradient = False
    starts_anew = False
    gathers = True

    reg: NonNegative = 1e-6
    eig_reg: bool = False
    search_negative: bool = False
    hessian_method: Literal["autograd", "func", "autograd.functional"] = "autograd"
    vectorize: bool = True
    inner: Child | None = None
    H_tfm: Callable[[Tensor, Tensor], tuple[Tensor, bool]] | None = None
    eigval_tfm: Callable[[Tensor], Tensor] | None = None

    def prepare(self, var: Var) -> _Curvature:
        """The Hessian, and the gradient where nothing has evaluated it so far."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the Hessian: call optimizer.step(closure).")
        h = uniform_settings(self, var.params)
        grads = StepPoint(var, self.path, "NewtonCG(hvp_method='forward')").grads_with_graph
        matrix = hessian(grads, var.params, vectorize=h["vectorize"], vmap=h["hessian_method"] == "func")
        (matrix,) = reductions_of(var).mean_grads([matrix])
        return _Curvature(matrix, var.info)

    def learn(self, unit: Unit, u: Tensor) -> bool:
        """Factor the Hessian."""
        unit.given.solve = self._solver(unit.given, unit.settings, u)
        return False

    def apply(self, unit: Unit, x: Tensor) -> Tensor:
        """The solution of (H + reg·I) d = x."""
        return x if unit.given.solve is None else unit.given.solve(x)

    def curvature(self, unit: Unit) -> SymmetricOperator:
        """H + reg·I."""
        matrix = unit.given.matrix.to(unit.update)
        return DenseOperator(
            matrix + unit.settings["reg"] * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        )

    def _solver(self, given: _Curvature, h: Any, u: Tensor) -> Callable[[Tensor], Tensor] | None:
        matrix = given.matrix.to(u.dtype)
        if not bool(matrix.isfinite().all()):
            given.info.status = "Hessian not finite"
            return None
        shift = h["reg"]
        if h["eig_reg"]:
            shift += max(0.0, -float(torch.linalg.eigvalsh(matrix)[0])) if len(matrix) else 0.0
        matrix = matrix + shift * torch.eye(len(matrix), dtype=u.dtype, device=u.device)
        if h["H_tfm"] is not None:
            matrix, inverted = h["H_tfm"](matrix, u)
            if inverted:
                return lambda x: matrix @ x
        if h["eigval_tfm"] is None and not h["search_negative"]:
            return lambda x: solve_symmetric(matrix, x)
        if h["eigval_tfm"] in (torch.abs, Tensor.abs) and (solve := solved_by_cholesky(matrix)) is not None:
            return solve  # all eigenvalues are positive, and taking the matrix apart takes ten times as long
        values, vectors = torch.linalg.eigh(matrix)
        if h["search_negative"] and bool(values[0] < 0):
            return lambda x: torch.where(vectors[:, 0] @ x < 0, -vectors[:, 0], vectors[:, 0])
        if h["eigval_tfm"] is not None:
            values = h["eigval_tfm"](values)
        reciprocals = torch.where(values == 0, 0.0, 1 / values)  # where there is no curvature nothing can be said
        return lambda x: vectors @ (reciprocals * (vectors.mT @ x))
