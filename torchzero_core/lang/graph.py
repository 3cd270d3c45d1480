"""Symbolic values: a rule is run once on these, and what it computes is kept as a small graph.

Three kinds of value exist, and two sorts of number:

* ``"element"``: one value per element of every tensor (an update, a momentum buffer);
* ``"tensor"``: one number per tensor (a layer's norm);
* ``"global"``: one number for all tensors (the norm of the whole gradient);
* a :class:`Host` number is known on the host before the step runs (a setting, a bias correction);
* a Python number is a constant of the rule.

Nothing here touches data. :mod:`torchzero_core.core.plan` cuts a graph into passes over memory and the
backends run the passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

RANK = {"global": 0, "tensor": 1, "element": 2}
#: Functions that the source of a host expression may call.
HOST_NAMES = {
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "min": min,
    "max": max,
    "abs": abs,
    "inf": math.inf,
    "nan": math.nan,
}


class Host:
    """A number that the host knows before the step: arithmetic builds an expression, a branch on it is a guard.

    ``bool(x)``, ``int(x)`` and ``float(x)`` give the value it has now and make the trace valid only while it
    stays the same; everything else keeps the trace valid for all values.
    """

    __slots__ = ("code", "trace")

    def __init__(self, code: str, trace: Trace) -> None:
        self.code = code
        self.trace = trace

    def _op(self, template: str, other: Any) -> Any:
        if not isinstance(other, (Host, int, float)):
            return NotImplemented
        return Host(template.format(self.code, source(other)), self.trace)

    def __add__(self, other: Any) -> Any:
        return self._op("({0} + {1})", other)

    def __radd__(self, other: Any) -> Any:
        return self._op("({1} + {0})", other)

    def __sub__(self, other: Any) -> Any:
        return self._op("({0} - {1})", other)

    def __rsub__(self, other: Any) -> Any:
        return self._op("({1} - {0})", other)

    def __mul__(self, other: Any) -> Any:
        return self._op("({0} * {1})", other)

    def __rmul__(self, other: Any) -> Any:
        return self._op("({1} * {0})", other)

    def __truediv__(self, other: Any) -> Any:
        return self._op("({0} / {1})", other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._op("({1} / {0})", other)

    def __pow__(self, other: Any) -> Any:
        return self._op("({0} ** {1})", other)

    def __rpow__(self, other: Any) -> Any:
        return self._op("({1} ** {0})", other)

    def __mod__(self, other: Any) -> Any:
        return self._op("({0} % {1})", other)

    def __lt__(self, other: Any) -> Any:
        return self._op("({0} < {1})", other)

    def __le__(self, other: Any) -> Any:
        return self._op("({0} <= {1})", other)

    def __gt__(self, other: Any) -> Any:
        return self._op("({0} > {1})", other)

    def __ge__(self, other: Any) -> Any:
        return self._op("({0} >= {1})", other)

    def __eq__(self, other: object) -> Any:
        return self._op("({0} == {1})", other)

    def __ne__(self, other: object) -> Any:
        return self._op("({0} != {1})", other)

    __hash__ = object.__hash__

    def __neg__(self) -> Host:
        return Host(f"(-{self.code})", self.trace)

    def __abs__(self) -> Host:
        return Host(f"abs({self.code})", self.trace)

    def sqrt(self) -> Host:
        """The square root."""
        return Host(f"sqrt({self.code})", self.trace)

    def maximum(self, other: Host | float) -> Host:
        """The larger of the two."""
        return Host(f"max({self.code}, {source(other)})", self.trace)

    def minimum(self, other: Host | float) -> Host:
        """The smaller of the two."""
        return Host(f"min({self.code}, {source(other)})", self.trace)

    def __bool__(self) -> bool:
        return bool(self.trace.guard(f"bool({self.code})"))

    def __float__(self) -> float:
        return float(self.trace.guard(f"float({self.code})"))

    def __int__(self) -> int:
        return int(self.trace.guard(f"int({self.code})"))

    __index__ = __int__

    def __repr__(self) -> str:
        return self.code


def source(x: Host | float) -> str:
    """The Python source of a host number."""
    return x.code if isinstance(x, Host) else repr(float(x)) if isinstance(x, bool) else repr(x)


class Value:
    """One node of the graph; the operators and methods build further nodes.

    Attributes:
        op: what computes it; ``"load"`` for an input.
        args: values, host numbers and constants it is computed from.
        kind: ``"element"``, ``"tensor"`` or ``"global"``.
        mask: whether it is a truth value.
        attr: the storage of a load, the function of an opaque call, and so on.
    """

    __slots__ = ("args", "attr", "kind", "mask", "op", "trace")

    def __init__(
        self, trace: Trace, op: str, args: tuple[Any, ...], kind: str, *, mask: bool = False, attr: Any = None
    ) -> None:
        self.trace, self.op, self.args, self.kind, self.mask, self.attr = trace, op, args, kind, mask, attr
        trace.nodes.append(self)

    # -- pointwise ---------------------------------------------------------------------------------------------------
    def _new(self, op: str, *args: Any, mask: bool = False) -> Value:
        kind = max((a.kind for a in args if isinstance(a, Value)), key=RANK.__getitem__)
        return Value(self.trace, op, args, kind, mask=mask)

    def _binary(self, op: str, a: Any, b: Any, *, mask: bool = False) -> Any:
        if not all(isinstance(x, (Value, Host, int, float)) for x in (a, b)):
            return NotImplemented
        return self._new(op, a, b, mask=mask)

    def __add__(self, other: Any) -> Any:
        return self._binary("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._binary("add", self, other)

    def __sub__(self, other: Any) -> Any:
        return self._binary("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._binary("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._binary("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._binary("mul", self, other)

    def __truediv__(self, other: Any) -> Any:
        return self._binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._binary("div", other, self)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, Host):  # the common powers cost a multiplication, the others a call of pow
            other = next((n for n in (1, 2, 0.5) if other == n), other)
        if isinstance(other, (int, float)):
            if other == 1:
                return self
            if other == 2:
                return (self.args[0] if self.op == "abs" else self).square()
            if other == 0.5:
                return self.sqrt()
        return self._binary("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._binary("pow", other, self)

    def __lt__(self, other: Any) -> Any:
        return self._binary("lt", self, other, mask=True)

    def __le__(self, other: Any) -> Any:
        return self._binary("le", self, other, mask=True)

    def __gt__(self, other: Any) -> Any:
        return self._binary("gt", self, other, mask=True)

    def __ge__(self, other: Any) -> Any:
        return self._binary("ge", self, other, mask=True)

    def eq(self, other: Any) -> Value:
        """Elementwise equality."""
        return self._binary("eq", self, other, mask=True)

    def ne(self, other: Any) -> Value:
        """Elementwise inequality."""
        return self._binary("ne", self, other, mask=True)

    def __and__(self, other: Any) -> Any:
        return self._binary("and", self, other, mask=True)

    def __or__(self, other: Any) -> Any:
        return self._binary("or", self, other, mask=True)

    def __invert__(self) -> Value:
        return self._new("not", self, mask=True)

    def __neg__(self) -> Value:
        return self._new("neg", self)

    def __abs__(self) -> Value:
        return self._new("abs", self)

    def __bool__(self) -> bool:
        raise TypeError(
            "A rule cannot branch on the value of a tensor: it is traced before the step and must not wait for the "
            "device. Use mask.where(a, b)."
        )

    def abs(self) -> Value:
        """The absolute value."""
        return self._new("abs", self)

    def neg(self) -> Value:
        """The negative."""
        return self._new("neg", self)

    def sqrt(self) -> Value:
        """The square root."""
        return self._new("sqrt", self)

    def square(self) -> Value:
        """The square."""
        return self._new("mul", self, self)

    def exp(self) -> Value:
        """The exponential."""
        return self._new("exp", self)

    def log(self) -> Value:
        """The natural logarithm."""
        return self._new("log", self)

    def sign(self) -> Value:
        """-1, 0 or 1."""
        return self._new("sign", self)

    def reciprocal(self) -> Value:
        """1 / x."""
        return self._new("div", 1.0, self)

    def lerp(self, end: Any, weight: Any) -> Value:
        """``self + weight·(end − self)``, computed from the nearer end, so that weights 0 and 1 are exact."""
        if not isinstance(weight, Value) and weight >= 0.5:
            return self._new("lerp_end", self, end, weight)
        return self._new("lerp", self, end, weight)

    def maximum(self, other: Any) -> Value:
        """The larger of the two; NaN where either is."""
        return self._new("maximum", self, other)

    def minimum(self, other: Any) -> Value:
        """The smaller of the two; NaN where either is."""
        return self._new("minimum", self, other)

    def clamp(self, low: Any = None, high: Any = None) -> Value:
        """Limited to [low, high]; a bound of None is no bound."""
        out = self if low is None else self.maximum(low)
        return out if high is None else out.minimum(high)

    def copysign(self, other: Any) -> Value:
        """Own magnitude, the other's sign."""
        return self._new("copysign", self, other)

    def isfinite(self) -> Value:
        """Neither NaN nor infinite."""
        return self._new("isfinite", self, mask=True)

    def isnan(self) -> Value:
        """NaN."""
        return self._new("ne", self, self, mask=True)

    def where(self, a: Any, b: Any) -> Value:
        """On a mask: ``a`` where it is true, ``b`` elsewhere."""
        return self._new("where", self if self.mask else self.ne(0.0), a, b)

    def float(self) -> Value:
        """A mask as ones and zeros; anything else as it is."""
        return self.where(1.0, 0.0) if self.mask else self

    # -- reductions --------------------------------------------------------------------------------------------------
    def _reduce(self, op: str, *args: Value) -> Value:
        if self.kind != "element":
            raise TypeError(f"{op} sums over the elements of each tensor; this value is already one number per tensor.")
        return Value(self.trace, op, args, "tensor")

    def sum(self) -> Value:
        """Sum over each tensor."""
        return self._reduce("sum", self.float())

    def dot(self, other: Value) -> Value:
        """Inner product with ``other`` over each tensor."""
        return self._reduce("dot", self.float(), other.float())

    def amax(self) -> Value:
        """Largest element of each tensor (−inf of an empty one)."""
        return self._reduce("amax", self)

    def numel(self) -> Value:
        """Number of elements of each tensor."""
        return Value(self.trace, "numel", (), "tensor")

    def mean(self) -> Value:
        """Mean of each tensor."""
        return self.sum() / self.numel().maximum(1.0)

    def norm(self, ord: Any = 2.0) -> Value:
        """The ``ord``-norm of each tensor, over its elements."""
        return _norm(self, ord, lambda x: x, lambda x: x)

    # -- over all tensors --------------------------------------------------------------------------------------------
    def total(self) -> Value:
        """Sum over all tensors of a number per tensor."""
        if self.kind != "tensor":
            raise TypeError("total() sums numbers per tensor; take .sum() of an element value first.")
        return Value(self.trace, "total", (self,), "global", attr=self.trace.key())

    def global_max(self) -> Value:
        """Largest over all tensors of a number per tensor."""
        return Value(self.trace, "global_max", (self,), "global", attr=self.trace.key())

    def global_sum(self) -> Value:
        """Sum over everything."""
        return self.sum().total()

    def global_dot(self, other: Value) -> Value:
        """Inner product over everything."""
        return self.dot(other).total()

    def global_norm(self, ord: Any = 2.0) -> Value:
        """The ``ord``-norm over everything."""
        return _norm(self, ord, Value.total, Value.global_max)

    def global_numel(self) -> Value:
        """Number of elements of all tensors."""
        return self.numel().total()

    def __repr__(self) -> str:
        return f"{self.kind} {self.op}"


