"""What a rule is written with and what the engine asks of one; see :mod:`torchzero_core.lang.graph`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from . import ops
from .graph import (
    GRAD,
    LOSS,
    LOSS_WITH_GRADIENTS,
    PARAM,
    WHERE,
    Dims,
    Kind,
    Number,
    Operand,
    Place,
    Storage,
    Trace,
    Value,
    as_dims,
)
from .number import as_it_is
from .ops import is_number

#: What :meth:`Context.noise` draws from.
Distribution: TypeAlias = Literal["gaussian", "normal", "rademacher", "uniform", "sphere"]


@dataclass(frozen=True)
class Slot:
    """A declared state. Without further words it has one number for each element, as the parameter has.

    Attributes:
        init: what it holds before the first step: a number, the name of a setting, or a function that fills a new
            tensor in place, such as ``torch.nn.init.eye_``.
        scalar: one number per tensor (``ctx.state``) or in all (``ctx.global_state``).
        mask: it holds truth values.
        dims: one number for each slice that runs along these dimensions (a number, a sequence, or
            :class:`~torchzero_core.lang.Dims`).
        shape: the shape as a function of the parameter. Such a state is for :meth:`Context.call` only.
        dtype: the dtype; None is that of the parameter, for single numbers and slices float32 at least.
        asked: the dtype that a user wants in its place, for what is like a parameter or a ring of such.
        history: the last so many values, a number or the name of a setting, which may be a list with one entry for
            each: a ring that is read and written at a place, ``ctx.state.name[k]``. It is one tensor with the places as
            its first dimension.
    """

    init: float | str | Callable[[Tensor], Any] = 0.0
    scalar: bool = False
    mask: bool = False
    dims: Any = None
    shape: Callable[[Tensor], Sequence[int]] | None = None
    dtype: torch.dtype | None = None
    history: int | str | None = None
    asked: torch.dtype | None = None

    @property
    def kind(self) -> Kind:
        """How many numbers a rule sees."""
        return Kind.TENSOR if self.scalar else Kind.ELEMENT if self.dims is None else Kind.SLICE

    @property
    def free(self) -> bool:
        """Whether a user may choose its dtype: numbers per tensor and slice have at least float32."""
        return self.shape is None and self.dtype is None and self.kind is Kind.ELEMENT and not self.mask

    @property
    def plain(self) -> bool:
        """Whether it is laid out as its parameter is, so that formulas can use it and a function of tensors too."""
        return self.shape is None and self.history is None and self.kind is Kind.ELEMENT

    def shape_for(self, param: Tensor, places: int = 0) -> tuple[int, ...]:
        """The shape for a parameter.

        Args:
            param: the parameter.
            places: of a ring.
        """
        if self.shape is not None:
            return tuple(self.shape(param))
        dims = as_dims(self.dims)
        shape = () if self.scalar else tuple(param.shape) if dims is None else dims.reduced(param.shape)
        return shape if self.history is None else (places, *shape)

    def dtype_for(self, param: Tensor) -> torch.dtype:
        """The dtype for a parameter."""
        if self.dtype is not None or self.mask:
            return self.dtype or torch.bool
        small = self.scalar or self.dims is not None
        if self.asked is not None:
            return self.asked
        return torch.float32 if small and param.dtype in (torch.bfloat16, torch.float16) else param.dtype


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

    def generator(self, device: torch.device) -> torch.Generator:
        """Its own random generator on a device."""

    def check(self, params: list[Tensor]) -> None:
        """Called with the parameters before the rule first runs on them."""

    def declared(self, name: str) -> Slot:
        """The declaration of a state, with the dtype that was asked for."""

    def check_child(self, name: str) -> None:
        """Refuse a name that no child of it can have."""

    def rule(self, u: Value, ctx: Context) -> Operand:
        """The new update."""


class Tracer(Protocol):
    """Whoever runs rules on symbols."""

    @property
    def rules(self) -> Sequence[Rule]:
        """The rules, by index."""

    def setting_index(self, rule: int, name: str) -> int:
        """Where a rule's setting stands."""

    def trace_module(self, trace: Trace, module: Rule, u: Value) -> Value:
        """Put one module into the graph."""


