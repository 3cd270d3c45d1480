"""Limited-memory BFGS for losses that change from step to step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...core import Beta, Child, Length, NonNegative, Range, Var
from ...core.closure import Closure
from ...core.evaluate import gradient, uniform_settings
from ...core.stand_ins import real_param
from ...core.vector_method import Unit
from ...linalg import elsewhere
from .lbfgs import TwoLoop
from .pairs import knows_nothing


class OnlineLBFGS(TwoLoop):
    """Online limited-memory BFGS: both gradients of a difference y come from the same minibatch.

    The difference between the gradients of two minibatches says little of the curvature; here the gradient is
    evaluated a second time in each step. Everything else is as in :class:`LBFGS`: the two-loop recursion with
    H0 = (s'y/y'y)·I of the newest pair, a pair being accepted if s'y > tol·‖s‖‖y‖, and the direction u/max(1, ‖u‖₁) as
    long as there is none. y is a difference of gradients as the closure computes them.

    Args:
        sample_grads: where the other gradient is evaluated. "before": at the parameters of the step before, with the
            present closure. "after": at the parameters that the step leads to, for the pair of the next step.

    Raises:
        ValueError: settings that differ between parameter groups.
        RuntimeError: "after" inside a projection, which does not tell where a step leads to.

    Reference: Schraudolph, Yu and Günter, A stochastic quasi-Newton method for online convex optimization, 2007.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([-1.1, 2.5, 1.0], requires_grad=True)
        >>> batches = torch.randn(200, 4, 3, generator=torch.Generator().manual_seed(0))
        >>> optimizer = tz.Modular([p], tz.m.OnlineLBFGS(), tz.m.LR(0.2))
        >>> for batch in batches:
        ...     def closure(backward=True):
        ...         loss = (batch @ p).square().mean()
        ...         if backward:
        ...             p.grad = None
        ...             loss.backward()
        ...         return loss
        ...     _ = optimizer.step(closure)
        >>> bool(p.abs().max() < 1e-3)
        True
    """

    requires_closure = True

    history_size: Length = 10
    sample_grads: Literal["before", "after"] = "before"
    tol: NonNegative = 1e-10
    damping: bool = False
    init_damping: Annotated[float, Range(0, 1, "(]")] = 0.9
    eigval_bounds: tuple[float, float] = (0.5, 50)
    z_beta: Beta | None = None
    inner: Child | None = None

    def __post_init__(self) -> None:
        self._waiting: tuple[Closure, Unit] | None = None  # for the end of the step

    def prepare(self, var: Var) -> Var:
        if var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the gradient elsewhere: call optimizer.step(closure).")
        var.get_grad()
        if var.modular is not None:
            var.modular.transaction.keep(var.params)  # an evaluation elsewhere may fail
        if uniform_settings(self, var.params)["sample_grads"] == "after" and var.modular is not None:
            if any(real_param(p) is not p for p in var.params):
                raise RuntimeError(
                    f"{self.path} with sample_grads='after' evaluates the gradient where the step has led to, which it "
                    "is not told inside a projection; use sample_grads='before'."
                )
            var.modular.transaction.thorough = True  # an evaluation comes after all that is written
        return var

    def learn(self, unit: Unit, u: Tensor) -> Tensor | bool:
        """Take a pair from the present minibatch, or note what the pair after the step needs."""
        state, var = unit.state, unit.given
        g = unit.vector(unit.pick(var.get_grad())).clone()
        known = "s" in state
        if unit.settings["sample_grads"] == "before":
            if known and "prev_params" in state:
                with elsewhere(unit.params) as (data, _):
                    torch._foreach_copy_(data, unit.tensors(state["prev_params"]))
                    before = gradient(var.closure, unit.params)[1]
                self.begin(unit, u)
                s, y = self.room(unit)
                self.take(unit, unit.point(s).sub_(state["prev_params"]), torch.sub(g, unit.vector(before), out=y))
        else:
            state["prev_update"] = g
            self._waiting = var.closure, unit
        self.begin(unit, u)
        state["prev_params"] = unit.point(torch.empty_like(u))
        return knows_nothing(state)

    def post_step(self, var: Var) -> None:
        """Take the pair of this step."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        closure, unit = waiting
        state = unit.state
        after = gradient(closure, unit.params)[1]
        s, y = self.room(unit)
        unit.point(s).sub_(state.pop("prev_params"))
        self.take(unit, s, torch.sub(unit.vector(after), state.pop("prev_update"), out=y))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_waiting": None}
