"""The method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core import StateKind
from ...core.neighbours import neighbours
from ...core.vector_method import Unit, told
from .rank_two import Coefficients, RankTwo

#: After how many pairs that do not ask for a larger H it is large enough.
ENOUGH = 2
#: How much larger H becomes by one pair.
MOST = 2.0


class BFGS(RankTwo):
    """BFGS: H ← (I − sy'/s'y) H (I − ys'/s'y) + ss'/s'y, skipped when s'y ≤ tol·‖s‖‖y‖.

    The direction is H·u. H has n² elements for n parameters; see :class:`LBFGS` for many parameters.

    The first pair says little of the directions that it does not lie in, and an H too small there is slow to grow,
    whereas BFGS soon corrects one too large. So right before a search that corrects the length of its directions, as
    :class:`StrongWolfe` does, and with ``init_scale="auto"``, H is multiplied before its update by s'H⁻¹s/s'y where
    this is above 1, but not by more than 2, until two pairs have not asked for it. It is where the minimum of a
    parabola along the step would have been, in lengths of the direction: s'H⁻¹s = (s'g)²/g'Hg with g at the start of
    the step. Without such a search nothing would shorten a step that has become too long, and H is scaled once.

    Raises:
        ValueError: settings that differ between parameter groups although ``concat_params`` makes them one vector.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, section 6.1; for the scaling S. S. Oren and D. G.
    Luenberger, Management Science 20, 1974, and, for doing it upwards alone, M. Al-Baali, Computational Optimization
    and Applications 9, 1998; for what BFGS corrects R. H. Byrd, J. Nocedal and Y. Yuan, SIAM J. Numerical Analysis 24,
    1987.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5], requires_grad=True)
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         p.grad = None
        ...         loss.backward()
        ...     return loss
        >>> optimizer = tz.Modular([p], tz.m.BFGS(), tz.m.StrongWolfe())
        >>> for _ in range(40):
        ...     _ = optimizer.step(closure)
        >>> closure(False).item() < 1e-10
        True
    """

    kept = {"content": StateKind.WHOLE}

    def coefficients(
        self, sy: Tensor, yHy: Tensor, H: Tensor, s: Tensor, Hy: Tensor, g_prev: Tensor, settings: Mapping[str, Any]
    ) -> Coefficients:
        return Coefficients(ss=(1 + yHy / sy) / sy, sh=-1 / sy)

    def learn(self, unit: Unit, u: Tensor) -> Tensor | bool:
        """Let the formula learn from the differences to the last step."""
        if "fresh" not in unit.state and unit.settings["init_scale"] == "auto" and self._corrected:
            unit.state["content"] = torch.zeros((), dtype=torch.long, device=u.device)  # there from the first step on
        return super().learn(unit, u)

    def _scale(self, matrix: Tensor, s: Tensor, y: Tensor, fresh: Tensor, unit: Unit) -> Tensor:
        """Scale H by the first pair, and let it grow as long as the next ones ask for it."""
        state, waits = unit.state, super()._scale(matrix, s, y, fresh, unit)
        content = state.examined("content") if "content" in state else torch.full_like(fresh, ENOUGH, dtype=torch.long)
        learns = content < ENOUGH
        if (told(fresh) is False and told(learns) is False) or not self._corrected:
            return waits
        g = state.examined("prev_update")
        sy, sg, gHg = torch.dot(s, y), torch.dot(s, g), torch.dot(g, matrix @ g)
        growth = (sg / sy) * (sg / gHg)
        learns = learns & ~fresh & (sy > unit.settings["tol"] * s.norm() * y.norm()) & growth.isfinite()
        asks = learns & (growth > 1)
        matrix.mul_(torch.where(asks, growth.clamp(max=MOST), 1.0))
        state["content"] = torch.where(fresh & ~waits, 0, content + (learns & ~asks))
        return waits

    @property
    def _corrected(self) -> bool:
        """Whether the search right behind it corrects the length of the directions."""
        found = None if self.home is None else neighbours(self, self.home.modules)
        return found is not None and found[1] is not None and found[1].corrects_length
