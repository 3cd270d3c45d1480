"""What a rule is written with and what the engine asks of one; see :mod:`torchzero_core.lang.graph`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from .graph import Host, Operand, Trace, Value


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


class Rule(Protocol):
    """What the engine asks of a module that is a formula."""

    path: str
    defaults: dict[str, Any]
    children: dict[str, Any]
    slots: ClassVar[Mapping[str, Slot]]
    kernel_needs: ClassVar[Mapping[str, Any]]
    settings: Any
    state: Any

    @property
    def prefix(self) -> str:
        """What the names of its state start with."""

    @property
    def is_rule(self) -> bool:
        """Whether the engine can trace it."""

    @property
    def global_state(self) -> MutableMapping[str, Any]:
        """What it remembers as a whole."""

    def locate(self, param: Tensor) -> tuple[dict[str, Any], str]:
        """Where the state of a parameter is kept: a dict and a prefix."""

    def check(self, params: list[Tensor]) -> None:
        """Called with the parameters before the rule first runs on them."""

    def rule(self, u: Value, ctx: Context) -> Operand:
        """The new update."""


class Tracer(Protocol):
    """Whoever runs rules on symbols."""

    @property
    def rules(self) -> Sequence[Rule]:
        """The rules, by index."""

    @property
    def buckets(self) -> Sequence[Any]:
        """The tensors by the path they take."""

    def setting_index(self, rule: int, name: str) -> int:
        """Where a rule's setting stands."""

    def trace_module(self, trace: Trace, module: Rule, u: Value) -> Value:
        """Put one module into the graph."""


class SettingsView:
    """``ctx.settings``: numbers as symbols, everything else as it is."""

    __slots__ = ("_rule", "_trace", "_tracer")

    def __init__(self, trace: Trace, tracer: Tracer, rule: int) -> None:
        self._trace, self._tracer, self._rule = trace, tracer, rule

    def __getattr__(self, name: str) -> Any:
        try:
            index = self._tracer.setting_index(self._rule, name)
        except KeyError:
            module = self._tracer.rules[self._rule]
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

    def __init__(self, trace: Trace, tracer: Tracer, rule: int) -> None:
        self.trace, self.tracer, self.rule = trace, tracer, rule
        self.module: Rule = tracer.rules[rule]
        self.settings = SettingsView(trace, tracer, rule)
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
        value = self.tracer.trace_module(self.trace, module, value)
        self.trace.rule = self.rule
        return value

    def apply(self, fn: Callable[..., list[Tensor]], *args: Operand) -> Value:
        """An opaque function of whole tensors: ``fn`` gets lists (and numbers) and returns a list of new tensors."""
        values = tuple(self.trace.promote(a, "element") if isinstance(a, Value) else a for a in args)
        return Value(self.trace, "apply", values, "element", attr=("apply", *self.trace.key(), fn))
