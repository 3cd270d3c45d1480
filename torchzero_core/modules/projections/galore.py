"""GaLore (Zhao et al. 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...core import Count, Modules, NonNegative, Passed, StateKind, Var
from ...linalg import at_least_float32
from .base import Current, Projection


class GaLore(Projection):
    r"""Runs modules on a projection of each matrix to a low rank, so that their state has the size of that.

    .. math:: R = P^\top U, \quad ΔW = scale · P · modules(R)

    P has the first ``rank`` left singular vectors of the update U, taken anew every ``update_freq`` steps of the
    parameter; the state of the modules is carried over. Where the columns are no more than the rows it is R = U·P, with
    right singular vectors. Parameters that are no matrices pass to the modules as they are.

    An update that is not finite leaves the singular vectors as they were.

    Args:
        modules: what runs on the projections.
        rank: how many singular vectors; all of a matrix with fewer.
        update_freq: every how many steps they are taken anew.
        scale: a factor of the update of matrices.
        side: which singular vectors: "left", "right", or "auto", those of the shorter side.

    Reference:
        Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", ICML 2024,
        arXiv:2403.03507.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(20, 30, requires_grad=True)
        >>> p.grad = torch.randn(20, 30)
        >>> optimizer = tz.Modular([p], tz.m.GaLore([tz.m.Adam(), tz.m.LR(1e-2)], rank=4))
        >>> optimizer.step()
        >>> [tuple(v.shape) for k, v in optimizer.state[p].items() if k.endswith(("basis", "exp_avg"))]
        [(20, 4), (4, 30)]
    """

    kept = {"basis": StateKind.VALUES}

    modules: Passed[Modules]
    rank: Count = 128
    update_freq: Count = 200
    scale: NonNegative = 0.25
    side: Literal["auto", "left", "right"] = "auto"
    joins = False

    def step(self, var: Var) -> Var:
        """Take the singular vectors that are due, project, run the modules, bring their update back."""
        for p, u in zip(var.params, var.peek_update(), strict=True):
            if p.dim() != 2 or not p.numel():
                continue
            state, h = self.state[p], self.settings[p]
            t = state["step"] = state.get("step", 0) + 1
            shape, known = self._shape(p), state.get("basis")
            fits = isinstance(known, Tensor) and tuple(known.shape) == shape
            if (t - 1) % h["update_freq"] == 0 or not fits:
                basis = self._basis(u, p, shape[1])
                if basis is not None:
                    state["basis"] = basis
                else:
                    var.info.status = "decomposition failed"
                    if not fits:
                        state["basis"] = torch.eye(*shape, dtype=at_least_float32(u).dtype, device=u.device)
        return super().step(var)

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Multiply with the transposed singular vectors."""
        out = []
        for t, p in zip(tensors, var.params, strict=True):
            if p.dim() == 2 and p.numel():
                x = at_least_float32(t)
                basis = self._known(p).to(x)  # anybody may cast state, or the parameters
                t = (basis.mT @ x if self._left(p) else x @ basis).to(t.dtype)
            out.append(t)
        return out

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Multiply with the singular vectors."""
        out = []
        for r, p in zip(tensors, var.params, strict=True):
            if p.dim() == 2 and p.numel():
                x = at_least_float32(r)
                basis = self._known(p).to(x)
                x = basis @ x if self._left(p) else x @ basis.mT
                r = x.mul_(self.settings[p]["scale"]).to(p.dtype)
            out.append(r)
        return out

    def keeper(self, index: int, var: Var, default: Tensor) -> Tensor:
        """Each tensor's own parameter."""
        return var.params[index]

    def _shape(self, param: Tensor) -> tuple[int, int]:
        """That of the singular vectors."""
        return param.shape[0 if self._left(param) else 1], min(self.settings[param]["rank"], *param.shape)

    def _known(self, param: Tensor) -> Tensor:
        basis = self.state[param]["basis"]
        if not isinstance(basis, Tensor) or tuple(basis.shape) != self._shape(param):
            shape = tuple(basis.shape) if isinstance(basis, Tensor) else basis
            raise ValueError(f"the singular vectors of a parameter of shape {tuple(param.shape)} are {shape}")
        return basis

    def _left(self, param: Tensor) -> bool:
        side = self.settings[param]["side"]
        return side == "left" or (side == "auto" and param.shape[0] < param.shape[1])

    def _basis(self, u: Tensor, param: Tensor, rank: int) -> Tensor | None:
        """The first singular vectors; None where the update is not finite."""
        x = at_least_float32(u)
        if not bool(x.isfinite().all()):
            return None
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        return (left[:, :rank] if self._left(param) else right[:rank].mT).contiguous()
