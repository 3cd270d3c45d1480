"""How chains run: each run of neighbouring rules as one stage, each other module as one."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..engine import Segment
from .home import Home
from .packages import is_ours
from .var import Var
from .watch import Watcher


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
            segment.run(var, update, writable=var.writable, moves=True)
            var.skip_update = True
        else:
            out = segment.run(var, update, writable=var.writable)
            var.set_update(out, writable=var.writable or out is not update)
        return var


class Routes:
    """How the modules of an optimizer run. It is worked out once, and thrown away when modules change.

    A chain that is watched runs another way than one that is not; both are kept, with what they have traced.

    Args:
        home: the optimizer; None for modules that belong to none.
    """

    def __init__(self, home: Home | None) -> None:
        # Only a step holds the optimizer, so that it is freed with its last reference.
        self._home: Any = None if home is None else weakref.proxy(home)
        self._stages: dict[tuple[Any, bool], list[Any]] = {}
        self._segments: dict[Any, Segment] = {}

    def stages(self, chain: Any, *, moves: bool = False) -> list[Any]:
        """What a chain runs in turn.

        Args:
            chain: the chain.
            moves: let rules that end it move the parameters too.
        """
        home = self._home
        watched = home is not None and home.watchers.apart
        known = self._stages.get((chain, watched))
        if known is None:
            known = list(_gather(chain.children.values(), home, watched=watched, inner=not moves))
            last = known[-1] if known else None
            if moves and isinstance(last, RuleStage) and not watched and only_rules(last.segment.modules[-1]):
                last.moves = True
            self._stages[chain, watched] = known
        return known

    def segment(self, rule: Any) -> Segment:
        """What runs a rule alone."""
        known = self._segments.get(rule)
        if known is None:
            known = self._segments[rule] = Segment([rule], self._home, inner=True)
        return known


def _gather(modules: Iterable[Any], home: Home | None, *, watched: bool, inner: bool) -> Iterable[Any]:
    """The modules, with each run of rules gathered."""
    run: list[Any] = []
    for module in modules:
        if module.is_rule:
            run.append(module)
        if run and (watched or not only_rules(module)):
            yield RuleStage(run, home, inner=inner)
            run = []
        if not module.is_rule:
            yield module
    if run:
        yield RuleStage(run, home, inner=inner)


def run_stages(stages: Sequence[Stage], var: Var) -> Var:
    """Run modules in turn on one step's context."""
    watchers: Iterable[Watcher] = var.modular.watchers if var.modular is not None and len(var.modular.watchers) else ()
    for stage in stages:
        if var.stop:
            break
        if stage.needs_gradient and var.update is None:
            var.get_grad()
        for watcher in watchers:
            watcher.before(stage.path, var)
        var = _stepped(stage, var)
        for watcher in watchers:
            watcher.after(stage.path, var)
    return var


def _stepped(stage: Stage, var: Var) -> Var:
    """The context after a stage; what users' modules do wrong is said."""
    after = stage.step(var)
    if not isinstance(after, Var):
        raise TypeError(f"The step of {stage.path} returned {after!r}; it must return the var that it was given.")
    update = after.update
    if update is None or is_ours(type(stage)):
        return after
    if not isinstance(update, list) or len(update) != len(after.params):
        what = f"a list of {len(update)}" if isinstance(update, list) else repr(update)
        raise TypeError(
            f"The step of {stage.path} left {what} as var.update; it must be a list with one tensor for each of the "
            f"{len(after.params)} parameters in var.params."
        )
    for u, p in zip(update, after.params, strict=True):
        if not isinstance(u, Tensor) or u.shape != p.shape:
            what = f"a tensor of shape {tuple(u.shape)}" if isinstance(u, Tensor) else repr(u)
            raise ValueError(
                f"The step of {stage.path} left {what} in var.update for a parameter of shape {tuple(p.shape)}."
            )
    return after


def only_rules(module: Any) -> bool:
    """Whether a module and all inside it are rules: then nothing in it can end the step or move the parameters."""
    return module.is_rule and all(map(only_rules, module.children.values()))
