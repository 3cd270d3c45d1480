"""The orthogonal polar factor of matrices: exactly, or quickly by a Newton–Schulz iteration."""

from __future__ import annotations

import torch
from torch import Tensor

#: Coefficients of Jordan et al. 2024: the steepest slope at zero that keeps singular values within about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    x: Tensor,
    steps: int = 5,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    dtype: torch.dtype | None = None,
    eps: float = 1e-7,
) -> Tensor:
    """Bring the singular values of matrices close to one by matrix products alone.

    X ← X / max(‖X‖_F, eps), then ``steps`` times X ← aX + (bA + cA²)X with A = XX' (transposed matrices where they are
    taller than wide). The result is U S V' with S between about 0.7 and 1.2, where X = U Σ V'; singular values below
    about 0.001 of ‖X‖_F have not arrived there after five steps.

    Args:
        x: matrices, of shape (…, m, n); all of them go through the same batched products.
        steps: number of iterations.
        coefficients: a, b and c.
        dtype: in what the products are computed. None: :func:`newton_schulz_dtype` of the device.
        eps: floor of the norm, so that zero stays zero.

    Returns:
        A new tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``x`` is no matrix.

    Reference: K. Jordan et al., Muon, 2024; after Higham, Functions of Matrices, 2008, chapter 8.

    Example:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> newton_schulz(x, dtype=torch.float32).diagonal().round(decimals=2)
        tensor([0.7200, 1.1200])
    """
    if x.dim() < 2:
        raise ValueError(f"newton_schulz works on matrices, not on a tensor of shape {tuple(x.shape)}.")
    if x.numel() == 0:
        return x.clone()
    a, b, c = coefficients
    tall = x.shape[-2] > x.shape[-1]
    work = x.to(newton_schulz_dtype(x.device) if dtype is None else dtype)
    work = work.reshape(-1, *work.shape[-2:])
    if tall:
        work = work.mT
    work = work / work.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = work @ work.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        work = torch.baddbmm(work, poly, work, beta=a)
    if tall:
        work = work.mT
    return work.reshape(x.shape).to(x.dtype)


def newton_schulz_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device has units for it, float32 elsewhere (emulated bfloat16 is some 30 times slower).

    Args:
        device: the device of the matrices.

    Example:
        >>> newton_schulz_dtype("cpu") in (torch.bfloat16, torch.float32)
        True
    """
    kind = torch.device(device).type
    if kind == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32
    if kind == "cuda":
        # compute capability 8.0 is the first with bfloat16 tensor cores; ROCm reports them as supported
        fast = torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
        return torch.bfloat16 if fast else torch.float32
    return torch.float32 if kind == "mps" else torch.bfloat16


def polar(x: Tensor) -> Tensor:
    """The orthogonal polar factor UV' of matrices X = U Σ V': the nearest matrix with orthonormal rows or columns.

    Args:
        x: matrices, of shape (…, m, n).

    Returns:
        A new tensor of the shape and dtype of ``x``; directions in which ``x`` is zero stay zero.

    Raises:
        ValueError: ``x`` is no matrix.
        torch.linalg.LinAlgError: the decomposition failed, as it does on values that are not finite.

    Example:
        >>> polar(torch.tensor([[0.0, -2.0], [5.0, 0.0]])).round(decimals=4).abs()
        tensor([[0., 1.],
                [1., 0.]])
    """
    if x.dim() < 2:
        raise ValueError(f"polar works on matrices, not on a tensor of shape {tuple(x.shape)}.")
    if x.numel() == 0:
        return x.clone()
    work = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    if not bool(work.isfinite().all()):
        raise torch.linalg.LinAlgError("polar got values that are not finite.")  # type: ignore[attr-defined]
    u, s, vh = torch.linalg.svd(work, full_matrices=False)
    tiny = torch.finfo(s.dtype).eps * max(x.shape[-2:]) * s[..., :1]
    return ((u * (s > tiny).to(s.dtype).unsqueeze(-2)) @ vh).to(x.dtype)
