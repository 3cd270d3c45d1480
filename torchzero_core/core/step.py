"""The way of a step of a whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..engine import Segment
from .closure import CountedClosure
from .home import Home
from .module import Module
from .route import RuleStage, run_stages
from .var import Var


class WholeChain:
    """A chain from the gradients to the parameters: what it runs, and what has to be done after it.

    Args:
        stages: what runs in turn.
        modules: every module in it, depth first.
        watched: whether somebody looks at the update after each module.

    Attributes:
        needy: a module that needs a closure.
        in_one_piece: a module that takes no parameters that are spread over ranks.
        foreign: whether somebody else's code runs in it, a module or a watcher.
        thorough: whether one of them runs after the parameters have moved.
        evaluates: whether a closure is evaluated after something has been written.
        differentiates: whether somebody else's module may differentiate what the closure returns.
        repeatable: what runs the whole chain, if that is one run of rules and nothing else.
    """

    def __init__(self, stages: Sequence[Any], modules: Sequence[Module], *, watched: bool) -> None:
        self.stages, self.modules = stages, modules
        self.needy = next((m for m in modules if m.requires_closure), None)
        self.in_one_piece = next((m for m in modules if m.one_piece), None)
        self.foreign = watched or any(m.foreign for m in modules)
        self.thorough = any(m.foreign and type(m).post_step is not Module.post_step for m in modules)
        self.evaluates = self.needy is not None or not stages or not stages[0].needs_gradient
        self.differentiates = any(m.foreign and m.requires_closure and not m.takes_values for m in modules)
        # Rules only read the loss.
        self.evaluates_again = any(m.requires_closure and not m.is_rule for m in modules)
        # The last one first: it may evaluate once more, by a closure that the modules before it have wrapped.
        self.finishers = [m for m in reversed(modules) if type(m).post_step is not Module.post_step]
        only = stages[0] if len(stages) == 1 else None
        plain = self.needy is None and not self.foreign and not self.finishers
        self.repeatable: Segment | None = None
        if plain and isinstance(only, RuleStage) and only.moves:
            self.repeatable = only.segment

    def run(self, var: Var, home: Home, counted: CountedClosure | None) -> Var:
        """Make a step.

        Args:
            var: its context.
            home: the optimizer.
            counted: the user's closure.

        Raises:
            RuntimeError: a module needs a closure, and there is none.
        """
        if self.needy is not None and counted is None:
            raise RuntimeError(
                f"{self.needy.path} has to evaluate the loss: call optimizer.step(closure) with closure(backward=True)."
            )
        var.copies_grads = self.evaluates_again
        transaction = home.transaction
        if not transaction.active:
            if counted is not None:
                var.get_grad()
            if not transaction.active:  # the closure may have changed a setting that nobody has looked at yet
                transaction.seal()
        var = run_stages(self.stages, var)
        if not var.skip_update:
            if var.loss_approx is None and counted is not None and not counted.gave_none:
                var.get_loss()  # nobody has needed it, but step returns it
            if transaction.active:
                transaction.keep(var.params) if transaction.thorough else transaction.seal()
            if not var.settled:
                move(var, home)
        for module in self.finishers:
            module.post_step(var)
        if transaction.active:
            transaction.seal()
        for module in self.modules:
            if module.generators:
                module.save_generators()
        var.info.loss = var.loss if var.loss is not None or counted is None else var.loss_approx
        return var


def move(var: Var, home: Home) -> None:
    """p ← p − u, scaled by the group's lr where no LR module does it."""
    update = var.get_update()
    if not update:
        return
    if home.lr_scales_update:
        scales = [home.final_scale(p) for p in var.params]
        if any(s != 1.0 for s in scales):
            torch._foreach_mul_(update, scales)
    if home.rounding is None:
        torch._foreach_sub_(var.params, update)
    else:
        home.rounding.subtract(var.params, update)
