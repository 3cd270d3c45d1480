"""Rules: modules that are a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from .graph import Host, Operand, Trace, Value
from .module import Module

if TYPE_CHECKING:
    from .segment import Segment
    from .var import Var

Target: TypeAlias = Literal["update", "grad", "closure", "params_direct", "params_difference", "update_difference"]
TARGETS = ("update", "grad", "closure", "params_direct", "params_difference", "update_difference")


@dataclass(frozen=True)
class Slot:
    """A declared state.

    Attributes:
        init: what it holds before the first step: a number, or the name of a setting.
        scalar: one number per tensor (``ctx.state``) or in all (``ctx.global_state``) instead of one per element.
        mask: it holds truth values.
    """

    init: float | str = 0.0
    scalar: bool = False
    mask: bool = False


class SettingsView:
    """``ctx.settings``: numbers as symbols, everything else as it is."""

    __slots__ = ("_rule", "_segment", "_trace")

    def __init__(self, trace: Trace, segment: Segment, rule: int) -> None:
        self._trace, self._segment, self._rule = trace, segment, rule

    def __getattr__(self, name: str) -> Any:
        try:
            index = self._segment.setting_index(self._rule, name)
        except KeyError:
            module = self._segment.rules[self._rule]
            raise AttributeError(f"{type(module).__name__} has no setting {name!r}.") from None
        value = self._trace.settings[index]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Host(f"S[{index}]", self._trace)
        return self._trace.guard(f"S[{index}]")


class StateView:
    """``ctx.state`` and ``ctx.global_state``: reading gives the present value, assigning writes it."""

    __slots__ = ("_ctx", "_scope")
    _ctx: Context
    _scope: str

    def __init__(self, ctx: Context, scope: str) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_scope", scope)

    def _find(self, name: str) -> tuple[tuple[Any, ...], str, bool]:
        ctx = self._ctx
        slot = ctx.module.slots.get(name)
        if slot is None:
            raise AttributeError(f"{type(ctx.module).__name__} declares no state {name!r}; add it to `slots`.")
        if self._scope == "global":
            return ("global", ctx.rule, name), "global", slot.mask
        return ("state", ctx.rule, name), "tensor" if slot.scalar else "element", slot.mask

    def __getattr__(self, name: str) -> Value:
        storage, kind, mask = self._find(name)
        return self._ctx.trace.load(storage, kind, mask=mask)

    def __setattr__(self, name: str, value: Operand) -> None:
        storage, kind, _ = self._find(name)
        self._ctx.trace.store(storage, kind, value)


class Context:
    """What a rule may ask for beside the update.

    Attributes:
        params: the parameters.
        grads: the gradients of the step.
        settings: the module's settings; numbers are symbols that can be computed and compared with.
        state: the declared state, per element or per tensor.
        global_state: the declared state of which there is one for all tensors.
        step: how many steps each parameter has made, this one included: 1 at its first.
    """

    def __init__(self, trace: Trace, segment: Segment, rule: int) -> None:
        self.trace, self.segment, self.rule = trace, segment, rule
        self.module: Transform = segment.rules[rule]
        self.settings = SettingsView(trace, segment, rule)
        self.state = StateView(self, "state")
        self.global_state = StateView(self, "global")

    @property
    def params(self) -> Value:
        """The parameters."""
        return self.trace.load(("p",), "element")

    @property
    def grads(self) -> Value:
        """The gradients."""
        return self.trace.load(("g",), "element")

    @property
    def step(self) -> Any:
        """The parameter's own step count, 1 at its first step."""
        self.trace.counted.add(self.rule)
        return Host(f"N[{self.rule}]", self.trace)

    @property
    def first(self) -> bool:
        """Whether this is the parameter's first step."""
        return bool(self.step == 1)

    def child(self, name: str, u: Operand) -> Value:
        """The result of a child on ``u``; ``u`` itself where there is no such child."""
        value = self.trace.promote(u, "element")
        module = self.module.children.get(name)
        if module is None:
            return value
        value = self.segment.trace_module(self.trace, module, value)
        self.trace.rule = self.rule
        return value

    def apply(self, fn: Callable[..., list[Tensor]], *args: Operand) -> Value:
        """An opaque function of whole tensors: ``fn`` gets lists (and numbers) and returns a list of new tensors."""
        values = tuple(self.trace.promote(a, "element") if isinstance(a, Value) else a for a in args)
        return Value(self.trace, "apply", values, "element", attr=("apply", *self.trace.key(), fn))


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
        ...     slots = {"velocity": Slot()}
        ...
        ...     def __init__(self, momentum: float = 0.9):
        ...         super().__init__(dict(momentum=momentum))
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

    #: The state the rule may read and write. A slot that it never touches takes no memory.
    slots: ClassVar[Mapping[str, Slot]] = {}
    #: What the module is to a fused kernel, and the settings which that needs; see :mod:`torchzero_core.core.fused`.
    kernel: ClassVar[str | None] = None
    kernel_needs: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, defaults: Mapping[str, Any] | None = None, target: Target = "update") -> None:
        if target not in TARGETS:
            raise ValueError(f"target={target!r} is not one of {', '.join(map(repr, TARGETS))}.")
        self.target: Target = target
        super().__init__(defaults)

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether the gradient has to be there before the rule runs."""
        return self.target != "closure"

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

    def apply_rule(self, var: Var, tensors: list[Tensor], *, owned: bool) -> list[Tensor]:
        """Run the rule alone on given tensors.

        Args:
            var: the step's context.
            tensors: one per parameter.
            owned: whether the result may overwrite them.
        """
        from .segment import Segment

        segment = self.__dict__.get("_segment")
        if segment is None or segment.modular is not var.modular:
            segment = self.__dict__["_segment"] = Segment([self], var.modular, inner=True)
        return segment.run(var, tensors, owned=owned)

    def step(self, var: Var) -> Var:
        """Apply the rule to its target."""
        target = self.target
        if target == "update":
            var.update = self.apply_rule(var, var.peek_update(), owned=var.owned)
        elif target == "grad":
            var.grad = self.apply_rule(var, var.get_grad(), owned=False)
        elif target == "params_direct":
            new = self.apply_rule(var, [p.detach() for p in var.params], owned=False)
            if var.closure is not None and var.modular is not None:
                var.modular.keep(var.params)  # a later evaluation may fail
            torch._foreach_copy_(var.params, new)
        elif target == "params_difference":
            new = self.apply_rule(var, [p.detach() for p in var.params], owned=False)
            var.update = list(torch._foreach_sub([p.detach() for p in var.params], new))
        elif target == "update_difference":
            old = var.peek_update()
            var.update = list(torch._foreach_sub(old, self.apply_rule(var, old, owned=False)))
        else:
            if var.grad is not None or var.closure is None:  # what the closure has computed already
                var.grad = self.apply_rule(var, var.get_grad(), owned=False)
            if var.closure is not None:
                self._wrap_closure(var)
        return var

    def _wrap_closure(self, var: Var) -> None:
        inner, outer = var.closure, var
        assert inner is not None

        def closure(backward: bool = True) -> Any:
            loss = inner(backward)
            if backward:
                seen = outer.clone()
                seen.params = [p for p in outer.params if p.grad is not None]
                seen.params = outer.modular.same_list(seen.params) if outer.modular is not None else seen.params
                grads = [p.grad for p in seen.params if p.grad is not None]
                seen.grad = grads
                for p, g in zip(seen.params, self.apply_rule(seen, grads, owned=False), strict=True):
                    p.grad = g
            return loss

        var.closure = closure

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self.target == "update" else f"{text[:-1]}{', ' if self.defaults else ''}target={self.target!r})"


def is_rule(module: Module) -> bool:
    """Whether a module can be part of a segment: a rule on the update."""
    return isinstance(module, Transform) and module.target == "update" and type(module).step is Transform.step
