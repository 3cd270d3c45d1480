"""A trust region of first order on the length of a step."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

from torch import Tensor

from ...core import Beta, OpenFraction, Positive, Range, StateKind, Var
from .base import SHORTEST, LineSearch
from .scalar import NO_DECREASE

Growth: TypeAlias = Annotated[float, Range(1, math.inf, "[)")]


class TrustRegion(LineSearch):
    r"""A step size that grows after steps that go well and shrinks after steps that do not: one evaluation a step.

    The update is tried with the present step size α. With f₁ = f(p − α·u) and the slope d = −⟨g, u⟩:

    .. math::
        f_1 < f_0 + c·α·\min(d, 0): \; α ← n^+·α, \qquad f_1 ≥ f_0: \; α ← n^-·α

    and in between α stays as it is.

    Args:
        nplus: what the step size is multiplied by after a step that went well.
        nminus: what it is multiplied by after a step that made the loss no smaller.
        c: the share of the predicted decrease that is asked for.
        init: the first step size.
        backtrack: do not make a step that makes the loss no smaller. One to a loss that is not finite is never made.
        adaptive: compound: each result of the same kind in a row multiplies by ``nplus`` or ``nminus`` once more. A
            result in between, after which the step size stays, does not break a row.

    Raises:
        ValueError: a step with settings that differ between parameter groups.

    Reference: Conn, Gould and Toint, Trust-Region Methods, 2000, algorithm 6.1.1.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (p**2).sum() / 200
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.TrustRegion(nplus=2.0, adaptive=False))
        >>> sizes = []
        >>> for _ in range(4):
        ...     _ = optimizer.step(closure)
        ...     sizes.append(optimizer.last_step.step_size)
        >>> sizes
        [1.0, 2.0, 4.0, 8.0]
    """

    keeps_place = True
    kept = {
        "step_size": StateKind.POSITIVE,
        "nplus_mul": StateKind.POSITIVE,
        "nminus_mul": StateKind.POSITIVE,
        "previous_success": StateKind.TRUTH,
    }

    nplus: Growth = 1.5
    nminus: OpenFraction = 0.75
    c: Beta = 1e-4
    init: Positive = 1.0
    backtrack: bool = True
    adaptive: bool = True

    def search(self, update: list[Tensor], var: Var) -> float:
        """The present step size, or 0."""
        h, state = self.common_settings(var), self.global_state
        phi = self.make_objective(var)
        start, alpha = phi.start, state.get("step_size", h["init"])
        loss = phi(alpha)
        if loss < start.loss + h["c"] * alpha * min(start.slope, 0.0):
            self._resize(h, alpha, "nplus", success=True)
        elif loss >= start.loss:
            self._resize(h, alpha, "nminus", success=False)
            if h["backtrack"]:
                shrinks = alpha > SHORTEST * h["init"] and start.slope < 0 and phi.moves(alpha)
                return self.fail(NO_DECREASE, retries=shrinks)
        return alpha

    def _resize(self, h: dict[str, float], alpha: float, name: str, *, success: bool) -> None:
        """Multiply the step size, by more if the last result was of the same kind."""
        state, factor = self.global_state, f"{name}_mul"
        again = h["adaptive"] and state.get("previous_success") is success
        state[factor] = state.get(factor, 1.0) * h[name] if again else 1.0
        size = alpha * h[name] * state[factor]
        state["step_size"] = size if 0 < size < math.inf else alpha
        state["previous_success"] = success
