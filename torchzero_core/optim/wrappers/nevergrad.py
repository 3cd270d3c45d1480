"""Nevergrad."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.packages import required
from .base import Array, Bound, VectorFunction, Wrapper

#: Nevergrad warns of larger losses.
LARGEST = 1e20


class NevergradOptimizer(Wrapper):
    """An optimizer of Nevergrad: one step is one point that it asks for, and one evaluation.

    After each step the parameters are at the best point of all steps so far, and the step returns its loss. The search
    goes on from step to step, also in copies and pickles. A state dict holds the best point and its loss; after it is
    loaded the search starts anew from there.

    Args:
        params: tensors or groups; groups may have their own ``lb`` and ``ub``.
        opt_cls: a class of ``nevergrad.optimizers`` or what makes an optimizer from ``parametrization`` and
            ``budget``, or a name such as "CMA".
        budget: how many steps there will be, which some methods plan with.
        mutable_sigma: let the method adapt the size of its mutations.
        lb: lower bounds: a number, or an array or tensor of the parameters' shape.
        ub: upper bounds.
        use_init: start from the present parameters, moved into the bounds. False: from the middle of the bounds, or
            zero.

    Attributes:
        result: the loss of the last step's point.
        evaluations: how often the last step called the closure.

    Raises:
        ImportError: Nevergrad is not installed.
        ValueError: an optimizer that it does not have.

    Reference:
        Rapin and Teytaud, Nevergrad - a gradient-free optimization platform, 2018.
    """

    def __init__(
        self,
        params: Iterable[Any],
        opt_cls: str | Callable[..., Any],
        budget: int | None = None,
        mutable_sigma: bool = False,
        lb: Bound = None,
        ub: Bound = None,
        use_init: bool = True,
    ) -> None:
        nevergrad = required("nevergrad", "nevergrad", "NevergradOptimizer")
        if isinstance(opt_cls, str) and opt_cls not in nevergrad.optimizers.registry:
            raise ValueError(f"Nevergrad has no optimizer {opt_cls!r}; one is 'OnePlusOne', another 'CMA'.")
        self.opt_cls, self.budget, self.mutable_sigma, self.use_init = opt_cls, budget, mutable_sigma, use_init
        self.search: Any = None
        super().__init__(params, lb, ub)

    def minimize(self, objective: VectorFunction) -> float:
        """Ask for a point, and tell its loss."""
        params = objective.params
        if self.search is None or self.search.dimension != objective.x0.size:
            self.search = self._started(objective)
        candidate = self.search.ask()
        x = np.concatenate([np.ravel(value) for value in candidate.value])
        loss = objective(np.clip(x, objective.lower, objective.upper))
        self.search.tell(candidate, min(loss, LARGEST))
        best = self.state[params[0]].get("loss")
        if best is None or loss < best:
            return loss
        known = [self.state[p].get("best") for p in params]
        if all(k is not None and k.shape == p.shape for k, p in zip(known, params, strict=True)):
            objective.keep_known([k for k in known if k is not None], best)
        return loss

    @torch.no_grad()
    def step(self, closure: Callable[..., Any]) -> Tensor:  # type: ignore[override]
        """Evaluate one more point.

        Args:
            closure: ``closure(backward=False)`` evaluates the loss.

        Returns:
            The lowest loss so far, that of the point where the parameters are afterwards.
        """
        loss = super().step(closure)
        params = self.unknowns()
        if torch.isfinite(loss):
            for p in params:
                self.state[p]["best"] = p.detach().clone()
            if params:
                self.state[params[0]]["loss"] = float(loss)
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; the search starts anew."""
        super().load_state_dict(dict(state_dict))
        self.search = None

    def _started(self, objective: VectorFunction) -> Any:
        nevergrad = required("nevergrad", "nevergrad", "NevergradOptimizer")
        sizes = np.cumsum([p.numel() for p in objective.params])[:-1]
        pieces = [np.split(v, sizes) for v in (objective.x0, objective.lower, objective.upper)]
        space = nevergrad.p.Tuple(*(self._array(nevergrad, *values) for values in zip(*pieces, strict=True)))
        make = nevergrad.optimizers.registry[self.opt_cls] if isinstance(self.opt_cls, str) else self.opt_cls
        search = make(parametrization=space, budget=self.budget)
        search.parametrization.random_state.seed(int(torch.randint(2**31, (), device="cpu").item()))
        return search

    def _array(self, nevergrad: Any, init: Array, lower: Array, upper: Array) -> Any:
        """The elements of one parameter for Nevergrad."""
        bounds = {
            name: values for name, values in (("lower", lower), ("upper", upper)) if bool(np.isfinite(values).all())
        }
        if not self.use_init:
            init, between = np.clip(0.0, lower, upper), np.isfinite(lower) & np.isfinite(upper)
            init[between] = (lower[between] + upper[between]) / 2
        return nevergrad.p.Array(init=init, mutable_sigma=self.mutable_sigma, **bounds)
