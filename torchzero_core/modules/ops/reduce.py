"""One update of those of any number of modules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from numbers import Real
from operator import add, mul
from typing import Any

from ...core import Context, Input
from ...lang import Operand, median
from .base import ReduceOperation


class Sum(ReduceOperation):
    """u ← the sum of the inputs, each of which gets the update.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.Sum(tz.m.Identity(), tz.m.Sqrt(), 0.5)).step()
        >>> p.item()
        -6.5
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(add, operands)


class Mean(ReduceOperation):
    """u ← the mean of the inputs, each of which gets the update.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.Mean(tz.m.Identity(), tz.m.Sqrt(), 3)).step()
        >>> p.item()
        -3.0
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(add, operands) / len(operands)


class Prod(ReduceOperation):
    """u ← the product of the inputs, each of which gets the update.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.Prod(tz.m.Identity(), tz.m.Sqrt(), 3)).step()
        >>> p.item()
        -24.0
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(mul, operands)


class MaximumModules(ReduceOperation):
    """u ← the largest of the inputs, each of which gets the update; NaN where any of them is.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.MaximumModules(tz.m.Identity(), tz.m.Sqrt(), 3)).step()
        >>> p.item()
        -4.0
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(lambda a, b: a.maximum(b), operands)


class MinimumModules(ReduceOperation):
    """u ← the smallest of the inputs, each of which gets the update; NaN where any of them is.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.MinimumModules(tz.m.Identity(), tz.m.Sqrt(), 3)).step()
        >>> p.item()
        -2.0
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(lambda a, b: a.minimum(b), operands)


class MedianModules(ReduceOperation):
    """u ← the median of the inputs, each of which gets the update.

    Of an even number of inputs it is the mean of the two in the middle. It is NaN where any of them is.

    Args:
        *operands: modules, lists of modules, or numbers.
        inputs: the same as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.MedianModules(tz.m.Identity(), tz.m.Sqrt(), 3)).step()
        >>> p.item()
        -3.0
    """

    def __init__(self, *operands: Input, inputs: Sequence[Input] = ()) -> None:
        super().__init__({}, *operands, *inputs)

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return median(operands)


class WeightedSum(ReduceOperation):
    """u ← Σ wᵢ·uᵢ over the inputs, each of which gets the update.

    Args:
        *operands: modules, lists of modules, or numbers.
        weights: one for each input.
        inputs: the operands as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.WeightedSum(tz.m.Identity(), tz.m.Sqrt(), weights=[1, 3])).step()
        >>> p.item()
        -10.0
    """

    def __init__(self, *operands: Input, weights: Sequence[float], inputs: Sequence[Input] = ()) -> None:
        super().__init__(dict(weights=weights), *operands, *inputs)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        super().check_settings(settings)
        weights = settings["weights"]
        if not isinstance(weights, (list, tuple)) or not all(isinstance(w, Real) and math.isfinite(w) for w in weights):
            raise ValueError(f"{type(self).__name__}(weights={weights!r}): the weights must be a list of numbers.")
        if len(weights) != len(self.operands):
            raise ValueError(
                f"{type(self).__name__} has {len(self.operands)} inputs and weights={weights!r}; give one for each."
            )

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return reduce(add, map(mul, ctx.settings.weights, operands))


class WeightedMean(WeightedSum):
    """u ← Σ wᵢ·uᵢ / Σ wᵢ over the inputs, each of which gets the update.

    Args:
        *operands: modules, lists of modules, or numbers.
        weights: one for each input; their sum must not be 0.
        inputs: the operands as a list, for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> p.grad = torch.tensor([4.0])
        >>> tz.Modular([p], tz.m.WeightedMean(tz.m.Identity(), tz.m.Sqrt(), weights=[1, 3])).step()
        >>> p.item()
        -2.5
    """

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        super().check_settings(settings)
        if sum(settings["weights"]) == 0:
            raise ValueError(f"WeightedMean(weights={settings['weights']!r}): the sum of the weights must not be 0.")

    def transform(self, ctx: Context, *operands: Any) -> Operand:
        return super().transform(ctx, *operands) / sum(ctx.settings.weights)
