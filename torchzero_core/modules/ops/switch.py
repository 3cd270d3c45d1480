"""Modules that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ...core import Context, Modules, Transform, Var
from ...core.evaluate import uniform_settings
from ...core.route import only_rules
from ...lang import Number, Value


class _Turns(Transform):
    """Runs one of its modules at each step; :meth:`place` says at which step of the plan it is.

    Args:
        modules: the modules in their order.
        steps: how many steps each of them makes: a number, or one for each.
    """

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

    def __init__(self, *turns: Modules, steps: int | Sequence[int], modules: Sequence[Modules] = ()) -> None:
        super().__init__([*turns, *modules], steps)

    def lengths(self) -> tuple[int, ...]:
        return (self.number, self.number - 1)

    def place(self, done: int | Number, total: int | Number) -> int | Number:
        return done
