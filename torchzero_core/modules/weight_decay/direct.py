"""Weight decay of the parameters themselves."""

from __future__ import annotations

from ...core import Context, NonNegative, Transform, per_group
from ...lang import Operand, Value
from .weight_decay import NormOrder, penalty


class DirectWeightDecay(Transform):
    r"""Shrinks the parameters at once, before the update is applied: p ← p − lr·wd·sign(p)·abs(p)^(ord−1).

    ``lr`` is the learning rate of the parameter groups; 1 where the chain has none. Modules behind it in the chain see
    the shrunk parameters, with loss and gradients of the start of the step. In
    ``[Adam(), DirectWeightDecay(wd), LR(lr)]`` it is AdamW.

    Args:
        weight_decay: the strength wd.
        ord: the norm: 2 gives wd·p, 1 gives wd·sign(p).

    Reference:
        Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([2.0], requires_grad=True)
        >>> p.grad = torch.tensor([1.0])
        >>> tz.Modular([p], tz.m.DirectWeightDecay(0.1), tz.m.LR(0.5)).step()  # 2 - 0.5·0.1·2 - 0.5·1
        >>> round(p.item(), 4)
        1.4
    """

    weight_decay: NonNegative
    ord: NormOrder = 2
    lr: NonNegative | None = per_group(default=None)

    def __post_init__(self) -> None:
        self.target = "params_direct"

    def rule(self, u: Value, ctx: Context) -> Operand:
        h = ctx.settings
        strength = h.weight_decay if h.lr is None else h.lr * h.weight_decay
        return u - strength * penalty(u, h.ord)
