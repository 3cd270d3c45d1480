"""Updates orthogonal to the parameters (Prieto et al. 2025)."""

from __future__ import annotations

from ...core import Context, NonNegative, Target, Transform
from ...lang import Operand, Value


class OrthoGrad(Transform):
    r"""Takes the part along the parameters out of the update, which would only scale them.

    .. math:: u ← u - \frac{⟨p, u⟩}{⟨p, p⟩ + ε}\, p

    with the inner products over all parameters together.

    Args:
        eps: added to ⟨p, p⟩.
        renormalize: scale the result to the norm that the update had.
        target: what is made orthogonal.

    Reference: L. Prieto et al., "Grokking at the edge of numerical stability", 2025, arXiv:2501.04697.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([2.0, 0.0], requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> tz.Modular([p], tz.m.OrthoGrad()).step()
        >>> p.detach()
        tensor([ 2., -5.])
    """

    eps: NonNegative = 1e-8
    renormalize: bool = True
    target: Target = "update"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h, p = ctx.settings, ctx.params
        out = u - p * (p.global_dot(u) / (p.global_dot(p) + h.eps))
        if not h.renormalize:
            return out
        before, after = u.global_norm(), out.global_norm()
        return out * (after > 0).where(before / after, 0.0)
