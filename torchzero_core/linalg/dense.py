"""Dense Hessians and systems with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Numbers that a batch of backward passes may put into memory at once, about.
BATCH = 1 << 24


def hessian(grads: Sequence[Tensor], params: Sequence[Tensor], *, vectorize: bool = True, vmap: bool = False) -> Tensor:
    """The Hessian of a loss, symmetric, in float32 at least.

    Args:
        grads: its gradient, computed with ``create_graph=True``.
        params: what it is the gradient with respect to.
        vectorize: many rows in one batched backward pass.
        vmap: batch by ``torch.func.vmap``.

    Returns:
        A matrix of shape (n, n) for n elements in all; zeros where the gradient does not depend on an element.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> g = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
        >>> hessian(g, [x])
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    with torch.enable_grad():
        flat = torch.cat([g.reshape(-1) for g in grads])
    matrix = jacobian(flat, params, vectorize=vectorize, vmap=vmap)
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    return (matrix + matrix.mT) / 2


def jacobian(
    out: Tensor,
    params: Sequence[Tensor],
    *,
    vectorize: bool = True,
    vmap: bool = False,
    create_graph: bool = False,
) -> Tensor:
    """The derivatives of a vector with respect to tensors that are taken as one vector.

    Args:
        out: the vector, with its graph.
        params: the tensors.
        vectorize: many rows in one batched backward pass.
        vmap: batch by ``torch.func.vmap``.
        create_graph: make it differentiable.

    Returns:
        A matrix of shape (len(out), n); zeros for tensors that the vector does not depend on.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> jacobian(torch.stack([x.sum(), x.prod()]), [x])
        tensor([[1., 1.],
                [2., 1.]])
    """
    n = sum(p.numel() for p in params)
    if not out.requires_grad or not len(out) or not params:
        return out.new_zeros(len(out), n)
    size = max(1, BATCH // max(1, n)) if vectorize or vmap else 1
    parts = []
    for start in range(0, len(out), size):
        stop = min(start + size, len(out))
        rows = out.new_zeros(stop - start, len(out))
        rows[range(stop - start), range(start, stop)] = 1
        parts.append(_rows(out, params, rows, batched=size > 1, vmap=vmap, create_graph=create_graph))
    return torch.cat(parts)


def _rows(
    out: Tensor, params: Sequence[Tensor], rows: Tensor, *, batched: bool, vmap: bool, create_graph: bool
) -> Tensor:
    """Some rows of the jacobian: the products of ``rows`` with it."""

    def products(v: Tensor, *, batch: bool) -> tuple[Tensor, ...]:
        found = torch.autograd.grad(
            out,
            list(params),
            v,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batch,
        )
        shape = v.shape[:-1] if batch else ()
        # typed as if every tensor were used
        given: Sequence[Tensor | None] = found
        return tuple(p.new_zeros(*shape, *p.shape) if g is None else g for g, p in zip(given, params, strict=True))

    with torch.enable_grad():
        if vmap:
            taken = torch.func.vmap(lambda v: products(v, batch=False))(rows)
        else:
            taken = products(rows if batched else rows[0], batch=batched)
        flat = torch.cat([t.reshape(len(rows), -1) for t in taken], 1)
    return flat if create_graph else flat.detach()


def solved_by_cholesky(matrix: Tensor) -> Callable[[Tensor], Tensor] | None:
    """What solves Ax = b for a vector b, by Cholesky factors; None where A is not positive definite.

    Args:
        matrix: A, symmetric.

    Example:
        >>> solved_by_cholesky(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))(torch.tensor([2.0, 4.0]))
        tensor([1., 1.])
        >>> solved_by_cholesky(torch.tensor([[2.0, 0.0], [0.0, -4.0]])) is None
        True
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(factor.isfinite().all()):
        return None
    return lambda b: torch.cholesky_solve(b.unsqueeze(1), factor).squeeze(1)


def solve_symmetric(matrix: Tensor, b: Tensor) -> Tensor:
    """The solution of Ax = b by Cholesky factors, else by LU factors, else by least squares; NaN where A is not finite.

    Args:
        matrix: A, symmetric.
        b: a vector.

    Example:
        >>> solve_symmetric(torch.tensor([[2.0, 0.0], [0.0, -4.0]]), torch.tensor([2.0, 4.0]))
        tensor([ 1., -1.])
    """
    if not b.numel():
        return b
    solve = solved_by_cholesky(matrix)
    if solve is not None:
        x = solve(b)
        if bool(x.isfinite().all()):
            return x
    x, info = torch.linalg.solve_ex(matrix, b)
    if int(info) == 0 and bool(x.isfinite().all()):
        return x
    if not bool(matrix.isfinite().all()):  # LAPACK is not to be asked
        return torch.full_like(b, torch.nan)
    return torch.linalg.lstsq(matrix, b.unsqueeze(1), driver="gelsd" if b.device.type == "cpu" else None).solution[:, 0]
