"""Cautious updates (Liang et al. 2024), and others that ask how far an update agrees with the gradient."""

from __future__ import annotations

from typing import Any, Literal

from ...core import Child, Context, NonNegative, Target, Transform
from ...lang import Operand, Value


def _cautious(u: Value, g: Value, h: Any) -> Value:
    """u where its sign is that of g, and elsewhere what the mode says."""
    agrees = u * g > 0
    if h.mode == "grad":
        return agrees.where(u, g)
    if h.mode == "backtrack":
        return agrees.where(u, -u)
    kept = agrees.where(u, 0.0)
    return kept / agrees.float().mean().maximum(h.eps) if h.normalize else kept


def _cosine(u: Value, g: Value, ctx: Context) -> Value:
    """The cosine of the angle between two updates of all parameters; 0 where their squares overflow."""
    cosine = u.global_dot(g) / (u.global_norm() * g.global_norm()).maximum(ctx.settings.eps)
    return cosine.isfinite().where(cosine, 0.0)


class Cautious(Transform):
    r"""Drops the elements of the update whose sign the gradient contradicts: u ← u·[u·g > 0].

    Placed after any optimizer it makes the cautious version of it.

    Args:
        normalize: divide by the share of elements that are kept in each tensor, so that the mean length of the step
            stays; only with mode "zero".
        eps: the least share to divide by.
        mode: what the other elements become: "zero" drops them, "grad" replaces them by the gradient, "backtrack"
            turns their sign.
        target: what is masked.

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.HeavyBall(0.9), tz.m.Cautious())
        >>> for grad in ([1.0, 1.0], [-0.5, 1.0]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-1.0000, -2.9000])
    """

    size_effect = "keeps"
    normalize: bool = False
    eps: NonNegative = 1e-6
    mode: Literal["zero", "grad", "backtrack"] = "zero"
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Value:
        return _cautious(u, ctx.grads, ctx.settings)


class IntermoduleCautious(Transform):
    r"""Drops the elements of one module's update whose sign another module contradicts: u ← m·[m·c > 0].

    Args:
        main: gives m.
        compare: gives c, from the same update.
        normalize: divide by the share of elements that are kept in each tensor; only with mode "zero".
        eps: the least share to divide by.
        mode: what the other elements become: "zero" drops them, "grad" replaces them by those of c, "backtrack" turns
            their sign.

    Reference:
        Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024, arXiv:2411.16085, for the
        gradient in the place of c.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.IntermoduleCautious(tz.m.HeavyBall(0.9), tz.m.Sign()))
        >>> for grad in ([1.0, 1.0], [-0.5, 1.0]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-1.0000, -2.9000])
    """

    main: Child
    compare: Child
    normalize: bool = False
    eps: NonNegative = 1e-6
    mode: Literal["zero", "grad", "backtrack"] = "zero"

    def rule(self, u: Value, ctx: Context) -> Value:
        return _cautious(ctx.child("main", u), ctx.child("compare", u), ctx.settings)


class ScaleByGradCosineSimilarity(Transform):
    r"""Scales the update by how far it points where the gradient does: u ← u·cos(u, g).

    .. math:: u ← u · \frac{⟨u, g⟩}{\max(‖u‖‖g‖, ε)}, \quad \text{over all parameters}

    An update that points uphill is turned.

    Args:
        eps: the least product of norms to divide by.
        target: what is scaled.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> tz.Modular([p], tz.m.Sign(), tz.m.ScaleByGradCosineSimilarity()).step()
        >>> p.detach()  # 7 / (5·√2)
        tensor([-0.9899, -0.9899])
    """

    eps: NonNegative = 1e-6
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        return u * _cosine(u, ctx.grads, ctx)


class ScaleModulesByCosineSimilarity(Transform):
    r"""Scales one module's update by how far it points where another's does: u ← m·cos(m, c).

    .. math:: u ← m · \frac{⟨m, c⟩}{\max(‖m‖‖c‖, ε)}, \quad \text{over all parameters}

    Args:
        main: gives m.
        compare: gives c, from the same update.
        eps: the least product of norms to divide by.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> tz.Modular([p], tz.m.ScaleModulesByCosineSimilarity(tz.m.Sign(), tz.m.Identity())).step()
        >>> p.detach()  # 7 / (5·√2)
        tensor([-0.9899, -0.9899])
    """

    main: Child
    compare: Child
    eps: NonNegative = 1e-6

    def rule(self, u: Value, ctx: Context) -> Operand:
        main = ctx.child("main", u)
        return main * _cosine(main, ctx.child("compare", u), ctx)


class UpdateGradientSignConsistency(Transform):
    r"""Where the update has the sign of the gradient: u ← [u·g > 0].

    Args:
        normalize: divide by the share of ones in each tensor.
        eps: the least share to divide by.
        target: what is compared and replaced.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.HeavyBall(0.9), tz.m.UpdateGradientSignConsistency(normalize=True))
        >>> for grad in ([1.0, 1.0], [-0.5, 1.0]):
        ...     p.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> p.detach()
        tensor([-1., -3.])
    """

    normalize: bool = False
    eps: NonNegative = 1e-6
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h, agrees = ctx.settings, (u * ctx.grads > 0).float()
        return agrees / agrees.mean().maximum(h.eps) if h.normalize else agrees
