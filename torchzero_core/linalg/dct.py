"""The discrete cosine transform by way of the Fourier transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct(x: Tensor, dim: int = -1) -> Tensor:
    """The orthonormal DCT-II along a dimension.

    Args:
        x: a real tensor; along an empty dimension it is returned as it is.
        dim: the dimension.

    Reference: Makhoul, A fast cosine transform in one and two dimensions, 1980.

    Example:
        >>> import torch
        >>> dct(torch.tensor([3.0, 1.0]))
        tensor([2.8284, 1.4142])
    """
    n = x.shape[dim]
    if n < 2:
        return x.clone()
    x = x.movedim(dim, -1)
    spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1))
    return ((spectrum * _twiddles(x)).real * _scales(x)).movedim(-1, dim)


def idct(x: Tensor, dim: int = -1) -> Tensor:
    """The inverse of :func:`dct`, which is its transpose.

    Args:
        x: a real tensor.
        dim: the dimension.

    Example:
        >>> import torch
        >>> idct(dct(torch.tensor([3.0, 1.0, 2.0]))).round(decimals=5)
        tensor([3., 1., 2.])
    """
    n = x.shape[dim]
    if n < 2:
        return x.clone()
    x = x.movedim(dim, -1)
    real = x / _scales(x)
    imaginary = torch.cat([torch.zeros_like(real[..., :1]), -real[..., 1:].flip(-1)], -1)
    spectrum = torch.complex(real, imaginary) * _twiddles(x).conj()
    halves = torch.fft.irfft(spectrum[..., : n // 2 + 1], n=n)
    out = torch.empty_like(halves)
    out[..., ::2], out[..., 1::2] = halves[..., : (n + 1) // 2], halves[..., (n + 1) // 2 :].flip(-1)
    return out.movedim(-1, dim)


def _twiddles(x: Tensor) -> Tensor:
    angles = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) * (-math.pi / (2 * x.shape[-1]))
    return torch.polar(torch.ones_like(angles), angles)


def _scales(x: Tensor) -> Tensor:
    scales = torch.full(x.shape[-1:], math.sqrt(2 / x.shape[-1]), dtype=x.dtype, device=x.device)
    scales[0] = math.sqrt(1 / x.shape[-1])
    return scales
