"""How long orthogonal updates are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...core import Context, Finite, Target, Transform
from ...lang import Operand, Value


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape is taken for a matrix of (first dimension, the rest)."""
    return len(shape) >= 2


def rms_matched(u: Value, ctx: Context, alpha: Operand = 1.0) -> Value:
    """Matrices times α·0.2·√max(rows, columns), so that orthogonal ones have the root mean square 0.2·α.

    Args:
        u: the update.
        ctx: the rule's context.
        alpha: another factor.
    """

    def factor(shape: Sequence[int]) -> float:
        return 0.2 * math.sqrt(max(shape[0], math.prod(shape[1:]))) if is_matrix(shape) else 0.0

    others = ctx.of_shape(lambda shape: float(not is_matrix(shape)))
    return u * (ctx.of_shape(factor) * alpha + others)


def dual_normed(u: Value, ctx: Context) -> Value:
    """Matrices times their inner product with the gradient.

    Args:
        u: the update.
        ctx: the rule's context.
    """
    matrix = ctx.of_shape(lambda shape: float(is_matrix(shape))) > 0
    return u * matrix.where(u.dot(ctx.grads), 1.0)


class DualNormCorrection(Transform):
    r"""Multiplies an update matrix X by ⟨g, X⟩; behind :class:`Orthogonalize`, X ← U V' · tr Σ for g = U Σ V'.

    That is the steepest descent step for the spectral norm, with its length. Tensors of fewer than two dimensions pass
    as they are.

    Args:
        target: what is multiplied.

    Reference: J. Bernstein and L. Newhouse, "Old optimizer, new norm: An anthology", 2024, arXiv:2409.20325.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[0.0, -2.0], [5.0, 0.0]])
        >>> tz.Modular([p], tz.m.Orthogonalize(method="svd"), tz.m.DualNormCorrection()).step()
        >>> p.detach().round(decimals=4) + 0.0
        tensor([[ 0.,  7.],
                [-7.,  0.]])
    """

    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Value:
        return dual_normed(u, ctx)


class MuonAdjustLR(Transform):
    r"""Multiplies an update matrix by α·0.2·√max(rows, columns).

    Behind :class:`Orthogonalize` it has the root mean square of a usual update of Adam then, so that Muon can use the
    learning rate and weight decay of Adam. Tensors of more than two dimensions are matrices of (first dimension, the
    rest); those of fewer pass as they are.

    Args:
        alpha: a further factor.
        target: what is multiplied.

    Reference: J. Liu et al., "Muon is scalable for LLM training", 2025, arXiv:2502.16982.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 25, requires_grad=True)
        >>> p.grad = torch.ones(2, 25)
        >>> tz.Modular([p], tz.m.MuonAdjustLR()).step()
        >>> p.detach()[0, 0]
        tensor(-1.)
    """

    alpha: Finite = 1.0
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Value:
        return rms_matched(u, ctx, ctx.settings.alpha)
