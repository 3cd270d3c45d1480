"""The orthogonal polar factor of matrices: exactly, or quickly by a Newton–Schulz iteration."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

#: The a, b and c of one iteration.
Triple: TypeAlias = tuple[float, float, float]

#: Coefficients of Jordan et al. 2024: the steepest slope at zero that keeps singular values within about [0.7, 1.2].
QUINTIC = (3.4445, -4.7750, 2.0315)
#: Amsel et al. 2025, algorithm 1: each is the best odd quintic for what the ones before it make of [0.001, 1].
_BEST = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def _stretched(triple: Triple, by: float) -> Triple:
    """The polynomial of x/by."""
    return triple[0] / by, triple[1] / by**3, triple[2] / by**5


#: Schedules by name: one triple for each iteration, the last of which is repeated. Polar Express divides by 1.01 at
#: first and in all iterations but the last, so that rounding pushes no singular value out of where they converge.
SCHEDULES: dict[str, Sequence[Triple]] = {
    "quintic": [QUINTIC],
    "polar-express": [_stretched(_BEST[0], 1.01**2), *(_stretched(t, 1.01) for t in _BEST[1:-1]), _BEST[-1]],
}
#: The iterations on the small matrix XX' after which X itself is made anew: what they lose of small singular values is
#: squared each time.
SEGMENT = 3


def newton_schulz(
    x: Tensor,
    steps: int = 5,
    *,
    coefficients: str | Triple | Sequence[Triple] = "quintic",
    dtype: torch.dtype | None = None,
    eps: float = 1e-7,
    gram: bool | None = None,
) -> Tensor:
    """Bring the singular values of matrices close to one by matrix products alone.

    X ← X / max(‖X‖_F, eps), then ``steps`` times X ← aX + (bA + cA²)X with A = XX', or X ← aX + X(bA + cA²) with
    A = X'X where X is taller than wide. With the coefficients "quintic" the result is U S V' with S between about 0.7
    and 1.2, where X = U Σ V'; singular values below about 0.001 of ‖X‖_F have not arrived there after five steps. With
    "polar-express" S comes as near to one as it can from 0.001 on: 0.88 to 1.12 after five steps, 0.999 to 1.001 after
    six.

    The Gram form makes the same iterations on A, which is small where X is long, and multiplies X at the end.

    Args:
        x: matrices, of shape (…, m, n); all of them go through the same batched products.
        steps: number of iterations.
        coefficients: a name of :data:`SCHEDULES`, one triple (a, b, c), or one for each step, of which the last is
            repeated.
        dtype: in what the products are computed. None: :func:`newton_schulz_dtype` of the device.
        eps: floor of the norm, so that zero stays zero.
        gram: whether to use the Gram form. None: where it is faster, which half precision is not exact enough for.

    Returns:
        A new tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``x`` is no matrix; there is no schedule of that name.

    Reference: K. Jordan et al., Muon, 2024; after Higham, Functions of Matrices, 2008, chapter 8; N. Amsel et al., The
    Polar Express, 2025, arXiv:2505.16932.

    Example:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> newton_schulz(x, dtype=torch.float32).diagonal().round(decimals=2)
        tensor([0.7200, 1.1200])
        >>> newton_schulz(x, 7, coefficients="polar-express", dtype=torch.float32).diagonal().round(decimals=2)
        tensor([1., 1.])
    """
    if x.dim() < 2:
        raise ValueError(f"newton_schulz works on matrices, not on a tensor of shape {tuple(x.shape)}.")
    schedule = _schedule(coefficients, steps)
    if x.numel() == 0:
        return x.clone()
    work = x.to(newton_schulz_dtype(x.device) if dtype is None else dtype)
    work = work.reshape(-1, *work.shape[-2:])
    norms = work.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    # contiguous whatever x is: products in bfloat16 that are written to transposed memory are 1000 times slower
    work = torch.div(work, norms, out=work.new_empty(work.shape))
    if gram is None:
        short, long = sorted(work.shape[-2:])
        gram = work.dtype in (torch.float32, torch.float64) and 2 * long >= 3 * short
    work = _on_gram(work, schedule) if gram else _on_matrices(work, schedule)
    return work.reshape(x.shape).to(x.dtype)


def _schedule(coefficients: str | Triple | Sequence[Triple], steps: int) -> list[Triple]:
    """One triple for each step."""
    if isinstance(coefficients, str):
        if coefficients not in SCHEDULES:
            names = ", ".join(map(repr, SCHEDULES))
            raise ValueError(f"There are no coefficients {coefficients!r}; there are {names}.")
        coefficients = SCHEDULES[coefficients]
    triples = [tuple(t) if isinstance(t, Sequence) else tuple(coefficients) for t in coefficients]
    return [triples[min(i, len(triples) - 1)] for i in range(steps)]  # type: ignore[misc]


def _on_matrices(x: Tensor, schedule: Sequence[Triple]) -> Tensor:
    """The iterations as they are written; ``x`` may be overwritten."""
    tall, other = x.shape[-2] > x.shape[-1], torch.empty_like(x)
    n = min(x.shape[-2:])
    gram = x.new_empty(x.shape[0], n, n)
    poly = torch.empty_like(gram)
    for a, b, c in schedule:
        torch.bmm(*((x.mT, x) if tall else (x, x.mT)), out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=poly)
        torch.baddbmm(x, *((x, poly) if tall else (poly, x)), beta=a, out=other)
        x, other = other, x
    return x


def _on_gram(x: Tensor, schedule: Sequence[Triple]) -> Tensor:
    """The same by P_1(A), P_2(P_1(A)²A) …, whose product is what X is multiplied with."""
    for start in range(0, len(schedule), SEGMENT):
        part = schedule[start : start + SEGMENT]
        gram, factors = _small(x), []
        for i, (a, b, c) in enumerate(part):
            poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            poly.diagonal(dim1=-2, dim2=-1).add_(a)
            factors.append(poly)
            if i + 1 < len(part):
                gram = poly @ gram @ poly
        product = functools.reduce(torch.matmul, factors)  # they commute
        x = x @ product if x.shape[-2] > x.shape[-1] else product @ x
    return x


def _small(x: Tensor) -> Tensor:
    """The smaller of XX' and X'X."""
    return x.mT @ x if x.shape[-2] > x.shape[-1] else x @ x.mT


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
