"""Memory-efficient zeroth-order optimization."""

from __future__ import annotations

from ...core import Beta, per_group
from .randomized import RandomizedFDM


class MeZO(RandomizedFDM):
    """Zeroth-order gradient whose directions are never held: each is drawn again from its seed.

    g = mean of u·(f(x+hu) − f(x−hu))/2h. Beside the gradient itself, which is what the chain works on, it takes the
    memory of the largest tensor: the memory of the gradient holds a copy of the parameters while they are perturbed,
    so that they come back bit for bit. The closure is evaluated without a graph, so activations are not kept. The seeds
    of the last step, one for each sample, are kept in the state. Of the other settings of :class:`RandomizedFDM`, a
    group can give ``beta`` and ``pre_generate``.

    Args:
        h: length of the finite differences.
        n_samples: number of directions.
        formula: the finite difference, "forward2", "forward3", "backward2", "backward3", "central2" or "central4".
        distribution: of the directions: "gaussian", "rademacher", "uniform" or "sphere", all with variance 1.
        target: what is replaced; see :class:`GradApproximator`. With "grad" or "update" the exact loss is not
            evaluated, a step costs two evaluations, and ``step`` returns an estimate of the loss.
        seed: of the seeds; by default drawn from torch's global generator.

    Raises:
        ValueError: ``n_samples`` or ``formula`` that differ between parameter groups; an unknown formula or
            distribution.

    Reference: Malladi et al., Fine-Tuning Language Models with Just Forward Passes, 2023.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.MeZO(seed=0), tz.m.LR(0.05))
        >>> for _ in range(200):
        ...     loss = optimizer.step(lambda backward=True: (p**2).sum())
        >>> loss.item() < 1e-3
        True
    """

    beta: Beta = per_group(default=0)
    pre_generate: bool = per_group(default=True)
    regenerates = True
