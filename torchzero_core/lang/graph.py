"""Symbolic values: a rule is run once on these, and what it computes is kept as a small graph.

A :class:`Value` stands for one number of each element, slice or tensor, or for one of all; a
:class:`~torchzero_core.lang.number.Number` is known on the host before the step runs; a plain number is a constant of
the rule. Nothing here touches data, and nothing changes once it is made.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any, NamedTuple, TypeAlias

from . import ops
from .number import Guard, Number, host_function
from .ops import NO_TENSOR, OPERATIONS, Operation, Symbol, is_number

WHERE = OPERATIONS["where"]


class Kind(IntEnum):
    """How many numbers a value is."""

    GLOBAL = 0  #: one for all tensors
    TENSOR = 1  #: one for each tensor
    SLICE = 2  #: one for each slice of each tensor
    ELEMENT = 3  #: one for each element


class Dims(NamedTuple):
    """Along which dimensions of a tensor its slices run.

    Attributes:
        dims: dimensions; negative ones count from the last. Those that a tensor does not have are left out.
        inverse: slices run along all dimensions but these.
    """

    dims: tuple[int, ...]
    inverse: bool = False

    def of(self, shape: Sequence[int]) -> list[int]:
        """The dimensions of a tensor of this shape that a slice runs along."""
        n = len(shape)
        chosen = {d % n for d in self.dims if -n <= d < n}
        return [d for d in range(n) if (d in chosen) != self.inverse]

    def size(self, shape: Sequence[int]) -> int:
        """How many elements a slice has; 0 where the tensor has none of the dimensions."""
        along = self.of(shape)
        return math.prod(shape[d] for d in along) if along else 0

    def reduced(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one number for each slice, with dimensions of size one."""
        along = set(self.of(shape))
        return tuple(1 if d in along else n for d, n in enumerate(shape))


def as_dims(dims: Any) -> Dims | None:
    """Dimensions as they may be written: None (the whole tensor), a number, a sequence, or :class:`Dims`."""
    if dims is None or isinstance(dims, Dims):
        return dims
    return Dims((int(dims),) if isinstance(dims, (int, Number)) else tuple(int(d) for d in dims))


class Place(IntEnum):
    """Where values lie."""

    PARAM = auto()
    GRAD = auto()
    UPDATE = auto()
    OUT = auto()
    LOSS = auto()
    STATE = auto()
    GLOBAL = auto()
    WORK = auto()
    RESULT = auto()


class Storage(NamedTuple):
    """Memory that a step reads or writes.

    Attributes:
        place: what it is.
        rule: whose state, or the number of a workspace.
        name: of the state.
        at: the index of the number that says which place of a ring; −1 for no ring.
        node: which opaque operation returned it.
    """

    place: Place
    rule: int = -1
    name: str = ""
    at: int = -1
    node: Any = None


PARAM, GRAD, UPDATE = Storage(Place.PARAM), Storage(Place.GRAD), Storage(Place.UPDATE)
OUT, LOSS = Storage(Place.OUT), Storage(Place.LOSS)
#: The loss from an evaluation that computes the gradients too.
LOSS_WITH_GRADIENTS = Storage(Place.LOSS, name="with gradients")


