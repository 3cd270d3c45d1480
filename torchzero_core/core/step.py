"""The way of a step: the modules of a chain in turn, each run of rules as one stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ..engine import Segment
from .home import Home
from .var import Var


class Stage(Protocol):
    """What runs in turn."""

    path: str

    @property
    def needs_gradient(self) -> bool:
        """Whether the gradient has to be there before it runs."""

    def step(self, var: Var) -> Var:
        """Run."""


class RuleStage:
    """A run of rules, which moves the parameters too if it ends the chain."""

    needs_gradient = True

    def __init__(self, rules: Sequence[Any], home: Home | None, *, inner: bool) -> None:
        self.segment = Segment(rules, home, inner=inner)
        self.path, self.moves = self.segment.path, False

    def step(self, var: Var) -> Var:
        """Run on the step's update."""
        update, segment = var.peek_update(), self.segment
        if self.moves and not var.skip_update:  # else a module before has moved the parameters itself
            segment.run(var, update, writable=var.owned, moves=True)
            var.skip_update = True
        else:
            out = segment.run(var, update, writable=var.owned)
            owned = var.owned or out is not update
            var.update = out
            var.owned = owned
        return var


def stages(modules: Iterable[Any], home: Home | None, *, moves: bool) -> list[Any]:
    """The modules, with each run of rules gathered.

    Args:
        modules: of a chain.
        home: their optimizer.
        moves: let rules that end the chain move the parameters too.
    """
    out: list[Any] = []
    run: list[Any] = []
    watched = home is not None and home.watched

    def close() -> None:
        if run:
            out.append(RuleStage(run.copy(), home, inner=not moves))
            run.clear()

    for module in modules:
        if module.is_rule:
            run.append(module)
            if watched or not only_rules(module):
                close()
        else:
            close()
            out.append(module)
    close()
    last = out[-1] if out else None
    if moves and isinstance(last, RuleStage) and not watched and only_rules(last.segment.modules[-1]):
        last.moves = True
    return out


def run_stages(parts: Sequence[Stage], var: Var) -> Var:
    """Run modules in turn on one step's context."""
    watch = var.modular._watchers if var.modular is not None else {}
    for part in parts:
        if var.stop:
            break
        if part.needs_gradient and var.update is None:
            var.get_grad()
        var = part.step(var)
        if watch and not var.nested:
            for fn in tuple(watch.values()):
                fn(part.path, list(var.peek_update()))
    return var


def only_rules(module: Any) -> bool:
    """Whether a module and all inside it are rules: then nothing in it can end the step or move the parameters."""
    return module.is_rule and all(map(only_rules, module.children.values()))
