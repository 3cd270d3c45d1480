"""Products of the Hessian with a vector, over lists of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from .vector import elsewhere, total_dot

#: Evaluates the gradient where the parameters are now; the tensors it returns are the caller's to keep.
Gradient = Callable[[], Sequence[Tensor]]
#: How a product is computed; see :func:`hvp`.
HVPMethod: TypeAlias = Literal["forward", "central", "autograd"]


class Point(Protocol):
    """Where products with the Hessian are taken."""

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters."""

    @property
    def grads(self) -> Sequence[Tensor]:
        """The gradient here."""

    @property
    def grads_with_graph(self) -> Sequence[Tensor]:
        """The gradient here, which can be differentiated again."""

    def gradient(self) -> Sequence[Tensor]:
        """The gradient where the parameters have been moved to; the caller's to keep."""

    def total(self, x: Tensor) -> Tensor:
        """The sum of a number over ranks that hold parts of the parameters."""

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """The mean over ranks that have seen other data."""


def hvp(point: Point, vector: Sequence[Tensor], method: HVPMethod, h: float = 1e-3) -> list[Tensor]:
    """H·v by one of the three methods.

    Args:
        point: where, and how gradients are evaluated.
        vector: v, one tensor for each parameter.
        method: "forward": from one further gradient; "central": from two, with an error of order h²; "autograd":
            exactly, from a gradient that can be differentiated.
        h: the distance of the further gradients.
    """
    if method == "autograd":
        return point.mean(hvp_autograd(point.grads_with_graph, point.params, vector))
    if method == "forward":
        return hvp_forward(point.gradient, point.params, vector, point.grads, h, point.total)
    return hvp_central(point.gradient, point.params, vector, h, point.total)


def hvp_autograd(
    grads: Sequence[Tensor], params: Sequence[Tensor], vector: Sequence[Tensor], *, retain_graph: bool = True
) -> list[Tensor]:
    """H·v exactly, by differentiating g'v once more.

    Args:
        grads: the gradient, computed with ``create_graph=True``.
        params: what it is the gradient with respect to.
        vector: v, one tensor for each parameter.
        retain_graph: keep the graph for further products.

    Returns:
        H·v; zeros for parameters on which the gradient does not depend.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> g = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
        >>> hvp_autograd(g, [x], [torch.tensor([1.0, 1.0])])
        [tensor([ 6., 12.])]
    """
    pairs = [(g, v) for g, v in zip(grads, vector, strict=True) if g.requires_grad]
    if not pairs:  # a linear function
        return [torch.zeros_like(p) for p in params]
    with torch.enable_grad():
        out = torch.autograd.grad(
            [g for g, _ in pairs], list(params), [v for _, v in pairs], retain_graph=retain_graph, allow_unused=True
        )
    return [torch.zeros_like(p) if h is None else h.detach() for p, h in zip(params, out, strict=True)]


def hvp_forward(
    gradient: Gradient,
    params: Sequence[Tensor],
    vector: Sequence[Tensor],
    at: Sequence[Tensor],
    h: float = 1e-3,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """H·v ≈ (g(x + t·v) − g(x)) / t with t = h/‖v‖: one gradient evaluation, error of order h.

    Args:
        gradient: evaluates the gradient where the parameters are.
        params: the parameters. They are moved and put back exactly, also when ``gradient`` raises.
        vector: v.
        at: g(x).
        h: the distance by which the parameters are moved.
        reduce: sums ‖v‖² over shards; the identity by default.

    Example:
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> (out,) = hvp_forward(lambda: [3 * x**2], [x], [torch.tensor([2.0, 0.0])], [3 * x**2], h=1e-6)
        >>> out.round(decimals=3)
        tensor([12.,  0.], dtype=torch.float64)
    """
    t = _distance(vector, h, reduce)
    if t is None:
        return [torch.zeros_like(p) for p in params]
    (moved,) = _gradients_at(gradient, params, vector, [t])
    out = torch._foreach_sub(moved, list(at))
    torch._foreach_div_(out, t)
    return list(out)


def hvp_central(
    gradient: Gradient,
    params: Sequence[Tensor],
    vector: Sequence[Tensor],
    h: float = 1e-3,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """H·v ≈ (g(x + t·v) − g(x − t·v)) / 2t with t = h/‖v‖: two gradient evaluations, error of order h².

    Args:
        gradient: evaluates the gradient where the parameters are.
        params: the parameters. They are moved and put back exactly, also when ``gradient`` raises.
        vector: v.
        h: the distance by which the parameters are moved.
        reduce: sums ‖v‖² over shards; the identity by default.

    Example:
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> (out,) = hvp_central(lambda: [3 * x**2], [x], [torch.tensor([2.0, 0.0])])
        >>> out.round(decimals=6)
        tensor([12.,  0.], dtype=torch.float64)
    """
    t = _distance(vector, h, reduce)
    if t is None:
        return [torch.zeros_like(p) for p in params]
    plus, minus = _gradients_at(gradient, params, vector, [t, -t])
    out = torch._foreach_sub(plus, minus)
    torch._foreach_div_(out, 2 * t)
    return list(out)


def _distance(vector: Sequence[Tensor], h: float, reduce: Callable[[Tensor], Tensor] | None) -> float | None:
    """The multiple of the vector that has length h; None for zero, whose product is zero."""
    square = total_dot(vector, vector)
    norm = float(square if reduce is None else reduce(square)) ** 0.5
    return h / norm if norm > 0 else None


@torch.no_grad()
def _gradients_at(
    gradient: Gradient, params: Sequence[Tensor], vector: Sequence[Tensor], multiples: Sequence[float]
) -> list[list[Tensor]]:
    """The gradient at x + t·v for each t."""
    out = []
    with elsewhere(params) as (data, start):
        for t in multiples:
            torch._foreach_copy_(data, list(vector))
            torch._foreach_mul_(data, t)
            torch._foreach_add_(data, start)
            out.append(list(gradient()))
    return out
