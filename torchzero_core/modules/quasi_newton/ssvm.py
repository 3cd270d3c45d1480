"""Self-scaling variable metric methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.vector_method import VectorMethod
from .rank_two import Coefficients, RankTwo, reaches


class _Switch(VectorMethod):
    """What stands before the settings of the other methods."""

    switch: Literal[1, 2, 3, 4] | tuple[float, float] = 3


class SSVM(RankTwo, _Switch):
    """Self-scaling variable metric: H ← φ·(H − Hyy'H/τ + θ·vv') + ss'/σ, skipped when σ ≤ tol·‖s‖‖y‖.

    σ = s'y, τ = y'Hy, ε = s'H⁻¹s and v = √τ·(s/σ − Hy/τ). φ and θ are:

    - switch 1: (ε/σ, 0) if ε ≤ σ; (σ/τ, 1) if σ ≥ τ; else (1, σ(ε − σ)/(ετ − σ²));
    - switch 2: (√(ε/τ), 1/(1 + √(ετ)/σ));
    - switch 3: as switch 1, with θ = σ(τ − σ)/(ετ − σ²) in the last case;
    - switch 4: (√(ε/τ), ½).

    Where s is along the product of H with the previous gradient, as after a line search, ε costs nothing; otherwise a
    system of n equations is solved at each step.

    Args:
        switch: which of the four choices of φ and θ, or a tuple (φ, θ).

    Reference: S. S. Oren and E. Spedicato, Mathematical Programming 10, 1976, doi:10.1007/bf01580654.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.SSVM(), tz.m.StrongWolfe())
        >>> for _ in range(60):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-8
        True
    """

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        switch = settings["switch"]
        pair = isinstance(switch, (tuple, list)) and len(switch) == 2 and switch[0] > 0
        if not pair and switch not in (1, 2, 3, 4):
            raise ValueError(f"SSVM(switch={switch!r}) must be 1, 2, 3, 4 or a tuple (φ, θ) with φ > 0.")

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        switch = settings["switch"]
        if isinstance(switch, (tuple, list)):
            phi, theta = (torch.full_like(sy, float(number)) for number in switch)
        else:
            phi, theta = _choose(switch, sy, yHy, _inverse_form(H, s, g_prev))
        spread = phi * theta
        return Coefficients(ss=1 / sy + spread * yHy / sy**2, sh=-spread / sy, hh=(spread - phi) / yHy, scale=phi)


def _choose(switch: int, sigma: Tensor, tau: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
    """φ and θ."""
    if switch in (2, 4):
        theta = 1 / (1 + (epsilon * tau).sqrt() / sigma) if switch == 2 else torch.full_like(sigma, 0.5)
        return (epsilon / tau).sqrt(), theta
    middle = sigma * (epsilon - sigma if switch == 1 else tau - sigma) / (epsilon * tau - sigma**2)
    low, high = reaches(sigma, epsilon), reaches(sigma, tau)
    phi = torch.where(low, epsilon / sigma, torch.where(high, sigma / tau, 1.0))
    return phi, torch.where(low, 0.0, torch.where(high, 1.0, middle))


def _inverse_form(H: Tensor, s: Tensor, g_prev: Tensor) -> Tensor:
    """ε = s'H⁻¹s. It is α²·g₀'Hg₀ where s = α·Hg₀."""
    Hg = H @ g_prev
    alpha = torch.dot(s, Hg) / torch.dot(Hg, Hg)
    if bool((s - alpha * Hg).norm() <= torch.finfo(s.dtype).eps ** 0.5 * s.norm()):
        return alpha**2 * torch.dot(g_prev, Hg)
    solution, _ = torch.linalg.solve_ex(H, s)
    return torch.dot(s, solution)
