"""Gradient accumulation."""

from __future__ import annotations

import torch

from ...core import Child, Count, Module, StateKind, Var
from ...core.evaluate import uniform_settings


class GradientAccumulation(Module):
    """Gathers updates and lets modules see their mean every n steps.

    In the other steps the parameters stay and no module inside advances: not its step counts, not its averages. Where
    gradients are gathered, their mean is the gradient for the modules inside.

    Args:
        modules: a module or list of modules that gets the gathered update.
        n: how many updates are gathered, at least 1.
        mean: divide the sum by n.
        stop: end the chain in the steps in between; otherwise the modules after this one see an update of zeros.

    Raises:
        ValueError: parameter groups set n, mean or stop differently.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.GradientAccumulation([tz.m.Add(1), tz.m.LR(1.0)], n=2))
        >>> for grad in (1.0, 3.0):
        ...     p.grad = torch.tensor([grad])
        ...     optimizer.step()
        ...     print(p.item())
        0.0
        -3.0
    """

    keeps_place = True
    kept = {"accumulator": StateKind.VALUES, "gathered": StateKind.COUNT}

    modules: Child
    n: Count
    mean: bool = True
    stop: bool = True

    def step(self, var: Var) -> Var:
        update = var.peek_update()
        sums = self.get_state(var.params, "accumulator")
        torch._foreach_add_(sums, update) if sums else None
        for p in var.params:
            state = self.state[p]
            state["gathered"] = state.get("gathered", 0) + 1
        shared = self.global_state
        done = shared.get("step", 0) + 1
        settings = uniform_settings(self, var.modular.all_params if var.modular is not None else var.params)
        shared["step"] = done % settings["n"]
        if done < settings["n"]:
            if settings["stop"]:
                var.update = None
                var.stop = var.skip_update = True
            else:
                var.update = [torch.zeros_like(u) for u in update]
            return var
        return self._advance(var, settings["n"] if settings["mean"] else 1)

    def _advance(self, var: Var, divisor: int) -> Var:
        """Run the modules on what was gathered, also for parameters that have no gradient in this very step."""
        assert var.modular is not None
        known = var.params if var.nested else var.modular.all_params
        gathered = [i for i, p in enumerate(known) if self.state[p].get("gathered", 0)]
        params = var.part(gathered) if var.nested else var.modular.all_params.part([known[i] for i in gathered])
        sums = self.get_state(params, "accumulator")
        update = list(torch._foreach_div(sums, divisor)) if sums else []
        torch._foreach_zero_(sums) if sums else None
        for p in params:
            self.state[p]["gathered"] = 0
        if var.update is None:  # gradients were gathered, and what was gathered is the gradient for the modules
            inner = var.fork(params, None, update, writable=False)
        else:
            grads = None if var.grad is None else dict(zip(map(id, var.params), var.grad, strict=True))
            grad = None
            if grads is not None:
                grad = [grads[id(p)] if id(p) in grads else u.clone() for p, u in zip(params, update, strict=True)]
            inner = var.fork(params, update, grad, writable=True)
        inner.nested, inner.skip_update = var.nested, var.skip_update
        return self.children["modules"].step(inner)
