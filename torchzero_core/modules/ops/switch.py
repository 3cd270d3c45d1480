"""Modules that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ...core import Context, Module, Modules, StateKind, Transform, Var
from ...core.evaluate import uniform_settings
from ...core.route import only_rules
from ...core.stopping import Progress, StoppingRule, as_rule, outcome
from ...lang import Number, Value


class _Turns(Transform):
    """Runs one of its modules at each step; :meth:`place` says at which step of the plan it is.

    Args:
        modules: the modules in their order.
        steps: how many steps each of them makes: a number, or one for each.
    """

    keeps_place = True

    def __init__(self, modules: Sequence[Modules], steps: int | Sequence[int]) -> None:
        if not modules:
            raise ValueError(f"{type(self).__name__} needs at least one module.")
        self.number = len(modules)
        super().__init__(dict(steps=list(steps) if isinstance(steps, Sequence) else steps))
        for i, module in enumerate(modules):
            self.set_child(str(i), module)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        steps = settings["steps"]
        known = steps if isinstance(steps, (list, tuple)) else [steps]
        if not all(isinstance(n, (int, float)) and n >= 1 and float(n).is_integer() for n in known):
            raise ValueError(f"{type(self).__name__}: steps={steps!r} must be whole numbers from 1 on.")
        if known is steps and len(known) not in self.lengths():
            raise ValueError(
                f"{type(self).__name__} has {self.number} modules and steps={steps!r}; give one number for each."
            )

    def lengths(self) -> tuple[int, ...]:
        """How many numbers of steps there may be."""
        return (self.number,)

    def place(self, done: Any, total: Any) -> Any:
        """At which step of the plan it is.

        Args:
            done: how many steps it has made before this one.
            total: how many the plan has.
        """
        raise NotImplementedError

    def current(self, step: Any, steps: Any) -> str:
        """The name of the child whose turn it is.

        Args:
            step: which step it is, 1 at first; a number of a rule, or a plain one.
            steps: the setting.
        """
        each = list(steps) if isinstance(steps, (list, tuple)) else [steps] * self.number
        ends = list(accumulate(each))
        place = self.place(step - 1, ends[-1] if ends else 0)
        return str(int(sum(place >= end for end in ends[: self.number - 1])))

    @property
    def is_rule(self) -> bool:  # type: ignore[override]
        """Whether all in it are rules; then it is one of them."""
        return all(map(only_rules, self.children.values()))

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether each of its modules needs the gradient first."""
        return all(child.needs_gradient for child in self.children.values())

    def rule(self, u: Value, ctx: Context) -> Value:
        return ctx.child(self.current(ctx.whole.step, ctx.whole.settings.steps), u)

    def step(self, var: Var) -> Var:
        """Run the module whose turn it is."""
        if self.is_rule:
            return super().step(var)
        shared = self.global_state
        done = shared.get("step", 0)
        steps = uniform_settings(self, var.modular.all_params if var.modular is not None else var.params)["steps"]
        var = self.children[self.current(done + 1, steps)].step(var)
        shared["step"] = done + 1
        return var


class Alternate(_Turns):
    """Runs its modules in turn, each for some steps, and begins again after the last one.

    A module whose turn it is not makes no step: its averages and step counts stay.

    Args:
        *turns: modules, or lists of modules.
        steps: how many steps each makes: a number, or one for each.
        modules: the same as ``*turns``, as a list for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Alternate(tz.m.Identity(), tz.m.Mul(10), steps=[2, 1]))
        >>> for _ in range(5):  # 1, 1, 10, 1, 1
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item()
        -14.0
    """

    state_comes_later = True

    def __init__(self, *turns: Modules, steps: int | Sequence[int] = 1, modules: Sequence[Modules] = ()) -> None:
        super().__init__([*turns, *modules], steps)

    def place(self, done: int | Number, total: int | Number) -> int | Number:
        return done % total


class Switch(_Turns):
    """Runs its modules one after another, each for some steps; the last one stays.

    Args:
        *turns: modules, or lists of modules.
        steps: after how many steps the next one comes: a number, or one for each; that of the last one may be left out.
        modules: the same as ``*turns``, as a list for configuration files.

    Example:
        >>> import torch, torchzero_core as tz
        >>> p = torch.zeros(1, requires_grad=True)
        >>> optimizer = tz.Modular([p], tz.m.Switch(tz.m.Identity(), tz.m.Mul(10), steps=2))
        >>> for _ in range(5):  # 1, 1, 10, 10, 10
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item()
        -32.0
    """

    state_comes_later = True

    def __init__(self, *turns: Modules, steps: int | Sequence[int], modules: Sequence[Modules] = ()) -> None:
        super().__init__([*turns, *modules], steps)

    def lengths(self) -> tuple[int, ...]:
        return (self.number, self.number - 1)

    def place(self, done: int | Number, total: int | Number) -> int | Number:
        return done


