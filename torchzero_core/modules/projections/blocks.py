"""Parameters in blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core import Count, Modules, Passed, Var
from ...core.evaluate import uniform_settings
from .base import Current, Projection


class BlockPartition(Projection):
    """Cuts each parameter, as a vector, into blocks, so that what is costly for many elements runs on few at a time.

    Around ``BFGS(concat_params=False)`` it makes block BFGS, with one matrix for each block.

    Args:
        modules: what runs on the blocks.
        max_size: the largest number of elements of a block.
        batched: give the modules the blocks of equal size as the rows of one matrix, a block a row. What works element
            by element, or slice by slice (``dim``), does the same in fewer tensors; to others the matrix is one tensor.
        project_update: the modules start from the update and give the new one. False: they start from the gradient.
        project_params: give the modules a closure on the blocks, for line searches and the like.
        project_grad: cut the gradients even if nobody asks for them.

    Raises:
        ValueError: with ``batched``, settings of the modules that differ between parameter groups.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(4, requires_grad=True)
        >>> p.grad = torch.tensor([3.0, 4.0, 0.0, 0.1])
        >>> tz.Modular([p], tz.m.BlockPartition(tz.m.Normalize(), max_size=2)).step()
        >>> p.detach()
        tensor([-0.6000, -0.8000,  0.0000, -1.0000])
    """

    modules: Passed[Modules]
    max_size: Count
    batched: bool = False
    project_update: Passed[bool] = True
    project_params: Passed[bool] = False
    project_grad: Passed[bool] = False

    @property
    def joins(self) -> bool:  # type: ignore[override]
        """Whether blocks of several parameters are one tensor."""
        return bool(self.defaults["batched"])

    def project(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Cut."""
        sizes = self._sizes(var.params)
        blocks = [b for t, size in zip(tensors, sizes, strict=True) for b in t.reshape(-1).split(size)]
        if not self.joins:
            return blocks
        return [torch.stack([blocks[i] for i in members]) for members in self._batches(var.params, sizes)]

    def unproject(self, tensors: list[Tensor], var: Var, current: Current) -> list[Tensor]:
        """Join."""
        sizes, blocks = self._sizes(var.params), tensors
        if self.joins:
            found: dict[int, Tensor] = {}
            for members, batch in zip(self._batches(var.params, sizes), tensors, strict=True):
                found.update(zip(members, batch, strict=True))
            blocks = [found[i] for i in range(len(found))]
        rest = iter(blocks)
        return [
            torch.cat([next(rest) for _ in range(_count(p, size))]).view(p.shape)
            for p, size in zip(var.params, sizes, strict=True)
        ]

    def keeper(self, index: int, var: Var, default: Tensor) -> Tensor:
        """The parameter that the block is cut from."""
        if self.joins:
            return default
        for p, size in zip(var.params, self._sizes(var.params), strict=True):
            index -= _count(p, size)
            if index < 0:
                return p
        raise IndexError(index)

    def _sizes(self, params: list[Tensor]) -> list[int]:
        uniform_settings(self, params, ("batched",))
        return [self.settings[p]["max_size"] for p in params]

    def _batches(self, params: list[Tensor], sizes: list[int]) -> list[list[int]]:
        """The numbers of the blocks that are alike."""
        batches: dict[Any, list[int]] = {}
        number = 0
        for p, size in zip(params, sizes, strict=True):
            for start in range(0, max(p.numel(), 1), size):
                batches.setdefault((min(size, p.numel() - start), p.dtype, p.device), []).append(number)
                number += 1
        return list(batches.values())


def _count(param: Tensor, size: int) -> int:
    """How many blocks a parameter has; an empty one has one."""
    return max(-(-param.numel() // size), 1)