def _norm(x: Value, ord: Any, total: Callable[[Value], Value], largest: Callable[[Value], Value]) -> Value:
    if ord == 2:
        return total(x.dot(x)).sqrt()
    if ord == 1:
        return total(x.abs().sum())
    if ord == math.inf:
        return largest(x.abs().amax()).maximum(0.0)
    if ord <= 0:
        raise ValueError(f"ord={float(ord)} is not a norm; use a positive number or inf.")
    return total((x.abs() ** ord).sum()) ** (1 / ord)


Number: TypeAlias = Host | float
Operand: TypeAlias = Value | Host | float


class Trace:
    """The graph of one run of the rules, with the conditions under which it is valid.

    Args:
        settings: the values of the settings now, by index.
        counts: the step count of each rule now, by index.
    """

    def __init__(self, settings: Sequence[Any], counts: Sequence[int]) -> None:
        self.nodes: list[Value] = []
        self.stores: dict[Any, Value] = {}
        self.loads: dict[Any, Value] = {}
        self.guards: dict[str, Any] = {}
        self.counted: set[int] = set()
        self.settings, self.counts = settings, counts
        self.rule = 0
        self._keys: dict[int, int] = {}

    def key(self) -> tuple[int, int]:
        """A name for a total that is the same in every bucket: the rule that takes it and a running number."""
        self._keys[self.rule] = self._keys.get(self.rule, -1) + 1
        return self.rule, self._keys[self.rule]

    def guard(self, code: str) -> Any:
        """The present value of a host expression, which the trace from now on depends on."""
        if code not in self.guards:
            self.guards[code] = host_function([code])(self.settings, self.counts)[0]
        return self.guards[code]

    def load(self, storage: Any, kind: str, *, mask: bool = False) -> Value:
        """The present content of a storage: what was stored in this step, else what the step found."""
        if storage in self.stores:
            return self.stores[storage]
        if storage not in self.loads:
            self.loads[storage] = Value(self, "load", (), kind, attr=storage, mask=mask)
        return self.loads[storage]

    def store(self, storage: Any, kind: str, value: Operand) -> None:
        """Let a storage hold ``value`` from now on."""
        self.stores[storage] = self.promote(value, kind)

    def promote(self, value: Operand, kind: str) -> Value:
        """``value`` as one of the given kind or of a larger one."""
        if isinstance(value, Value) and RANK[value.kind] > RANK[kind]:
            raise TypeError(f"A {value.kind} value cannot be kept as a {kind} value; reduce it first.")
        if isinstance(value, Value) and value.kind == kind:
            return value
        return Value(self, "fill", (value,), kind)


def host_function(codes: Sequence[str]) -> Callable[[Sequence[Any], Sequence[int]], tuple[Any, ...]]:
    """Compile host expressions over the settings ``S`` and step counts ``N`` into one function that returns a tuple."""
    body = "".join(f"{code}, " for code in codes)
    return eval(f"lambda S, N: ({body})", dict(HOST_NAMES))
