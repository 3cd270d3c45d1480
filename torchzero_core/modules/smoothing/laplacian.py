"""Laplacian smoothing (Osher et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core import Context, Natural, NonNegative, Target, Transform, Var
from ...core.evaluate import uniform_settings
from ...lang import Value
from ...linalg.vector import at_least_float32, flatten, unflatten


class LaplacianSmoothing(Transform):
    r"""Smooths the update along its elements in the order in which they lie: u ← (I − σL)⁻¹ u.

    L is the Laplacian of a ring, so the system is solved by Fourier transforms:

    .. math:: u ← ifft\left(\frac{fft(u)}{1 - σ·fft(v)}\right), \quad v = [-2, 1, 0, …, 0, 1]

    The mean of the update stays, and its variance becomes smaller.

    Args:
        sigma: how much, at least 0, which changes nothing.
        layerwise: each tensor by itself; False takes all tensors as one vector, and is a setting of the module that
            groups cannot change.
        min_numel: tensors (or the vector) with no more elements are left alone.
        target: what is smoothed.

    Reference:
        Osher et al., "Laplacian Smoothing Gradient Descent", 2018, arXiv:1806.06317.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(5, requires_grad=True)
        >>> p.grad = torch.tensor([0.0, 0.0, 11.0, 0.0, 0.0])
        >>> tz.Modular([p], tz.m.LaplacianSmoothing()).step()
        >>> p.detach().round()
        tensor([-1., -2., -5., -2., -1.])
    """

    sigma: NonNegative = 1
    layerwise: bool = True
    min_numel: Natural = 4
    target: Target = "update"

    @property
    def is_rule(self) -> bool:  # type: ignore[override]
        """Whether each tensor is smoothed by itself."""
        return bool(self.defaults["layerwise"]) and super().is_rule

    @property
    def one_piece(self) -> bool:  # type: ignore[override]
        """Whether the smoothing goes from one tensor to the next."""
        return not self.defaults["layerwise"]

    def rule(self, u: Value, ctx: Context) -> Value:
        h = ctx.settings
        if not h.layerwise:
            raise ValueError(f"{ctx.module.path}: layerwise=False is for all parameters; pass it to the constructor.")
        return ctx.call(_smoothed, u, h.sigma, h.min_numel)

    def apply_rule(self, var: Var, tensors: list[Tensor], *, writable: bool = False) -> list[Tensor]:
        if self.defaults["layerwise"] or not tensors:
            return super().apply_rule(var, tensors, writable=writable)
        h = uniform_settings(self, var.params)
        if h["layerwise"]:
            raise ValueError(f"{self.path}: layerwise is for all parameters; pass it to the constructor.")
        (vector,) = _smoothed([flatten(tensors)], h["sigma"], h["min_numel"])
        return [v.to(t.dtype) for v, t in zip(unflatten(vector, tensors), tensors, strict=True)]


def _smoothed(tensors: list[Tensor], sigma: float, min_numel: float) -> list[Tensor]:
    """New tensors, each smoothed along its elements."""
    return [_smooth(t, sigma) if t.numel() > max(min_numel, 0) else t.clone() for t in tensors]


def _smooth(tensor: Tensor, sigma: float) -> Tensor:
    x, n = at_least_float32(tensor).reshape(-1), tensor.numel()
    angle = torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device) * (2 * math.pi / n)
    eigenvalues = 1 + 2 * sigma * (1 - angle.cos())
    return torch.fft.irfft(torch.fft.rfft(x) / eigenvalues, n=n).to(tensor.dtype).view(tensor.shape)
