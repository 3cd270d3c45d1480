"""Muon (Jordan et al. 2024)."""

from __future__ import annotations

from torch import Tensor

from ...core import Beta, Context, Slot, Transform
from ...lang import Value
from .orthogonal_scales import is_matrix
from .orthogonalize import OrthogonalFactor


class LookAhead(Transform):
    """The settings of Muon's momentum; a base of its own, so that they come before those of the factor."""

    momentum: Beta = 0.95
    nesterov: bool = True


class Muon(OrthogonalFactor, LookAhead):
    r"""Momentum, then the orthogonal factor of the update matrix; for the hidden weights of a network.

    .. math:: m_t = μ m_{t-1} + (1-μ) u_t, \quad u ← orthogonalize((1-μ) u_t + μ m_t)

    It is meant for weights of two and more dimensions other than embeddings and the head. Send the others elsewhere
    with one line, ``Split("hidden_matrices", Muon(), Adam())``; parameters of fewer than two dimensions that come here
    nevertheless get the momentum alone, and a warning names them. So do, without one, those of a group with
    ``orthogonalize=False``.

    Args:
        momentum: decay μ of the average, in [0, 1).
        nesterov: look ahead as in the formula; otherwise m is orthogonalised.
        ns_steps: number of Newton–Schulz iterations.
        adjust_lr: multiply by 0.2·√max(rows, columns), which lets Muon use the learning rate of Adam.
        dual_norm_correction: multiply by the dual norm ⟨g, U V'⟩.
        method: "newton-schulz" or the exact "svd".
        ns_dtype: in what the Newton–Schulz products are computed; None: bfloat16 where the device has units for it.
        target: what it is applied to.
        coefficients: of the Newton–Schulz iterations, "quintic", "polar-express" or triples of numbers; see
            :class:`Orthogonalize`.

    Reference:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scale: Liu et al., "Muon is
        Scalable for LLM Training", 2025, arXiv:2502.16982.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[0.0, -2.0], [5.0, 0.0]])
        >>> tz.Modular([p], tz.m.Muon(method="svd"), tz.m.LR(0.1)).step()
        >>> p.detach().round(decimals=4) + 0.0
        tensor([[ 0.0000,  0.1000],
                [-0.1000,  0.0000]])
    """

    size_effect = "own"
    exp_avg = Slot()

    @staticmethod
    def takes(param: Tensor) -> bool:
        """Whether the method is for a parameter of this shape."""
        return is_matrix(param.shape)

    def rule(self, u: Value, ctx: Context) -> Value:
        s, h = ctx.state, ctx.settings
        s.exp_avg = m = s.exp_avg.lerp(u, 1 - h.momentum)
        return self.factor(m.lerp(u, 1 - h.momentum) if h.nesterov else m, ctx)

    def check(self, params: list[Tensor]) -> None:
        """Name the parameters that the method is not for."""
        small = [p for p in params if not self.takes(p)]
        if small and self.home is not None:
            shapes = ", ".join(str(tuple(p.shape)) for p in small[:3]) + (", …" if len(small) > 3 else "")
            self.home.warn_once(
                self.path,
                f"{self.path} is for weights of two or more dimensions and gives {len(small)} of the {len(params)} "
                f"parameters (of shape {shapes}) its momentum alone. Send them to another method: "
                "Split(lambda p: p.ndim >= 2, Muon(), Adam()), or Split('hidden_matrices', Muon(), Adam()), which "
                "also spares embeddings and the head.",
            )
