"""Gaussian homotopy continuation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core import Count, Fraction, Module, NonNegative, Seed, StateKind, Var
from ...core.closure import detached
from ...core.evaluate import uniform_settings
from ...core.naming import unrolled
from ...core.stand_ins import real_param
from ...linalg.vector import at_least_float32


class GaussianHomotopy(Module):
    r"""Lets the modules after it see a smoothed loss, which becomes the true one as the smoothing is taken back.

    .. math:: f_σ(x) = \frac{1}{n} \sum_{i=1}^{n} f(x + σ z_i), \quad z_i ∼ N(0, I)

    The :math:`z_i` are drawn once, so every level σ is one fixed function, on which line searches and quasi-Newton
    methods work as on any other. When the parameters rest, σ ← decay·σ, and the modules start anew on the next level.
    Each evaluation costs n_samples evaluations of the loss, and the n_samples perturbations are kept in memory. What
    was evaluated before it in the chain stays what it is, so put it first. The gradient of a sample whose loss is not
    finite counts as zero.

    Args:
        n_samples: n, the number of perturbations.
        init_sigma: σ of the first level.
        tol: a level ends with a step that moves no element of the parameters by this much; each parameter has its own
            tol. None: levels end by ``max_steps`` alone.
        decay: what σ is multiplied by at the end of a level.
        max_steps: the largest number of steps in a level. None: no limit.
        clear_state: forget the state of all other modules when a level ends, random generators aside.
        seed: for the perturbations; None draws one from torch's generator.

    Raises:
        ValueError: ``n_samples``, ``max_steps``, ``clear_state`` or ``seed`` that differ between parameter groups.
        RuntimeError: it stands inside a projection.

    Reference:
        Mobahi and Fisher, "On the Link Between Gaussian Homotopy Continuation and Convex Envelopes", EMMCVPR 2015.

    Example:
        >>> import torch, torchzero_core as tz
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = tz.Modular([x], tz.m.GaussianHomotopy(20, 2.0, seed=0), tz.m.BFGS(), tz.m.Backtracking())
        >>> def closure(backward=True):
        ...     loss = (x**2 / 10 - torch.cos(2 * x)).sum()  # it has a minimum near 3, and the lowest one at 0
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(60):
        ...     loss = optimizer.step(closure)
        >>> abs(x.item()) < 1e-2
        True
    """

    keeps_place = True
    kept = {
        "sigma": StateKind.POSITIVE,
        "level_steps": StateKind.COUNT,
        "perturbations": StateKind.LIST,
        "prev_params": StateKind.VALUES,
    }

    n_samples: Count
    init_sigma: NonNegative
    tol: NonNegative | None = 1e-4
    decay: Fraction = 0.5
    max_steps: Count | None = None
    clear_state: bool = True
    seed: Seed | None = None
    requires_closure = True
    one_piece = True
    needs_gradient = False

    def __post_init__(self) -> None:
        self._level: _Level | None = None

    def step(self, var: Var) -> Var:
        """Wrap the closure."""
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        self._level = None
        if not var.params:
            return var
        if any(real_param(p) is not p for p in var.params):
            raise RuntimeError(
                f"{self.path} moves the parameters, which it is not given inside a projection; put it in front of it."
            )
        n = uniform_settings(self, var.params, ("n_samples", "max_steps", "clear_state", "seed"))["n_samples"]
        self._level = _Level(
            var, [self._perturbations(p, n) for p in var.params], [self._sigma(p) for p in var.params], self.path
        )
        var.closure = self._level.averaged
        return var

    def _sigma(self, param: Tensor) -> float:
        return self.state[param].get("sigma", self.settings[param]["init_sigma"])

    def _perturbations(self, param: Tensor, n: int) -> list[Tensor]:
        """The fixed perturbations of a parameter; others where it has another shape now, or n is another number."""
        known = self.state[param].get("perturbations")
        if known is not None and len(known) == n and all(z.shape == param.shape for z in known):
            return [z.to(param) for z in known]
        generator = self.generator(param.device)
        return [torch.empty_like(param, requires_grad=False).normal_(generator=generator) for _ in range(n)]

    def post_step(self, var: Var) -> None:
        """Go to the next level if the parameters rest or have had their steps."""
        level, self._level = self._level, None
        if level is None:
            return
        for p, z, sigma, start in zip(level.params, level.perturbations, level.sigmas, level.start, strict=True):
            self.state[p].update(perturbations=z, sigma=sigma, prev_params=start)
        steps = self.global_state.get("level_steps", 0) + 1
        common = self.settings[level.params[0]]
        ends = steps == common["max_steps"] or all(map(self._rests, level.params, level.start))
        self.global_state["level_steps"] = 0 if ends else steps
        if not ends:
            return
        for p, sigma in zip(level.params, level.sigmas, strict=True):
            self.state[p]["sigma"] = sigma * self.settings[p]["decay"]
        if common["clear_state"] and self.home is not None:
            self._clear(self.home.modules)

    def _rests(self, param: Tensor, before: Tensor) -> bool:
        tol = self.settings[param]["tol"]
        if tol is None:
            return False
        return not param.numel() or bool((param.detach() - before).abs().max() < tol)

    def _clear(self, modules: Iterable[Module]) -> None:
        """Reset the other modules, but let their random numbers go on: those after a resume are the same then."""
        for module in modules:
            parts = list(unrolled(module))
            if self in parts:
                self._clear(module.children.values())
                continue
            generators = [dict(part.generators) for part in parts]
            module.reset()
            for part, known in zip(parts, generators, strict=True):
                part.generators.update(known)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_level": None}


class _Level:
    """The smoothed loss of a step.

    Args:
        var: the step's context.
        perturbations: for each parameter the z of each sample.
        sigmas: the σ of each parameter.
        path: of the module.
    """

    def __init__(self, var: Var, perturbations: Sequence[list[Tensor]], sigmas: Sequence[float], path: str) -> None:
        assert var.modular is not None and var.closure is not None
        self.params, self.perturbations, self.sigmas = list(var.params), perturbations, sigmas
        self.start = [p.detach().clone() for p in self.params]
        self._exact: Callable[..., Any] = var.closure
        self._home, self._here = var.modular, var.scratch(f"{path}.here")

    def averaged(self, backward: bool = True) -> Any:
        """Mean loss, and mean gradient in ``p.grad``; the parameters are put back exactly."""
        return self._smoothed(backward) if any(self.sigmas) else self._exact(backward)

    @torch.no_grad()
    def _smoothed(self, backward: bool) -> Any:
        torch._foreach_copy_(self._here, self.params)
        losses: list[Tensor] = []
        sums: dict[int, Tensor] = {}
        try:
            for noise in zip(*self.perturbations, strict=True):
                torch._foreach_copy_(self.params, list(noise))
                torch._foreach_mul_(self.params, list(self.sigmas))
                torch._foreach_add_(self.params, self._here)
                self._home.return_grads()
                losses.append(detached(self._exact(backward)))
                finite = losses[-1].isfinite()
                for i, p in enumerate(self.params if backward else ()):
                    if p.grad is not None:
                        g = torch.where(finite.to(p.device), at_least_float32(p.grad.detach()), 0.0)
                        sums[i] = sums[i].add_(g) if i in sums else g
        finally:
            torch._foreach_copy_(self.params, self._here)
        means = [(sums[i] / len(losses)).to(p.dtype) if i in sums else None for i, p in enumerate(self.params)]
        if backward:
            self._home.replace_grads(self.params, means)
        stacked = torch.stack(losses)
        return (stacked if stacked.is_floating_point() else stacked.float()).mean()
