"""Orthogonalised updates (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor

from ...core import Check, Context, Count, Target, Transform, per_group
from ...lang import Value
from ...linalg import newton_schulz, polar
from .orthogonal_scales import dual_normed, is_matrix, rms_matched


def orthogonalized(
    tensors: list[Tensor], *, steps: int, method: str, coefficients: Any, dtype: torch.dtype | None
) -> list[Tensor]:
    """The orthogonal factor of each tensor of two or more dimensions, as a matrix (first dimension, the rest).

    Equal shapes go through the products together.
    """
    out = list(tensors)
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, t in enumerate(tensors):
        if is_matrix(t.shape) and t.numel():
            shapes.setdefault((t.shape[0], t.numel() // t.shape[0]), []).append(i)
        else:
            out[i] = t.clone()
    for (rows, columns), places in shapes.items():
        stack = torch.stack([tensors[i].reshape(rows, columns) for i in places])
        exact = method == "svd"
        stack = polar(stack) if exact else newton_schulz(stack, steps, coefficients=coefficients, dtype=dtype)
        for i, matrix in zip(places, stack, strict=True):
            out[i] = matrix.reshape(tensors[i].shape)
    return out


def as_dtype(name: str, dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype from its name, as YAML spells it.

    Args:
        name: of the setting.
        dtype: its value.

    Raises:
        ValueError: there is no floating point dtype of that name.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if (found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point)) or (
        found is None and dtype is not None
    ):
        raise ValueError(f"{name}={dtype!r} is not the name of a floating point dtype, such as 'bfloat16'.")
    return found


def check_coefficients(name: str, value: Any) -> None:
    """Refuse what is neither a word nor a list of triples.

    Args:
        name: of the setting.
        value: its value.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return  # which words there are is said where words are checked
    triples = value if isinstance(value, (list, tuple)) else []
    if not triples or any(len(t) != 3 or not all(math.isfinite(x) for x in t) for t in triples):
        raise ValueError(
            f"{name}={value!r} is neither 'quintic' nor 'polar-express' nor a list of three numbers for each iteration."
        )


#: Of the Newton–Schulz iterations: a word, or three numbers for each, of which the last stay.
Coefficients: TypeAlias = Annotated[
    Literal["quintic", "polar-express"] | Sequence[Sequence[float]], Check(check_coefficients)
]
#: A floating point dtype, or its name.
Dtype: TypeAlias = Annotated[torch.dtype | str | None, Check(as_dtype)]


class OrthogonalFactor(Transform):
    """Base class of methods that end with the orthogonal factor of a matrix, and the settings of how it is made."""

    ns_steps: Count = 5
    adjust_lr: bool = False
    dual_norm_correction: bool = False
    method: Literal["newton-schulz", "svd"] = "newton-schulz"
    ns_dtype: Dtype = None
    target: Target = "update"
    _: KW_ONLY
    coefficients: Coefficients = "quintic"
    orthogonalize: bool = per_group(default=True)

    def factor(self, u: Value, ctx: Context) -> Value:
        """The orthogonal factor of the update, scaled as the settings say.

        Args:
            u: the update.
            ctx: the rule's context.
        """
        h = ctx.settings
        if not h.orthogonalize:
            return u
        options: dict[str, Any] = dict(
            steps=int(h.ns_steps),
            method=h.method,
            coefficients=h.coefficients,
            dtype=as_dtype("ns_dtype", h.ns_dtype),
        )
        out = ctx.call(lambda us: orthogonalized(us, **options), u)
        if h.dual_norm_correction:
            out = dual_normed(out, ctx)
        return rms_matched(out, ctx) if h.adjust_lr else out


class Orthogonalize(OrthogonalFactor):
    r"""Replaces each update matrix U Σ V' by its orthogonal factor U V'.

    Tensors of more than two dimensions are matrices of (first dimension, the rest), as convolutions are by the authors;
    those of fewer pass as they are, and so do the parameters of a group with ``orthogonalize=False``.

    Args:
        ns_steps: number of Newton–Schulz iterations.
        adjust_lr: multiply by 0.2·√max(rows, columns), which gives the update the size of one of Adam; see
            :class:`MuonAdjustLR`.
        dual_norm_correction: multiply by ⟨g, U V'⟩, so that the update is the steepest descent step for the spectral
            norm with its length; see :class:`DualNormCorrection`.
        method: "newton-schulz", which brings the singular values to between about 0.7 and 1.2, or "svd", which is
            exact and slower.
        ns_dtype: in what the Newton–Schulz products are computed, as "bfloat16" or "float32"; None: bfloat16 where
            the device has units for it.
        target: what is orthogonalised.
        coefficients: of the Newton–Schulz iterations: "quintic", the same for all, or "polar-express", which bring
            singular values nearer to one in as many steps, or a list with three numbers for each step, of which the
            last are those of all further ones.

    Reference:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; scale: Liu et al., "Muon is
        Scalable for LLM Training", 2025, arXiv:2502.16982; dual norm: Bernstein & Newhouse, 2024, arXiv:2409.20325;
        coefficients: N. Amsel et al., "The Polar Express", 2025, arXiv:2505.16932.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(2, 2, requires_grad=True)
        >>> p.grad = torch.tensor([[0.0, -2.0], [5.0, 0.0]])
        >>> tz.Modular([p], tz.m.Orthogonalize(method="svd")).step()
        >>> p.detach().round(decimals=4) + 0.0
        tensor([[ 0.,  1.],
                [-1.,  0.]])
    """

    size_effect = "own"

    def rule(self, u: Value, ctx: Context) -> Value:
        return self.factor(u, ctx)
