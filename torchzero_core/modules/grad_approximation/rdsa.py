"""Random directions."""

from __future__ import annotations

from .directions import Distribution
from .randomized import RandomizedFDM


class RDSA(RandomizedFDM):
    """Random directions stochastic approximation: :class:`RandomizedFDM` with Gaussian directions.

    g = u·(f(x+hu) − f(x−hu))/2h with u ~ N(0, I), averaged over ``n_samples``.

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

    Reference: Nesterov and Spokoiny, Foundations of Computational Mathematics 17, 2017.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.RDSA(n_samples=4, seed=0), tz.m.LR(0.05))
        >>> for _ in range(200):
        ...     loss = optimizer.step(lambda backward=True: (p**2).sum())
        >>> loss.item() < 1e-3
        True
    """

    distribution: Distribution = "gaussian"
