"""Gradients from finite differences along random directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core import Beta, Count, Positive, Var
from ...core.evaluate import uniform_settings
from .base import ApproximationTarget, GradApproximator
from .directions import Directions, Distribution, Kept, Seeded, draw_
from .formulas import Formula, formula


class RandomizedFDM(GradApproximator):
    """Gradient from finite differences of the loss along random directions u: g = mean of u·(f(x+hu) − f(x−hu))/2h.

    The estimate is unbiased for a linear function, and of the gradient of a slightly smoothed loss otherwise. All
    parameters are moved together, so a direction costs two evaluations of the loss however many there are. A
    difference that is not finite counts as zero.

    Args:
        h: length of the finite differences.
        n_samples: number of directions.
        formula: the finite difference, "forward2", "forward3", "backward2", "backward3", "central2" or "central4".
        distribution: of the directions: "gaussian", "rademacher", "uniform" or "sphere", all with variance 1.
        beta: each direction is β times that of the last step plus 1 − β times a new one.
        pre_generate: draw the directions once per step. False: anew at each evaluation of the gradient.
        target: what is replaced; see :class:`GradApproximator`. With "grad" or "update" the exact loss is not
            evaluated and ``step`` returns an estimate of it.
        seed: of the directions; by default drawn from torch's global generator.

    Raises:
        ValueError: ``n_samples``, ``formula`` or ``pre_generate`` that differ between parameter groups; an unknown
            formula or distribution.

    Reference: J. C. Spall, IEEE Transactions on Automatic Control 37, 1992; Nesterov and Spokoiny, Foundations of
    Computational Mathematics 17, 2017.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.RandomizedFDM(n_samples=8, seed=0), tz.m.LR(0.1))
        >>> for _ in range(100):
        ...     loss = optimizer.step(lambda backward=True: (p**2).sum())
        >>> loss.item() < 1e-4
        True
    """

    h: Positive = 1e-3
    n_samples: Count = 1
    formula: Formula = "central2"
    distribution: Distribution = "rademacher"
    beta: Beta = 0
    pre_generate: bool = True
    target: ApproximationTarget = "closure"
    seed: int | None = None
    #: Whether directions are drawn again from their seeds instead of being held.
    regenerates = False

    def __post_init__(self) -> None:
        self._drawn: tuple[list[Tensor], Directions] | None = None

    def pre_step(self, var: Var) -> None:
        """Draw the directions of the step."""
        common = self._common(var.params)
        self._drawn = (var.params, self._draw(var.params, common["n_samples"])) if common["pre_generate"] else None

    def _common(self, params: list[Tensor]) -> dict[str, Any]:
        return uniform_settings(self, params, ["n_samples", "formula", "pre_generate", "seed"])

    def _draw(self, params: list[Tensor], n: int) -> Directions:
        settings = [self.settings[p] for p in params]
        if self.regenerates and not any(h["beta"] for h in settings):
            seeds = torch.randint(2**62, (n,), generator=self.generator("cpu")).tolist()
            return Seeded(seeds, [h["distribution"] for h in settings])
        kept = []
        for i in range(n):
            fresh = []
            for p, h in zip(params, settings, strict=True):
                u = draw_(torch.empty_like(p, requires_grad=False), h["distribution"], self.generator(p.device))
                old = self.state[p].get("perturbations") if h["beta"] else None
                fresh.append(u if old is None or len(old) <= i else u.lerp_(old[i], h["beta"]))
            kept.append(fresh)
        return Kept(kept)

    @torch.no_grad()
    def approximate(
        self, closure: Callable[..., Any], params: list[Tensor], loss: Tensor | None, var: Var
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """One difference for each direction; the saved copy of the parameters becomes the gradient in the end."""
        common = self._common(params)
        if self._drawn is None or not common["pre_generate"]:
            self._drawn = (params, self._draw(params, common["n_samples"]))
        directions = self._drawn[1]
        lengths = self.get_settings(params, "h")
        data = [p.detach() for p in params]  # to be written whether gradients are on or off
        buffers = [p.clone() for p in data]
        transaction = None if var.modular is None else var.modular.transaction
        if transaction is not None:
            transaction.lend(data, buffers)
        differences: list[Tensor] = []
        seen: list[Tensor] = []

        def value(result: Any) -> Tensor:
            number = torch.as_tensor(result).detach()
            return number if var.modular is None else var.modular.distributed.mean_loss(number)

        try:
            center: Tensor | None = None
            for i in range(len(directions)):
                difference: Any = 0.0
                for offset, weight in formula(common["formula"]):
                    if offset == 0:
                        if center is None:
                            loss = closure(False) if loss is None else loss
                            center = value(loss)
                        f = center
                    else:
                        directions.write(i, data)
                        torch._foreach_mul_(data, [offset * h for h in lengths])
                        torch._foreach_add_(data, buffers)
                        f = value(closure(False))
                        seen.append(f)
                    difference = difference + weight * f
                differences.append(difference)
        finally:
            torch._foreach_copy_(data, buffers)
        if transaction is not None:
            transaction.taken_back(buffers)
        torch._foreach_zero_(buffers)
        for i, difference in enumerate(differences):
            difference = torch.where(difference.isfinite(), difference, 0.0) / len(directions)
            factors = [
                (difference / h).to(device=b.device, dtype=b.dtype) for b, h in zip(buffers, lengths, strict=True)
            ]
            directions.accumulate(i, buffers, factors)
        estimate = torch.stack(seen).mean() if seen else None
        return buffers, loss, estimate

    def post_step(self, var: Var) -> None:
        """Keep what the next step or a resumed run needs, once the step has been made."""
        drawn, self._drawn = self._drawn, None
        if drawn is None:
            return
        params, directions = drawn
        if isinstance(directions, Seeded):
            self.global_state["seeds"] = directions.seeds
        elif isinstance(directions, Kept):
            for j, p in enumerate(params):
                if self.settings[p]["beta"]:
                    self.state[p]["perturbations"] = [sample[j] for sample in directions.tensors]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_drawn": None}
