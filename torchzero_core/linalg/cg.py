"""Conjugate gradients for a symmetric operator that is known only by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CGStatus = Literal["converged", "maxiter", "negative curvature", "breakdown"]


@dataclass
class CGResult:
    """What :func:`cg` found.

    Attributes:
        x: the solution, or the last iterate before it had to stop.
        status: "converged"; "maxiter"; "negative curvature": the operator is not positive definite and ``x`` is the
            iterate before it showed (b itself if it showed at once); "breakdown": a product was not finite.
        iterations: number of products with the operator.
        residual_norm: ‖b − Ax‖ as the recursion has it.
        curved: at "negative curvature" the direction d in which it showed, scaled by the length that a step along it
            would have with the curvature's sign turned, ‖r‖²/abs(d'Ad); it points downhill. None otherwise.
    """

    x: Tensor
    status: CGStatus
    iterations: int
    residual_norm: float
    curved: Tensor | None = None


def cg(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    *,
    tol: float = 1e-4,
    atol: float = 0.0,
    maxiter: int | None = None,
    reg: float = 0.0,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    truncate: bool = True,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> CGResult:
    """Solve (A + reg·I) x = b approximately, for symmetric A given by its products.

    Ends when ‖b − Ax‖ ≤ max(tol·‖b‖, atol), when ``maxiter`` products are spent, or, with ``truncate``, at the first
    direction d with d'Ad ≤ 0 (Steihaug 1983). For a positive definite A every iterate from x = 0 on is a descent
    direction of the quadratic, and so is the one returned on negative curvature.

    Args:
        operator: x ↦ Ax. What it returns is not kept and not written to.
        b: right-hand side, a vector.
        x0: where to start; zero by default, which saves a product. A start that leaves a larger residual than zero
            does is not used.
        tol: tolerance relative to ‖b‖, the forcing term of an inexact Newton method.
        atol: absolute tolerance.
        maxiter: largest number of products, len(b) by default (plus one for ``x0``).
        reg: added to the diagonal.
        preconditioner: r ↦ Mr with M an approximate inverse of A, symmetric positive definite.
        truncate: stop at negative curvature. False: go on with it (for a matrix that is symmetric but not definite).
        reduce: sums inner products over shards; the identity by default.

    Returns:
        The result; its ``x`` is finite if b is.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, algorithms 5.3 and 7.1.

    Example:
        >>> a = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> result = cg(a.mv, torch.tensor([1.0, 2.0]), tol=1e-6)
        >>> result.x.round(decimals=4), result.status, result.iterations
        (tensor([0.0909, 0.6364]), 'converged', 2)
    """

    def dot(a: Tensor, c: Tensor) -> Tensor:
        value = torch.dot(a, c)
        return value if reduce is None else reduce(value)

    def product(v: Tensor) -> Tensor:
        return operator(v) if reg == 0 else operator(v) + reg * v

    limit = b.numel() if maxiter is None else maxiter
    b_norm = math.sqrt(max(float(dot(b, b)), 0.0))
    if not math.isfinite(b_norm):
        return CGResult(torch.zeros_like(b), "breakdown", 0, b_norm)
    goal = max(tol * b_norm, atol)
    x, r, used, norm = torch.zeros_like(b), b.clone(), 0, b_norm
    if x0 is not None and b_norm > goal:
        started = b - product(x0)
        start_norm = math.sqrt(max(float(dot(started, started)), 0.0))
        used, limit = 1, limit + (maxiter is None)
        if start_norm < b_norm:
            x, r, norm = x0.clone(), started, start_norm
    if norm <= goal:
        return CGResult(x, "converged", used, norm)
    z = r if preconditioner is None else preconditioner(r)
    direction, rz = z.clone(), dot(r, z)
    first = True
    while used < limit:
        product_d = product(direction)
        used += 1
        curvature = float(dot(direction, product_d))
        if not math.isfinite(curvature):
            return CGResult(b.clone() if first else x, "breakdown", used, norm)
        if (truncate and curvature <= 0) or curvature == 0:
            # a direction of next to no curvature is not followed for ever
            floor = 1e-3 * math.sqrt(float(dot(direction, direction)) * float(dot(product_d, product_d)))
            length = float(rz) / max(abs(curvature), floor) if floor > 0 else 1.0
            curved = direction * length if math.isfinite(length) else direction
            return CGResult(b.clone() if first else x, "negative curvature", used, norm, curved)
        first = False
        alpha = float(rz) / curvature
        x.add_(direction, alpha=alpha)
        r.sub_(product_d, alpha=alpha)
        norm = math.sqrt(max(float(dot(r, r)), 0.0))
        if norm <= goal:
            return CGResult(x, "converged", used, norm)
        z = r if preconditioner is None else preconditioner(r)
        rz, before = dot(r, z), rz
        direction.mul_(float(rz) / float(before)).add_(z)
    return CGResult(x, "maxiter", used, norm)