class Value(Symbol):
    """One node of the graph; the operators and methods build further nodes.

    Attributes:
        op: what computes it.
        args: values, host numbers and constants it is computed from.
        kind: how many numbers it is.
        mask: whether it is a truth value.
        attr: the storage of a load, what an opaque operation runs, the name of a total.
        dims: the slices, where it is one number for each.
    """

    __slots__ = ("args", "attr", "dims", "kind", "mask", "op", "trace")
    op: Operation
    args: tuple[Any, ...]
    kind: Kind
    mask: bool
    attr: Any
    dims: Dims | None
    trace: Trace

    def __init__(
        self,
        trace: Trace,
        op: Operation,
        args: tuple[Any, ...],
        kind: Kind,
        *,
        mask: bool = False,
        attr: Any = None,
        dims: Dims | None = None,
    ) -> None:
        fields = dict(trace=trace, op=op, args=args, kind=kind, mask=mask, attr=attr, dims=dims)
        for name, field in fields.items():
            object.__setattr__(self, name, field)
        trace.nodes.append(self)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("A value of a rule does not change; compute a new one.")

    @property
    def inputs(self) -> list[Value]:
        """The values among its operands."""
        return [a for a in self.args if isinstance(a, Value)]

    # -- pointwise ---------------------------------------------------------------------------------------------------
    def build(self, op: Operation, *args: Any) -> Any:
        """The result of a pointwise operation; NotImplemented for operands that are no values or numbers."""
        if not all(isinstance(a, Symbol) or is_number(a) for a in args):
            if any(hasattr(a, "__array__") and not isinstance(a, Symbol) for a in args):
                raise TypeError(NO_TENSOR)
            return NotImplemented
        takes_mask = [op.logical or (op is WHERE and i == 0) for i in range(len(args))]
        if any(mask and isinstance(a, Value) and not a.mask for a, mask in zip(args, takes_mask, strict=True)):
            raise TypeError(
                "where is a method of a mask: (u > 0).where(a, b)."
                if op is WHERE
                else f"{op.name} is for masks, as in {_LOGICAL[op.name]}."
            )
        args = tuple(_operand(a, mask=mask) for a, mask in zip(args, takes_mask, strict=True))
        if op.commutative and _size(args[1]) > _size(args[0]):
            args = args[::-1]
        values = [a for a in args if isinstance(a, Value)]
        kind = max(v.kind for v in values)
        dims = {v.dims for v in values if v.kind is Kind.SLICE}
        if kind is Kind.SLICE and len(dims) > 1:  # together they may still have fewer numbers than there are elements
            kind, wide = Kind.ELEMENT, next(v for v in values if v.kind is Kind.SLICE)
            args = tuple(self.trace.promote(a, kind) if a is wide else a for a in args)
        return Value(self.trace, op, args, kind, mask=op.mask, dims=dims.pop() if kind is Kind.SLICE else None)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, Number):  # the common powers cost a multiplication, the others a call of pow
            other = next((n for n in (1, 2, 3, 0.5) if other == n), other)
        if is_number(other):
            if other == 1:
                return self
            if other == 2:
                return (self.args[0] if self.op is OPERATIONS["abs"] else self).square()
            if other == 3:
                return self.square() * self
            if other == 0.5:
                return self.sqrt()
        return self.pow(other)

    def __eq__(self, other: object) -> Any:
        return self.eq(other)

    def __ne__(self, other: object) -> Any:
        return self.ne(other)

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError(
            "A rule cannot branch on the value of a tensor: it is traced before the step and must not wait for the "
            "device. Use mask.where(a, b)."
        )

    def _no_number(self, *_: Any) -> Any:
        raise TypeError(
            "a value of a rule stands for tensors that are not there yet, so it has no number, length or elements, and "
            "functions of math and numpy cannot take it. Write u.sqrt() for math.sqrt(u), u.sum() for a sum over "
            "each tensor; a function of lists of tensors goes through ctx.call(fn, u)."
        )

    __float__ = __int__ = __index__ = __complex__ = __len__ = __iter__ = __getitem__ = __setitem__ = _no_number
    __array__ = __contains__ = __matmul__ = __rmatmul__ = _no_number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        plain = name.rstrip("_")
        if name.endswith("_") and hasattr(type(self), plain):
            raise AttributeError(f"a value of a rule does not change: write u = u.{plain}(...) for u.{name}(...).")
        if name in ("shape", "size", "dim", "ndim", "dtype", "device"):
            raise AttributeError(
                f"a value of a rule stands for tensors of every shape and has no {name!r}; a number that depends on "
                "the shape is ctx.of_shape(fn)."
            )
        near = difflib.get_close_matches(name, [n for n in dir(type(self)) if n[0] != "_"], 1)
        raise AttributeError(
            f"a value of a rule has no {name!r}. "
            + (f"Did you mean {near[0]!r}? " if near else "")
            + "A function of lists of tensors goes through ctx.call(fn, u)."
        )

    def float(self) -> Value:
        """A mask as ones and zeros; anything else as it is."""
        return self.where(1.0, 0.0) if self.mask else self

    def as_mask(self) -> Value:
        """A mask as it is; of anything else, whether it is not zero."""
        return self if self.mask else self.ne(0.0)

    # -- reductions --------------------------------------------------------------------------------------------------
    def _reduce(self, op: Operation, args: tuple[Value, ...], dims: Any) -> Value:
        dims = as_dims(dims)
        if self.kind < Kind.SLICE or (dims is not None and self.kind is not Kind.ELEMENT):
            raise TypeError(
                f"{op} goes over the elements of each tensor; this value is already one number per "
                f"{self.kind.name.lower()}."
            )
        return Value(self.trace, op, args, Kind.TENSOR if dims is None else Kind.SLICE, dims=dims)

    def sum(self, dims: Any = None) -> Value:
        """Sum over each tensor, or over slices of it that run along ``dims``."""
        return self._reduce(ops.SUM, (self.float(),), dims)

    def dot(self, other: Value) -> Value:
        """Inner product with ``other`` over each tensor."""
        if other.kind is not self.kind:
            raise TypeError("The two of an inner product must both be one number per element, or per slice.")
        return self._reduce(ops.DOT, (self.float(), other.float()), None)

    def amax(self, dims: Any = None) -> Value:
        """Largest element of each tensor or slice (−inf of an empty one)."""
        return self._reduce(ops.AMAX, (self.float(),), dims)

    def amin(self, dims: Any = None) -> Value:
        """Smallest element of each tensor or slice (inf of an empty one)."""
        return -(-self.float()).amax(dims)

    def numel(self, dims: Any = None) -> Value:
        """Number of elements of each tensor or of its slices."""
        dims = as_dims(dims)
        return self.trace.of_shape(math.prod if dims is None else lambda shape: dims.size(shape) or 1)

    def mean(self, dims: Any = None) -> Value:
        """Mean of each tensor or slice."""
        return self.sum(dims) / self.numel(dims).maximum(1.0)

    def norm(self, ord: Any = 2.0, dims: Any = None) -> Value:
        """The ``ord``-norm of each tensor or slice, over its elements."""
        return _norm(self.float(), ord, lambda x: x.sum(dims), lambda x: x.amax(dims), whole=dims is None)

    # -- over all tensors --------------------------------------------------------------------------------------------
    def _total(self, op: Operation) -> Value:
        if self.kind is not Kind.TENSOR:
            raise TypeError("total() sums numbers per tensor; take .sum() of an element value first.")
        return Value(self.trace, op, (self,), Kind.GLOBAL, attr=self.trace.key())

    def total(self) -> Value:
        """Sum over all tensors of a number per tensor."""
        return self._total(ops.TOTAL)

    def global_max(self) -> Value:
        """Largest over all tensors of a number per tensor."""
        return self._total(ops.GLOBAL_MAX)

    def global_sum(self) -> Value:
        """Sum over everything."""
        return self.sum().total()

    def global_dot(self, other: Value) -> Value:
        """Inner product over everything."""
        return self.dot(other).total()

    def global_norm(self, ord: Any = 2.0) -> Value:
        """The ``ord``-norm over everything."""
        if isinstance(ord, Number) and not ord.whole:  # what one group adds up another one would take the root of
            raise TypeError(
                "The order of one norm of all parameters must not depend on settings of one group; use ctx.whole."
            )
        return _norm(self.float(), ord, lambda x: x.sum().total(), lambda x: x.amax().global_max(), total=True)

    def global_numel(self) -> Value:
        """Number of elements of all tensors."""
        return self.numel().total()

    def __repr__(self) -> str:
        return f"{self.kind.name.lower()} {self.op}"


