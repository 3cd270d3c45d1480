"""Several steps of modules as one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core import Child, Count, Module, Modules, Var
from ...core.closure import Evaluations, detached
from ...core.evaluate import kept_grads, remembering, uniform_settings
from ...core.naming import unrolled


class _Walk(Module):
    """Modules that move the parameters one after another, and the whole way as the update."""

    def walk(self, var: Var, modules: Sequence[Module]) -> Var:
        """Let each module make a step from where the one before it has ended.

        Afterwards the parameters are exactly what they were, also after an error. A point whose loss is not finite is
        not gone on from: the way ends at the one before it.

        Args:
            var: the step's context.
            modules: what makes a step each.

        Raises:
            RuntimeError: there is more than one step and no closure.
        """
        if len(modules) > 1 and var.closure is None:
            raise RuntimeError(f"{self.path} has to evaluate the loss: call optimizer.step(closure).")
        if not var.params:
            return var
        way = _Way(var, self.path, self._closure(var))
        everything = var.params if var.modular is None else var.modular.all_params
        try:
            with kept_grads(everything):
                for i, module in enumerate(modules):
                    for p in everything if i else ():
                        p.grad = None  # the gradient of an earlier point is not written over
                    if not way.advance(module, first=i == 0):
                        var.info.status = "not finite"
                        break
            way.finish()
        finally:
            way.restore()
        return var

    def _closure(self, var: Var) -> Callable[..., Any] | None:
        """The closure within this step, where it is one function: what a search has ended with is known."""
        exact = var.closure
        if exact is None:
            return None
        if not any(m.requires_closure for m in unrolled(self) if m is not self):
            return lambda backward=True: exact(backward)
        return remembering(exact, Evaluations(word=True), var.params)


class _Way:
    """Where the parameters have gone within a step.

    Args:
        var: the step's context, which in the end gets the update.
        path: of the module.
        closure: evaluates the loss.
    """

    def __init__(self, var: Var, path: str, closure: Callable[..., Any] | None) -> None:
        self.var, self.closure, self.params = var, closure, var.params
        self.start, self.before, self.here = (var.scratch(f"{path}.{name}") for name in ("start", "before", "here"))
        torch._foreach_copy_(self.start, self.params)
        if var.modular is not None:
            var.modular.transaction.lend(self.params, self.start)
        self.first_grads: dict[int, Tensor] = {}
        self.moved: set[int] = set()

    def advance(self, module: Module, *, first: bool) -> bool:
        """Let a module make a step.

        Args:
            module: the module.
            first: whether it goes on from the update that there is.

        Returns:
            Whether the loss was finite; else the parameters are where they were before they got here.
        """
        inner = self._context(first=first)
        if not first and module.needs_gradient:
            inner.get_grad()
            if not _finite(inner):
                torch._foreach_copy_(self.params, self.before)
                return False
        torch._foreach_copy_(self.here, self.params)
        done = module.step(inner)
        if first:
            self.var.absorb(done, [])
            self.first_grads = dict(zip(map(id, done.params), done.grad or (), strict=False))
        elif not _finite(done):
            torch._foreach_copy_(self.params, self.before)
            return False
        if done.stop and done.update is None:  # it waits, as GradientAccumulation does
            return True
        if not done.skip_update and done.params:
            update = done.get_update()  # it may be the gradient yet, which says which parameters take part
            torch._foreach_sub_(done.params, update)
        self.moved.update(map(id, done.params))
        self.before, self.here = self.here, self.before
        return True

    def _context(self, *, first: bool) -> Var:
        var = self.var
        if first:
            inner = var.fork(self.params, var.update, var.grad, writable=var.writable)
        else:
            inner = var.fork(self.params, None, None, writable=False)
            inner.loss = inner.loss_approx = None
        inner.closure = self.closure
        return inner

    def finish(self) -> None:
        """Make the way the update. Parameters that never took part do not take part in the rest of the step either."""
        var = self.var
        places = [i for i, p in enumerate(self.params) if id(p) in self.moved]
        if not places:
            var.update, var.stop, var.skip_update = None, True, True
            return
        known = [self.first_grads.get(id(self.params[i])) for i in places]
        grads = [g for g in known if g is not None]
        start = [self.start[i] for i in places]
        var.params = var.part(places)
        var.grad = grads if len(grads) == len(known) else None
        var.update = list(torch._foreach_sub(start, var.params))

    def restore(self) -> None:
        """Put the parameters back to the start."""
        torch._foreach_copy_(self.params, self.start)


def _finite(var: Var) -> bool:
    """Whether what is known of the loss is finite, on all ranks."""
    known = [detached(loss) for loss in (var.loss, var.loss_approx) if loss is not None]
    if var.modular is not None:
        known = [var.modular.distributed.mean_loss(loss) for loss in known]
    return all(bool(loss.isfinite()) for loss in known)


class Multistep(_Walk):
    """Several steps of a module as one: its update is where they lead in all.

    The first step starts from the update as it comes, each later one from the gradient where the one before has ended.
    What a line search has evaluated last is not evaluated again. Within the step nothing scales the updates, so a
    learning rate for the steps stands inside, and one behind this module scales the whole way.

    Args:
        module: a module, or a list of modules.
        steps: how many steps.

    Raises:
        ValueError: parameter groups set ``steps`` differently.

    Reference:
        Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019, arXiv:1907.08610: with a
        learning rate behind it, but all its steps see the same batch.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([8.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Multistep(tz.m.LR(0.25), 3), tz.m.Mul(0.5))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), p.item()  # half of the way from 8 to 1
        (64.0, 4.5)
        >>> optimizer.last_step.evaluations
        3
    """

    module: Child
    steps: Count

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether there is more than one step."""
        return self.defaults["steps"] > 1

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the module starts from it."""
        return self.children["module"].needs_gradient

    def step(self, var: Var) -> Var:
        """Make the steps."""
        if not var.params:
            return var
        return self.walk(var, [self.children["module"]] * uniform_settings(self, var.params)["steps"])


class Sequential(_Walk):
    """Modules that take turns within one step, each from where the one before it has ended.

    Each moves the parameters by its own update; the new update is where they lead in all. The first one starts from the
    update as it comes, the others from the gradient at their place. Each needs a learning rate of its own.

    Args:
        modules: modules, or lists of modules, each of which becomes a chain.
        steps: how often they take turns.

    Raises:
        ValueError: no modules, or parameter groups that set ``steps`` differently.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.tensor([8.0], requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Sequential([tz.m.LR(0.25), [tz.m.Sign(), tz.m.LR(0.5)]]))
        >>> def closure(backward=True):
        ...     loss = p.square().sum()
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), p.item()  # 8 - 0.25·16 - 0.5
        (64.0, 3.5)
    """

    requires_closure = True
    one_piece = True
    ranges = {"steps": (1, math.inf, "[)")}

    def __init__(self, modules: Module | Iterable[Modules], steps: int = 1) -> None:
        super().__init__(dict(steps=steps))
        for i, module in enumerate([modules] if isinstance(modules, Module) else modules):
            self.set_child(str(i), module)
        if not self.children:
            raise ValueError("Sequential needs at least one module.")

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the first module starts from it."""
        return self.children["0"].needs_gradient

    def step(self, var: Var) -> Var:
        """Let the modules take turns."""
        if not var.params:
            return var
        return self.walk(var, [*self.children.values()] * uniform_settings(self, var.params)["steps"])
