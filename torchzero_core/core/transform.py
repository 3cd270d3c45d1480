"""Rules: modules that are a formula."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..distributed import copy_all
from ..engine import Segment
from ..lang import Context, Operand, Slot, Value, near
from .declare import Role, fields_of
from .module import Module
from .var import Var

Target: TypeAlias = Annotated[
    Literal["update", "grad", "closure", "params_direct", "params_difference", "update_difference"], Role.PASSED_LAST
]
TARGETS = get_args(get_args(Target)[0])


class Transform(Module):
    """A module that is a formula: :meth:`rule` computes the new update from the old one.

    The rule is written once, for values that stand for all tensors, and is run by whichever backend is at hand, with
    its neighbours in as few passes over memory as the reductions allow. It must not look at the values of tensors.

    Args:
        defaults: the settings.
        target: what the rule is applied to. ``"update"``: the update; ``"grad"``: the gradients (what later modules
            see as the gradient); ``"closure"``: the gradients that the closure computes, so that later modules that
            call it see the new ones; ``"params_direct"``: the parameters, at once, while loss and gradients stay
            those of the start of the step; ``"params_difference"``: the update becomes p − rule(p);
            ``"update_difference"``: the update becomes u − rule(u).

    Example:
        >>> import torch
        >>> from torchzero_core.core import Modular, Slot, Transform
        >>> class Momentum(Transform):
        ...     momentum: float = 0.9
        ...     velocity = Slot()
        ...
        ...     def rule(self, u, ctx):
        ...         ctx.state.velocity = ctx.settings.momentum * ctx.state.velocity + u
        ...         return ctx.state.velocity
        >>> p = torch.zeros(2, requires_grad=True)
        >>> optimizer = Modular([p], Momentum(0.5))
        >>> for _ in range(2):
        ...     p.grad = torch.tensor([1.0, -2.0])
        ...     optimizer.step()
        >>> p.detach()
        tensor([-2.5000,  5.0000])
    """

    #: The state the rule may read and write, which attributes such as ``velocity = Slot()`` are gathered in. A slot
    #: that it never touches takes no memory.
    slots: ClassVar[Mapping[str, Slot]] = {}
    #: What the module is to a fused kernel, and the settings which that needs; see ``engine/kernels.py``.
    kernel: ClassVar[str | None] = None
    kernel_needs: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, defaults: Mapping[str, Any] | None = None, target: Target = "update") -> None:
        if target not in TARGETS:
            raise ValueError(f"{type(self).__name__}: target={target!r} is not one of {', '.join(map(repr, TARGETS))}.")
        self.target: Target = target
        super().__init__(defaults)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the gradient has to be there before the rule runs."""
        return self.target != "closure"

    @property
    def is_rule(self) -> bool:  # type: ignore[override]
        """Whether the engine can trace it: a rule on the update."""
        return self.target == "update" and type(self).step is Transform.step

    def declared(self, name: str) -> Slot:
        """The declaration of a state, with the dtype that the optimizer was asked to keep it in."""
        slot, home = self.slots[name], self.home
        asked = None if home is None else home.precision.asked(self.path, name)
        return slot if asked is None or not slot.free else replace(slot, asked=asked)

    def rule(self, u: Value, ctx: Context) -> Operand:
        """The new update.

        Args:
            u: the old update, an element value.
            ctx: parameters, gradients, settings, state, children.
        """
        raise NotImplementedError(f"{type(self).__name__} has no rule(u, ctx).")

    def check(self, params: list[Tensor]) -> None:
        """Called with the parameters before the rule first runs on them; may refuse them or warn.

        Args:
            params: the parameters.
        """

    def check_child(self, name: str) -> None:
        """Refuse a name that no child of the module can have.

        Where the constructor is written by hand it may leave children out, so only what looks misspelt is refused.

        Args:
            name: of a child that is not there.

        Raises:
            AttributeError: naming the child that may have been meant.
        """
        fields = fields_of(type(self))
        known = [*self.children, *(n for n, field in fields.items() if field.role in (Role.CHILD, Role.PASSED))]
        made_here = fields or type(self).__init__ is Transform.__init__  # so all that it can have are known
        if name not in known and (made_here or difflib.get_close_matches(name, known, 1)):
            raise AttributeError(f"{type(self).__name__} has no child {name!r}{near(name, known)}")

    def apply_rule(self, var: Var, tensors: list[Tensor], *, writable: bool = False) -> list[Tensor]:
        """Run the rule alone on given tensors.

        Args:
            var: the step's context.
            tensors: one per parameter.
            writable: whether the result may overwrite them.
        """
        home = self.home
        segment = Segment([self], None, inner=True) if home is None else home.segment(self)
        return segment.run(var, tensors, writable=writable)

    def step(self, var: Var) -> Var:
        """Apply the rule to its target."""
        target = self.target
        if not var.params:  # none has a gradient
            return var
        if target == "update":
            var.update = self.apply_rule(var, var.peek_update(), writable=var.writable)
        elif target == "grad":
            var.grad = self.apply_rule(var, var.get_grad())
        elif target == "params_direct":
            new = self.apply_rule(var, [p.detach() for p in var.params])
            if var.modular is not None:
                var.modular.transaction.keep(var.params)  # what comes later may fail
            copy_all(var.params, new)
        elif target == "params_difference":
            new = self.apply_rule(var, [p.detach() for p in var.params])
            var.update = list(torch._foreach_sub([p.detach() for p in var.params], new))
        elif target == "update_difference":
            old = var.peek_update()
            var.update = list(torch._foreach_sub(old, self.apply_rule(var, old)))
        else:
            if var.grad is not None or var.closure is None:  # what the closure has computed already
                var.grad = self.apply_rule(var, var.get_grad())
            if var.closure is not None:
                self._wrap_closure(var)
        return var

    def _wrap_closure(self, var: Var) -> None:
        inner, outer = var.closure, var.clone()  # with the closure as it was, so that none refers to itself
        home = var.modular
        assert inner is not None and home is not None

        def closure(backward: bool = True) -> Any:
            home.return_grads()
            if not backward:  # with a graph where the caller wants one
                return inner(False)
            with torch.no_grad():
                loss = inner(True)
                seen = outer.select([i for i, p in enumerate(outer.params) if p.grad is not None])
                grads = [p.grad for p in seen.params if p.grad is not None]
                seen.grad = grads
                home.replace_grads(seen.params, self.apply_rule(seen, grads))
            return loss

        var.wrap_closure(closure)
        var.changes_grads = True

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self.target == "update" else f"{text[:-1]}{', ' if self.defaults else ''}target={self.target!r})"