_LOGICAL = {"logical_and": "(u > 0) & (v > 0)", "logical_or": "(u > 0) | (v > 0)", "logical_not": "~(u > 0)"}


def _operand(x: Any, *, mask: bool) -> Any:
    if isinstance(x, Value):
        return x.as_mask() if mask else x.float()
    return x if isinstance(x, Symbol) else float(x)


def _size(x: Any) -> int:
    return x.kind if isinstance(x, Value) else -1


def _norm(
    x: Value,
    ord: Any,
    add: Callable[[Value], Value],
    largest: Callable[[Value], Value],
    *,
    whole: bool = False,
    total: bool = False,
) -> Value:
    if ord == 2:
        square = x.dot(x) if whole else x.dot(x).total() if total else add(x.square())
        return square.sqrt()
    if ord == 1:
        return add(x.abs())
    if ord == math.inf:
        return largest(x.abs()).maximum(0.0)
    if ord <= 0:
        raise ValueError(f"ord={float(ord)} is not a norm; use a positive number or inf.")
    return add(x.abs() ** ord) ** (1 / ord)


Operand: TypeAlias = Value | Number | float


@dataclass(frozen=True, eq=False)
class Graph:
    """What a trace leaves: nodes in the order in which they were made, what memory holds after them, and conditions.

    Attributes:
        nodes: the values.
        stores: what each storage holds in the end.
        loads: what was read before it was written.
        numbers: the host numbers.
        guards: under which conditions the graph is what the rules compute.
        counted: the rules that count steps of each parameter.
        counted_whole: the rules that count their own steps.
    """

    nodes: tuple[Value, ...]
    stores: Mapping[Storage, Value]
    loads: Mapping[Storage, Value]
    numbers: tuple[Number, ...]
    guards: tuple[Guard, ...]
    counted: tuple[int, ...]
    counted_whole: tuple[int, ...]
    uniform: tuple[tuple[int, str], ...]