class SwitchWhen(Module):
    """Runs its modules one after another; a stopping rule for each says when the next one comes. The last one stays.

    A rule is asked after each step, with the loss and gradient at the start of the step, the update of the module whose
    turn it is, and the steps and evaluations since that turn began. Rules that look at the loss need a closure.

    Where a turn has come to, and what its rule remembers, is state: a run that is resumed goes on with the same turn.

    Args:
        *turns: modules, or lists of modules.
        rules: for each module but the last a stopping rule, or a list of rules, of which the first that is met counts;
            with two modules the rule itself.
        modules: the same as ``*turns``, as a list for configuration files.

    Raises:
        ValueError: another number of rules.

    Example:
        >>> import torch, torchzero_core as tz
        >>> from torchzero_core.core.stopping import LossChange, MaxSteps
        >>> p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = tz.Modular(
        ...     [p],
        ...     tz.m.SwitchWhen(
        ...         [tz.m.Adam(), tz.m.LR(0.05)],
        ...         [tz.m.LBFGS(), tz.m.StrongWolfe()],
        ...         rules=MaxSteps(100) | LossChange(1e-4, patience=10),
        ...     ),
        ... )
        >>> def closure(backward=True):
        ...     loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        ...     if backward:
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...     return loss
        >>> for _ in range(140):
        ...     loss = optimizer.step(closure)
        >>> optimizer.modules[0].turn, loss.item() < 1e-9
        (1, True)
    """

    keeps_place = True
    kept = dict.fromkeys(("turn", "steps", "evaluations"), StateKind.COUNT) | {"memory": StateKind.OTHER}

    state_comes_later = True

    def __init__(
        self,
        *turns: Modules,
        rules: StoppingRule | Sequence[StoppingRule | Sequence[StoppingRule]],
        modules: Sequence[Modules] = (),
    ) -> None:
        super().__init__()
        modules = [*turns, *modules]
        if not modules:
            raise ValueError(f"{type(self).__name__} needs at least one module.")
        given = [rules] if isinstance(rules, StoppingRule) else list(rules)
        if len(given) != len(modules) - 1:
            raise ValueError(
                f"{type(self).__name__} has {len(modules)} modules and {len(given)} rules; give one for each but "
                "the last. Several rules for one module are a list in the list, or joined by |."
            )
        self.rules = [as_rule(rule) for rule in given]
        for i, module in enumerate(modules):
            self.set_child(str(i), module)

    @property
    def turn(self) -> int:
        """Which module's turn it is, 0 at first."""
        return self.global_state.get("turn", 0)

    @property
    def requires_closure(self) -> bool:  # type: ignore[override]
        """Whether a rule looks at the loss."""
        return any("loss" in rule.needs for rule in self.rules)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether each of its modules needs the gradient first."""
        return all(child.needs_gradient for child in self.children.values())

    def step(self, var: Var) -> Var:
        """Run the module whose turn it is, and ask its rule."""
        turn = self.turn
        var = self.children[str(turn)].step(var)
        waits = var.stop and var.update is None  # as GradientAccumulation does
        if turn < len(self.rules) and not waits:
            self._ask(var, turn)
        return var

    def _ask(self, var: Var, turn: int) -> None:
        shared, rule = self.global_state, self.rules[turn]
        if "memory" in shared:
            rule.load_state_dict(shared["memory"])
        else:
            rule.reset()
        loss = var.loss if var.loss is not None else var.loss_approx
        if loss is None and "loss" in rule.needs:
            loss = var.get_loss()
        steps = shared.get("steps", 0) + 1
        evaluations = shared.get("evaluations", 0) + var.info.evaluations
        progress = Progress(
            steps=steps,
            evaluations=evaluations,
            loss=loss,
            grads=var.grad,
            params=var.params,
            move=None if var.skip_update else var.update,
            **outcome(var.info),
        )
        if var.modular is not None:
            progress.reductions = var.modular.distributed
        if rule.met(progress):
            shared["turn"] = turn + 1
            for name in ("steps", "evaluations", "memory"):
                shared.pop(name, None)
        else:
            shared["steps"], shared["evaluations"], shared["memory"] = steps, evaluations, rule.state_dict()

    def extra_repr(self) -> str:
        return f"rules={self.rules}"
