"""Gradients from finite differences along the coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import Positive, Var
from ...core.point import number_of
from .base import ApproximationTarget, GradApproximator
from .formulas import Formula, formula


class FDM(GradApproximator):
    """Gradient from finite differences of the loss along each coordinate: g_i = (f(x + h·e_i) − f(x − h·e_i))/2h.

    With the default formula two evaluations of the loss for each element, so this is for few parameters. Whatever the
    closure does, the elements come back bit for bit. A difference that is not finite counts as zero.

    Args:
        h: length of the finite differences.
        formula: the finite difference, "forward2", "forward3", "backward2", "backward3", "central2" or "central4".
        target: what is replaced; see :class:`GradApproximator`. With "grad" or "update" the exact loss is not
            evaluated, unless the formula needs it, and ``step`` returns an estimate of it.
        relative: the length is h·max(1, abs(x_i)), as scipy has it. A step of 1e-3 from a float32 of 1e5 is lost in
            rounding.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 8.1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.FDM(), tz.m.LR(0.5))
        >>> optimizer.step(lambda backward=True: (p**2).sum()).item()
        14.0
        >>> p.detach().abs().max().item() < 1e-9
        True
    """

    h: Positive = 1e-3
    formula: Formula = "central2"
    target: ApproximationTarget = "closure"
    _: KW_ONLY
    relative: bool = False

    @torch.no_grad()
    def approximate(
        self, closure: Callable[..., Any], params: list[Tensor], loss: Tensor | None, var: Var
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """A difference for each element."""
        grads = [torch.zeros_like(p, requires_grad=False) for p in params]
        center: Tensor | None = None
        seen: list[Tensor] = []
        data = [p.detach() for p in params]  # to be written whether gradients are on or off
        for p, g, param in zip(data, grads, params, strict=True):
            settings = self.settings[param]
            length, points = settings["h"], formula(settings["formula"])
            for at in np.ndindex(*p.shape):
                start, difference = p[at].clone(), torch.zeros((), dtype=torch.float64, device=p.device)
                h = length * max(1.0, abs(float(start))) if settings["relative"] else length
                try:
                    for offset, weight in points:
                        if offset == 0:
                            if center is None:
                                loss = closure(False) if loss is None else loss
                                center = number_of(loss, var)
                            f = center
                        else:
                            p[at] = start + offset * h
                            f = number_of(closure(False), var)
                            p[at] = start
                            seen.append(f)
                        difference = difference + weight * f.to(difference)
                finally:
                    p[at] = start
                g[at] = torch.where(difference.isfinite(), difference / h, 0.0)
        return grads, loss, torch.stack(seen).mean() if seen else None