class Trace:
    """Builds the graph of one run of the rules.

    Args:
        settings: the values of the settings now, by index.
        counts: the step count of each rule now, by index.
        facts: what is known of all tensors together.
    """

    def __init__(self, settings: Sequence[Any], counts: Sequence[int], facts: Sequence[float] = ()) -> None:
        self.nodes: list[Value] = []
        self.stores: dict[Storage, Value] = {}
        self.loads: dict[Storage, Value] = {}
        self.numbers: list[Number] = []
        self.guards: dict[tuple[int, Any], Guard] = {}
        self.counted: set[int] = set()
        self.counted_whole: set[int] = set()
        self.uniform: set[tuple[int, str]] = set()
        self.settings, self.counts, self.facts = settings, counts, facts
        self.rule = 0
        self._known: dict[Any, Number] = {}
        self._keys: dict[int, int] = {}

    def graph(self) -> Graph:
        """What was built."""
        return Graph(
            tuple(self.nodes),
            dict(self.stores),
            dict(self.loads),
            tuple(self.numbers),
            tuple(self.guards.values()),
            tuple(sorted(self.counted)),
            tuple(sorted(self.counted_whole)),
            tuple(sorted(self.uniform)),
        )

    def key(self) -> tuple[int, int]:
        """A name for a total that is the same in every bucket: the rule that takes it and a running number."""
        self._keys[self.rule] = self._keys.get(self.rule, -1) + 1
        return self.rule, self._keys[self.rule]

    # -- numbers -----------------------------------------------------------------------------------------------------
    def number(self, op: Operation, args: tuple[Any, ...], value: Any) -> Number:
        """The number that is computed so; the same one each time."""
        key = (op.name, *(("n", a.index) if isinstance(a, Number) else (type(a), a) for a in args))
        return self._number(key, value, op=op, args=args)

    def given(self, source: str, label: str, value: Any, *, whole: bool = False) -> Number:
        """A number that the step has at ``source``."""
        return self._number((source, whole), value, source=source, label=label, whole=whole)

    def _number(self, key: Any, value: Any, **how: Any) -> Number:
        if key not in self._known:
            self._known[key] = Number(self, len(self.numbers), value, **how)
            self.numbers.append(self._known[key])
        return self._known[key]

    def guard(self, number: Number, cast: Callable[[Any], Any]) -> Any:
        """The value that a number has now, which the trace from now on depends on."""
        key = number.index, cast
        if key not in self.guards:
            self.guards[key] = Guard(number, cast, cast(number.value))
        return self.guards[key].value

    def of_shape(self, fn: Callable[[Sequence[int]], float]) -> Value:
        """A number of each tensor that depends on nothing but its shape."""
        return Value(self, ops.SHAPE, (), Kind.TENSOR, attr=lambda param: fn(param.shape))

    def of_dtype(self, fn: Callable[[Any], float]) -> Value:
        """A number of each tensor that depends on nothing but its dtype."""
        return Value(self, ops.SHAPE, (), Kind.TENSOR, attr=lambda param: fn(param.dtype))

    # -- memory ------------------------------------------------------------------------------------------------------
    def load(self, storage: Storage, kind: Kind, *, mask: bool = False, dims: Dims | None = None) -> Value:
        """The present content of a storage: what was stored in this step, else what the step found."""
        if storage in self.stores:
            return self.stores[storage]
        if storage not in self.loads:
            self.loads[storage] = Value(self, ops.LOAD, (), kind, attr=storage, mask=mask, dims=dims)
        return self.loads[storage]

    def store(
        self, storage: Storage, kind: Kind, value: Operand, *, mask: bool = False, dims: Dims | None = None
    ) -> None:
        """Let a storage hold ``value`` from now on."""
        if isinstance(value, Value):
            value = value.as_mask() if mask else value.float()
        value = self.promote(value, kind, dims)
        self.stores[storage] = value.as_mask() if mask else value

    def promote(self, value: Operand, kind: Kind, dims: Dims | None = None) -> Value:
        """``value`` as one of the given kind or of a larger one."""
        if isinstance(value, Value):
            if value.kind > kind or (value.kind is kind is Kind.SLICE and value.dims != dims):
                raise TypeError(
                    f"One number per {value.kind.name.lower()} cannot be kept as one per {kind.name.lower()}; "
                    "reduce it first."
                )
            if value.kind is kind:
                return value
            return Value(self, ops.FILL, (value,), kind, mask=value.mask, dims=dims)
        return Value(self, ops.FILL, (value if isinstance(value, Number) else float(value),), kind, dims=dims)


__all__ = [
    "GRAD", "LOSS", "LOSS_WITH_GRADIENTS", "OUT", "PARAM", "UPDATE", "Dims", "Graph", "Kind", "Number", "Operand",
    "Place", "Storage", "Trace", "Value", "as_dims", "host_function",
]  # fmt: skip
