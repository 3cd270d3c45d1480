"""Gradients from finite differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core import Beta, Count, Positive, Seed, StateKind, Var
from ...core.evaluate import uniform_settings
from ...core.point import number_of
from .base import ApproximationTarget, GradApproximator
from .directions import Directions, Distribution, Kept, Seeded, draw_
from .formulas import Formula, formula


class RandomDirections(GradApproximator):
    """Base of approximations along random directions, with what their settings have in common."""

    kept = {"perturbations": StateKind.LIST, "seeds": StateKind.SEEDS}

    lends_params = True
    #: Whether directions are drawn again from their seeds instead of being held.
    regenerates: ClassVar[bool] = False
    #: The settings that are the same for all parameters.
    uniform: ClassVar[Sequence[str]] = ("n_samples", "pre_generate", "seed")

    def __post_init__(self) -> None:
        self._drawn: tuple[list[Tensor], Directions] | None = None

    def pre_step(self, var: Var) -> None:
        """Draw the directions of the step."""
        common = self.common(var.params)
        self._drawn = (var.params, self._draw(var.params, common["n_samples"])) if common["pre_generate"] else None

    def common(self, params: list[Tensor]) -> dict[str, Any]:
        """The settings that all parameters share.

        Args:
            params: the parameters.

        Raises:
            ValueError: they differ between groups.
        """
        return uniform_settings(self, params, self.uniform)

    def directions(self, params: list[Tensor], common: Mapping[str, Any]) -> Directions:
        """The directions of an evaluation.

        Args:
            params: the parameters.
            common: the settings that they share.
        """
        if self._drawn is None or not common["pre_generate"]:
            self._drawn = (params, self._draw(params, common["n_samples"]))
        return self._drawn[1]

    def _draw(self, params: list[Tensor], n: int) -> Directions:
        settings = [self.settings[p] for p in params]
        if self.regenerates and not any(h["beta"] for h in settings):
            seeds = torch.randint(2**62, (n,), generator=self.generator("cpu"), device="cpu").tolist()
            return Seeded(seeds, [h["distribution"] for h in settings])
        kept = []
        for i in range(n):
            fresh = []
            for p, h in zip(params, settings, strict=True):
                u = draw_(torch.empty_like(p, requires_grad=False), h["distribution"], self.generator(p.device))
                old = self.state[p].get("perturbations", ())[i : i + 1] if h["beta"] else ()
                fresh.append(u.lerp_(old[0].to(u), h["beta"]) if old and old[0].shape == u.shape else u)
            kept.append(fresh)
        return Kept(kept)

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


class RandomizedFDM(RandomDirections):
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
    seed: Seed | None = None
    uniform = ("n_samples", "formula", "pre_generate", "seed")

    @torch.no_grad()
    def approximate(
        self, closure: Callable[..., Any], params: list[Tensor], loss: Tensor | None, var: Var
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """One difference for each direction; the saved copy of the parameters becomes the gradient in the end."""
        common = self.common(params)
        directions = self.directions(params, common)
        lengths = self.get_settings(params, "h")
        buffers = [p.detach().clone() for p in params]
        points = formula(common["formula"])
        differences, seen, loss = differences_along(directions, params, buffers, lengths, points, closure, loss, var)
        average(directions, buffers, [[d / h for h in lengths] for d in differences])
        estimate = torch.stack(seen).mean() if seen else None
        return buffers, loss, estimate


def average(directions: Directions, out: list[Tensor], slopes: Sequence[Sequence[Tensor]]) -> None:
    """The mean of the directions, each times its slope; a slope that is not finite counts as zero.

    Args:
        directions: the directions.
        out: overwritten with the mean.
        slopes: for each direction, one for each parameter.
    """
    torch._foreach_zero_(out)
    for i, row in enumerate(slopes):
        finite = [torch.where(x.isfinite(), x, 0.0) / len(directions) for x in row]
        factors = [x.to(device=o.device, dtype=o.dtype) for x, o in zip(finite, out, strict=True)]
        directions.accumulate(i, out, factors)


def differences_along(
    directions: Directions,
    params: list[Tensor],
    start: list[Tensor],
    lengths: Sequence[float],
    points: Sequence[tuple[int, float]],
    closure: Callable[..., Any],
    loss: Any,
    var: Var,
) -> tuple[list[Any], list[Tensor], Any]:
    """Finite differences of the loss, one for each direction; the parameters are put back.

    Args:
        directions: the directions.
        params: the parameters.
        start: their values.
        lengths: for each parameter the length of a step along a direction.
        points: offsets and weights of the formula.
        closure: evaluates the loss.
        loss: the loss at the start where it is known.
        var: the step.

    Returns:
        The differences, the losses at other points, and the loss at the start if it is known now.
    """
    differences: list[Any] = []
    seen: list[Tensor] = []
    center: Tensor | None = None
    data = [p.detach() for p in params]  # to be written whether gradients are on or off
    transaction = None if var.modular is None else var.modular.transaction
    if transaction is not None:
        transaction.lend(data, start)
    try:
        for i in range(len(directions)):
            difference: Any = 0.0
            for offset, weight in points:
                if offset == 0:
                    if center is None:
                        loss = closure(False) if loss is None else loss
                        center = number_of(loss, var)
                    f = center
                else:
                    directions.write(i, data)
                    torch._foreach_mul_(data, [offset * h for h in lengths])
                    torch._foreach_add_(data, start)
                    f = number_of(closure(False), var)
                    seen.append(f)
                difference = difference + weight * f
            differences.append(difference)
    finally:
        torch._foreach_copy_(data, start)
    if transaction is not None:
        transaction.taken_back(start)
    return differences, seen, loss