def near(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: what may have been meant, and what there is.

    Args:
        name: the name.
        known: the names that are known.
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    listed = f"; it has {', '.join(known)}." if known else "."
    return f". Did you mean {close[0]!r}?" if close else listed


class SettingsView:
    """``ctx.settings``: numbers as symbols, everything else as it is."""

    __slots__ = ("_ctx", "_whole")

    def __init__(self, ctx: Context, *, whole: bool = False) -> None:
        self._ctx, self._whole = ctx, whole

    def __getattr__(self, name: str) -> Any:
        ctx = self._ctx
        try:
            index = ctx.tracer.setting_index(ctx.rule, name)
        except KeyError:
            raise AttributeError(
                f"{type(ctx.module).__name__} has no setting {name!r}{near(name, ctx.module.defaults)}"
            ) from None
        value = ctx.trace.settings[index]
        if self._whole:
            ctx.trace.uniform.add((ctx.rule, name))
        number = ctx.trace.given(f"S[{index}]", f"{ctx.module.path}.{name}", value, whole=self._whole)
        if is_number(value) and not isinstance(value, bool):
            return number
        return ctx.trace.guard(number, as_it_is)


class Ring:
    """``ctx.state.name`` of a state with a history: ``ring[k]`` is the value at a place.

    The places are numbered from zero; which holds what is the rule's business, such as ``ring[(ctx.step - 1) % n]`` for
    the newest of ``n``. A place is a number of the host, so moving round the ring makes no new trace.
    """

    def __init__(self, ctx: Context, name: str, slot: Slot) -> None:
        self._ctx, self._name, self._slot = ctx, name, slot

    def _storage(self, place: Any) -> Storage:
        ctx = self._ctx
        if not isinstance(place, Number):
            place = ctx.trace.given(str(int(place)), str(int(place)), int(place), whole=True)
        return Storage(Place.STATE, ctx.rule, self._name, place.index)

    def __getitem__(self, place: Any) -> Value:
        storage = self._storage(place)
        for other in self._ctx.trace.stores:
            if other[:3] == storage[:3] and other != storage:
                raise TypeError(
                    f"{type(self._ctx.module).__name__} reads a place of the ring {self._name!r} after it has written "
                    "another one, which may be the same; read all places before you write one."
                )
        return self._ctx.trace.load(storage, Kind.ELEMENT, mask=self._slot.mask)

    def __setitem__(self, place: Any, value: Operand) -> None:
        self._ctx.trace.store(self._storage(place), Kind.ELEMENT, value, mask=self._slot.mask)


class StateView:
    """``ctx.state`` and ``ctx.global_state``: reading gives the present value, assigning writes it."""

    __slots__ = ("_ctx", "_place")
    _ctx: Context
    _place: Place

    def __init__(self, ctx: Context, place: Place) -> None:
        object.__setattr__(self, "_ctx", ctx)
        object.__setattr__(self, "_place", place)

    def _find(self, name: str) -> tuple[Storage, Kind, Slot]:
        ctx = self._ctx
        slot = ctx.slot(name)
        if slot.shape is not None:
            raise AttributeError(
                f"The state {name!r} of {type(ctx.module).__name__} has a shape of its own, which no formula can use; "
                f"name it in ctx.call(fn, ..., state=({name!r},))."
            )
        kind = Kind.GLOBAL if self._place is Place.GLOBAL else slot.kind
        return Storage(self._place, ctx.rule, name), kind, slot

    def __getattr__(self, name: str) -> Any:
        storage, kind, slot = self._find(name)
        if slot.history is not None:
            return Ring(self._ctx, name, slot)
        return self._ctx.trace.load(storage, kind, mask=slot.mask, dims=as_dims(slot.dims))

    def __setattr__(self, name: str, value: Operand) -> None:
        storage, kind, slot = self._find(name)
        if slot.history is not None:
            raise TypeError(
                f"The state {name!r} is a ring; assign to one of its places, as in state.{name}[k] = value."
            )
        if self._place is Place.GLOBAL:
            _refuse_parts(name, value)
        self._ctx.trace.store(storage, kind, value, mask=slot.mask, dims=as_dims(slot.dims))


def _refuse_parts(name: str, value: Any) -> None:
    """Refuse a module-wide value that would be another one for each parameter group."""
    pending, seen = [value], set()
    while pending:
        x = pending.pop()
        if isinstance(x, Number):
            for leaf in x.leaves():
                if not leaf.whole:
                    raise TypeError(
                        f"global_state.{name} is one for all parameters, but {leaf.label} may differ between them; "
                        f"read it from ctx.whole, as ctx.whole.settings.{leaf.label.rsplit('.', 1)[-1]}."
                    )
        elif isinstance(x, Value) and id(x) not in seen and x.op.role is not ops.Role.TOTAL:
            seen.add(id(x))
            pending += x.args


class Whole:
    """``ctx.whole``: what is the same for all parameters of a step, which :attr:`Context.global_state` may depend on.

    Attributes:
        settings: the settings; they must not differ between parameter groups.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.settings = SettingsView(ctx, whole=True)

    @property
    def step(self) -> Any:
        """How many steps the module has made, this one included: 1 at its first."""
        trace, rule = self._ctx.trace, self._ctx.rule
        trace.counted_whole.add(rule)
        return trace.given(f"W[{rule + 1}]", f"{self._ctx.module.path}.whole.step", trace.facts[rule + 1], whole=True)

    @property
    def first(self) -> bool:
        """Whether this is the module's first step."""
        return bool(self.step == 1)

    @property
    def numel(self) -> Any:
        """The number of elements of all parameters."""
        return self._ctx.trace.given("W[0]", "numel", self._ctx.trace.facts[0], whole=True)


class Call(NamedTuple):
    """What an opaque operation runs; the key is the same in every bucket."""

    key: tuple[int, int]
    fn: Any
    rule: int = -1
    state: tuple[str, ...] = ()


class StepFunction(NamedTuple):
    """What :meth:`Context.evaluate` runs, in the place of a module that is no rule."""

    path: str
    fn: Callable[[Any], Any]

    def step(self, var: Any) -> Any:
        """Let the update be what the function makes of it."""
        var.update = self.fn(var)
        return var


class Context:
    """What a rule may ask for beside the update.

    Attributes:
        module: the rule's module.
        params: the parameters.
        grads: the gradients of the step.
        loss: the loss at the start of the step.
        settings: the module's settings; numbers are symbols that can be computed and compared with.
        state: the declared state, per element, slice or tensor.
        global_state: the declared state of which there is one for all tensors.
        whole: what is the same for all tensors.
        step: how many steps each parameter has made, this one included: 1 at its first.
    """

    def __init__(self, trace: Trace, tracer: Tracer, rule: int) -> None:
        self.trace, self.tracer, self.rule = trace, tracer, rule
        self.module: Rule = tracer.rules[rule]
        self.settings = SettingsView(self)
        self.state = StateView(self, Place.STATE)
        self.global_state = StateView(self, Place.GLOBAL)
        self.whole = Whole(self)

    def __getattr__(self, name: str) -> Any:
        known = [n for n in (*vars(self), *dir(type(self))) if n[0] != "_"]
        raise AttributeError(f"ctx has no {name!r}{near(name, known)}")

    def slot(self, name: str) -> Slot:
        """The declaration of a state."""
        slot = self.module.slots.get(name)
        if slot is None:
            raise AttributeError(
                f"{type(self.module).__name__} declares no state {name!r}; add it as {name} = Slot()"
                + (near(name, self.module.slots) if self.module.slots else ".")
            )
        return slot

    @property
    def params(self) -> Value:
        """The parameters."""
        return self.trace.load(PARAM, Kind.ELEMENT)

    @property
    def grads(self) -> Value:
        """The gradients."""
        return self.trace.load(GRAD, Kind.ELEMENT)

    @property
    def loss(self) -> Value:
        """The loss at the start of the step; the step then needs a closure."""
        return self.trace.load(LOSS, Kind.GLOBAL)

    @property
    def loss_with_gradients(self) -> Value:
        """The same; where it is not known yet, its evaluation computes the gradients too."""
        return self.trace.load(LOSS_WITH_GRADIENTS, Kind.GLOBAL)

    @property
    def step(self) -> Any:
        """The parameter's own step count, 1 at its first step."""
        self.trace.counted.add(self.rule)
        return self.trace.given(f"N[{self.rule}]", f"{self.module.path}.step", self.trace.counts[self.rule])

    @property
    def first(self) -> bool:
        """Whether this is the parameter's first step."""
        return bool(self.step == 1)

    def of_shape(self, fn: Callable[[Sequence[int]], float]) -> Value:
        """A number of each tensor that depends on nothing but its shape.

        Args:
            fn: gets the shape.
        """
        return self.trace.of_shape(fn)

    def finfo(self, name: Literal["max", "eps", "tiny"]) -> Value:
        """A number of each tensor that belongs to its dtype, as ``torch.finfo`` knows it.

        Args:
            name: "max" is the largest finite number, "eps" the spacing at 1, "tiny" the least normal number.
        """
        return self.trace.of_dtype(lambda dtype: float(getattr(torch.finfo(dtype), name)))

    def full(self, x: Operand) -> Value:
        """A number as one of each element; a value of each element as it is.

        Args:
            x: what every element is to be.
        """
        return self.trace.promote(x, Kind.ELEMENT)

    def child(self, name: str, u: Operand) -> Value:
        """The result of a child on ``u``; ``u`` itself where there is no such child."""
        value = self.full(u)
        module = self.module.children.get(name)
        if module is None:
            self.module.check_child(name)
            return value
        value = self.tracer.trace_module(self.trace, module, value)
        self.trace.rule = self.rule
        return value

    def call(self, fn: Callable[..., Any], *args: Operand, state: Sequence[str] = ()) -> Value:
        """An opaque function of whole tensors.

        Args:
            fn: gets a list of tensors for each value among ``args``, numbers as they are, and as keywords a list of
                tensors for each state. It returns a list of new tensors, shaped like the update. It may write its
                states in place, or return ``(tensors, {"name": new tensors})``.
            *args: values and numbers.
            state: names of declared states, of whatever shape.
        """
        trace = self.trace
        values = [trace.promote(a, Kind.ELEMENT) if isinstance(a, Value) else a for a in args]
        found = []
        for name in state:
            mine = [v for s, v in trace.stores.items() if s[:3] == (Place.STATE, self.rule, name)]
            if any(v.op not in (ops.LOAD, ops.WRITTEN) for v in mine):  # which is in memory only after the step
                raise TypeError(
                    f"The state {name!r} has a new value that ctx.call would not see; give that to the function as an "
                    "argument, and let the function write the state."
                )
            if self.slot(name).plain:
                storage = Storage(Place.STATE, self.rule, name)
                found.append((storage, trace.load(storage, Kind.ELEMENT)))
        call = Call(trace.key(), fn, self.rule, tuple(state))
        out = Value(trace, ops.CALL, (*values, *(v for _, v in found)), Kind.ELEMENT, attr=call)
        for storage, old in found:  # what comes later sees what the function leaves
            trace.stores[storage] = Value(trace, ops.WRITTEN, (old, out), Kind.ELEMENT)
        return out

    def evaluate(self, fn: Callable[[Any], Sequence[Tensor]], u: Operand) -> Value:
        """What a function of the step gives, which may evaluate the closure.

        Args:
            fn: gets the step's :class:`~torchzero_core.core.Var` for all parameters that come to it, with ``u`` as the
                update, and returns a new tensor for each.
            u: the update that it gets.
        """
        trace = self.trace
        function = StepFunction(self.module.path, fn)
        value = trace.promote(u, Kind.ELEMENT)
        return Value(trace, ops.CHILD, (value.float(),), Kind.ELEMENT, attr=Call(trace.key(), function))

    def random(
        self,
        distribution: Literal["bernoulli", "normal", "uniform"],
        *numbers: float | Number,
        per: Literal["element", "tensor", "all"] = "element",
    ) -> Value:
        """Random values from the module's own generator, drawn in the order of the parameters.

        Args:
            distribution: "bernoulli" of a probability, "normal" of mean and deviation, "uniform" between two numbers.
            *numbers: those of the distribution.
            per: one for each element, for each tensor, or one for all.
        """
        kinds = {"element": Kind.ELEMENT, "tensor": Kind.TENSOR, "all": Kind.GLOBAL}
        for what, given, words in (
            ("distribution", distribution, ("bernoulli", "normal", "uniform")),
            ("per", per, tuple(kinds)),
        ):
            if given not in words:
                raise ValueError(f"ctx.random: {what}={given!r} must be one of {', '.join(map(repr, words))}.")
        kind = kinds[per]
        if kind is Kind.GLOBAL and any(isinstance(n, Number) and not n.whole for n in numbers):
            raise TypeError(
                "One random number for all parameters must not depend on settings of one group; use ctx.whole."
            )
        if "seed" in self.module.defaults:  # the generator has one
            self.trace.uniform.add((self.rule, "seed"))
        return Value(self.trace, ops.RANDOM, numbers, kind, attr=Call(self.trace.key(), f"{distribution}_", self.rule))

    def noise(self, distribution: Distribution) -> Value:
        """Random values of mean 0 and variance 1 for each element, from the module's own generator.

        Args:
            distribution: "gaussian" or "normal"; "rademacher": ±1; "uniform": on [−√3, √3]; "sphere": uniformly on the
                sphere of radius √n of the tensor's n elements.
        """
        if distribution == "rademacher":
            return 2 * self.random("bernoulli", 0.5) - 1
        if distribution == "uniform":
            return self.random("uniform", -(3**0.5), 3**0.5)
        normal = self.random("normal", 0.0, 1.0)
        return normal * (normal.numel().sqrt() / normal.norm()) if distribution == "sphere" else normal


__all__ = ["WHERE", "Call", "Context", "Dims", "Distribution", "Ring", "Rule", "Slot", "Tracer", "Whole", "near"]
