"""The operations of the language: one declaration each says what it is and how every backend spells it.

An operation is a method of :class:`Symbol` under :func:`operation`. Its name, its operands and its docstring are those
of the method; the decorator says the rest, and what it does not say is that of a function which is called the same in
Python, numpy, torch, C and CUDA. Nothing else has to be written for a new one.

Spellings are templates over the operands ``{0}``, ``{1}``, … In C, ``{f}`` ends the name of a function of floats; in
torch, ``dtype`` is that of the parameters, and :func:`both` (of the backend) lifts numbers to tensors.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from typing_extensions import Self


class Role(Enum):
    """What an operation is to a plan."""

    SOURCE = auto()  #: found in memory, or a number
    POINTWISE = auto()  #: each element by itself
    REDUCTION = auto()  #: one number of many elements; ends a pass
    TOTAL = auto()  #: one number of all tensors
    OPAQUE = auto()  #: whole tensors, by a function that the engine does not look into
    WRITTEN = auto()  #: memory after an opaque operation has written to it


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
        name: what it is called.
        role: what it is to a plan.
        mask: it gives truth values.
        logical: it takes truth values.
        cheap: it may be done twice rather than kept in memory.
        commutative: the order of its two operands does not matter.
        foreach: the name of ``torch._foreach_…``, which also works in place; None where there is none.
        torch: on a tensor, or on a vector of numbers on the device.
        numpy: on vectors of numbers on the host.
        python: on single numbers on the host; may raise where the result is not finite.
        c: in C.
        c_quick: in C, a quicker form for most values; empty: none.
        c_quick_if: for which values, in C.
        triton: in Triton.
        triton_single: in Triton for float32, where the plain form is not rounded correctly; None: as ``triton``.
    """

    name: str
    role: Role = Role.POINTWISE
    mask: bool = False
    logical: bool = False
    cheap: bool = False
    commutative: bool = False
    foreach: str | None = None
    torch: str = ""
    numpy: str = ""
    python: str = ""
    c: str = ""
    c_quick: str = ""
    c_quick_if: str = ""
    triton: str = ""
    triton_single: str | None = None

    def __repr__(self) -> str:
        return self.name

    @functools.cached_property
    def on_numbers(self) -> Callable[..., Any]:
        """The operation on numbers of the host; what Python refuses follows the rules of floating point."""
        quick = eval(f"lambda a=0, b=0, c=0: {self.python.format('a', 'b', 'c')}", dict(PYTHON))
        exact = eval(f"lambda a=0, b=0, c=0: {self.numpy.format('a', 'b', 'c')}", dict(PYTHON))

        def run(*args: Any) -> Any:
            try:
                return quick(*args)
            except (ArithmeticError, ValueError):
                with np.errstate(all="ignore"):
                    return float(exact(*map(np.float64, args)))

        return run


#: What the spellings for the host may call.
PYTHON: dict[str, Any] = {"math": math, "np": np, "inf": math.inf, "nan": math.nan}
#: Every pointwise operation by name.
OPERATIONS: dict[str, Operation] = {}

LOAD = Operation("load", Role.SOURCE, cheap=True)
FILL = Operation(
    "fill", Role.SOURCE, cheap=True, python="{0}", numpy="{0} + 0 * like", torch="{0} + 0 * like", c="{0}", triton="{0}"
)
SHAPE = Operation("shape", Role.SOURCE)
SUM = Operation("sum", Role.REDUCTION, c="{0}", triton="{0}")
DOT = Operation("dot", Role.REDUCTION, c="{0} * {1}", triton="{0} * {1}")
AMAX = Operation("amax", Role.REDUCTION, c="{0}", triton="{0}")
TOTAL = Operation("total", Role.TOTAL)
GLOBAL_MAX = Operation("global_max", Role.TOTAL)
CALL = Operation("call", Role.OPAQUE)
CHILD = Operation("child", Role.OPAQUE)
RANDOM = Operation("random", Role.OPAQUE)
ADAM = Operation("adam")
WRITTEN = Operation("written", Role.WRITTEN)

Method = TypeVar("Method", bound=Callable[..., Any])


def operation(**row: Any) -> Callable[[Method], Method]:
    """Declare a method of :class:`Symbol` to be an operation; see :class:`Operation` for what it may say."""

    def declare(method: Method) -> Method:
        name = method.__name__
        operands = ", ".join(f"{{{i}}}" for i in range(len(inspect.signature(method).parameters)))
        spelled = {
            "foreach": name,
            "torch": f"torch.{name}({operands})",
            "numpy": f"np.{name}({operands})",
            "python": f"math.{name}({operands})",
            "c": f"{name}{{f}}({operands})",
            "triton": f"libdevice.{name}({operands})",
        }
        if row.get("mask"):
            del spelled["foreach"]  # torch has no such functions of lists
        infix = row.pop("infix", None)
        if infix is not None:
            spelled = {k: name if k == "foreach" else f"{{0}} {infix} {{1}}" for k in spelled}
        OPERATIONS[name] = it = Operation(name, **{**spelled, **row})

        @functools.wraps(method)
        def build(self: Symbol, *operands: Any) -> Any:
            return self.build(it, self, *operands)

        return build  # type: ignore[return-value]

    return declare


def is_number(x: Any) -> bool:
    """Whether it is a plain number."""
    return isinstance(x, Real)


NO_TENSOR = (
    "a tensor or an array cannot stand in a formula. Use a number or a setting; what differs between elements is a "
    "state, name = Slot(); and a function of tensors goes through ctx.call(fn, u)."
)


def is_function(name: str) -> bool:
    """Whether the language has a function of one value under this name."""
    op = OPERATIONS.get(name)
    return op is not None and not op.logical and "{1}" not in op.torch


class Symbol:
    """What formulas are written with: a stand-in for numbers that are not known yet. Its methods are the operations."""

    __slots__ = ()
    __array_ufunc__ = None  # a numpy number on the left leaves the operation to us

    def build(self, op: Operation, *args: Any) -> Any:
        """The result of an operation; NotImplemented for operands that are neither symbols nor numbers."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse a function of torch, and say what stands for it in a rule."""
        name = getattr(func, "__name__", str(func)).strip("_")
        if not any(issubclass(t, Symbol) for t in types) or any(not issubclass(t, Symbol) for t in types):
            raise TypeError(NO_TENSOR)
        raise TypeError(f"torch.{name} takes tensors, and a rule has symbols: {cls.way_out(name)}")

    @classmethod
    def way_out(cls, name: str) -> str:
        """What to write for an operation of another library.

        Args:
            name: of the operation.
        """
        if name == "where":
            return "write mask.where(a, b), as in (u > 0).where(u, 0.0)."
        if name == "clamp":
            return "write u.clamp(low, high)."
        if hasattr(cls, name):
            return f"write u.{name}(...)."
        return f"there is no such operation; a function of lists of tensors goes through ctx.call({name}, u)."

    # -- arithmetic --------------------------------------------------------------------------------------------------
    @operation(infix="+", cheap=True, commutative=True)
    def add(self, other: Any) -> Self:
        """The sum."""

    @operation(infix="-", cheap=True)
    def sub(self, other: Any) -> Self:
        """The difference."""

    @operation(infix="*", cheap=True, commutative=True)
    def mul(self, other: Any) -> Self:
        """The product."""

    @operation(infix="/", cheap=True, triton_single="tl.div_rn({0}, {1})")
    def div(self, other: Any) -> Self:
        """The quotient."""

    @operation(torch="{0} ** {1}", numpy="{0} ** {1}", python="math.pow({0}, {1})")
    def pow(self, other: Any) -> Self:
        """The power; see ``**``, which knows cheaper forms of the common ones."""

    @operation(
        foreach=None,
        torch="both(torch.remainder, {0}, {1})",
        numpy="np.mod({0}, {1})",
        python="{0} % {1}",
        c="REMAINDER{f}({0}, {1})",
        c_quick="QUICK_REMAINDER{f}({0}, {1})",
        c_quick_if="HAS_FEW_MULTIPLES{f}({0}, {1})",
        triton="tl.where((libdevice.fmod({0}, {1}) != 0) & ((libdevice.fmod({0}, {1}) < 0) != ({1} < 0)), "
        "libdevice.fmod({0}, {1}) + {1}, libdevice.fmod({0}, {1}))",
    )
    def remainder(self, other: Any) -> Self:
        """What is left of a division rounded down; it has the sign of the divisor."""

    @operation(torch="-{0}", numpy="-{0}", python="-{0}", c="-{0}", triton="-{0}", cheap=True)
    def neg(self) -> Self:
        """The negative."""

    @operation(python="abs({0})", c="fabs{f}({0})", triton="tl.abs({0})", cheap=True)
    def abs(self) -> Self:
        """The absolute value."""

    @operation(
        numpy="1.0 / {0}", python="1 / {0}", c="1 / {0}", triton="1.0 / {0}", triton_single="tl.div_rn(1.0, {0})"
    )
    def reciprocal(self) -> Self:
        """1 / x."""

    @operation(
        foreach="lerp",  # which chooses the end itself
        torch="{0} + {2} * ({1} - {0})",
        numpy="{0} + {2} * ({1} - {0})",
        python="{0} + {2} * ({1} - {0})",
        c="LERP({0}, {1}, {2})",
        triton="{0} + {2} * ({1} - {0})",
        cheap=True,
    )
    def lerp_start(self, end: Any, weight: Any) -> Self:
        """``self + weight·(end − self)``; see :meth:`lerp`."""

    @operation(
        foreach="lerp",
        torch="{1} - (1 - {2}) * ({1} - {0})",
        numpy="{1} - (1 - {2}) * ({1} - {0})",
        python="{1} - (1 - {2}) * ({1} - {0})",
        c="LERP_END({0}, {1}, {2})",
        triton="{1} - (1 - {2}) * ({1} - {0})",
        cheap=True,
    )
    def lerp_end(self, end: Any, weight: Any) -> Self:
        """``end − (1 − weight)·(end − self)``; see :meth:`lerp`."""

    # -- order -------------------------------------------------------------------------------------------------------
    @operation(
        torch="both(torch.maximum, {0}, {1})",
        python="({0} if {0} > {1} or {0} != {0} else {1})",
        c="MAXIMUM{f}({0}, {1})",
        triton="tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
        cheap=True,
        commutative=True,
    )
    def maximum(self, other: Any) -> Self:
        """The larger of the two; NaN where either is."""

    @operation(
        torch="both(torch.minimum, {0}, {1})",
        python="({0} if {0} < {1} or {0} != {0} else {1})",
        c="MINIMUM{f}({0}, {1})",
        triton="tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})",
        cheap=True,
        commutative=True,
    )
    def minimum(self, other: Any) -> Self:
        """The smaller of the two; NaN where either is."""

    @operation(
        python="({0} > 0) - ({0} < 0)",
        c="SIGN({0})",
        triton="({0} > 0).to({0}.dtype) - ({0} < 0).to({0}.dtype)",
    )
    def sign(self) -> Self:
        """-1, 0 or 1."""

    @operation(foreach=None, torch="both(torch.copysign, {0}, {1})")
    def copysign(self, other: Any) -> Self:
        """Own magnitude, the other's sign."""

    @operation(infix="<", mask=True)
    def lt(self, other: Any) -> Self:
        """Whether it is smaller."""

    @operation(infix="<=", mask=True)
    def le(self, other: Any) -> Self:
        """Whether it is not larger."""

    @operation(infix=">", mask=True)
    def gt(self, other: Any) -> Self:
        """Whether it is larger."""

    @operation(infix=">=", mask=True)
    def ge(self, other: Any) -> Self:
        """Whether it is not smaller."""

    @operation(infix="==", mask=True)
    def eq(self, other: Any) -> Self:
        """Whether they are equal."""

    @operation(infix="!=", mask=True)
    def ne(self, other: Any) -> Self:
        """Whether they differ."""

    # -- truth values ------------------------------------------------------------------------------------------------
    @operation(infix="&", mask=True, logical=True, commutative=True)
    def logical_and(self, other: Any) -> Self:
        """Whether both are true."""

    @operation(infix="|", mask=True, logical=True, commutative=True)
    def logical_or(self, other: Any) -> Self:
        """Whether either is true."""

    @operation(torch="~{0}", numpy="~{0}", python="not {0}", c="!{0}", triton="{0} == 0", mask=True, logical=True)
    def logical_not(self) -> Self:
        """Whether it is false."""

    @operation(python="math.isfinite({0})", c="({0} - {0}) == 0", triton="({0} - {0}) == 0", mask=True)
    def isfinite(self) -> Self:
        """Neither NaN nor infinite."""

    @operation(
        foreach=None,
        torch="choose({0}, {1}, {2}, dtype)",
        python="({1} if {0} else {2})",
        c="{0} ? {1} : {2}",
        triton="tl.where({0}, {1}, {2})",
    )
    def where(self, a: Any, b: Any) -> Self:
        """On a mask: ``a`` where it is true, ``b`` elsewhere."""

    # -- functions ---------------------------------------------------------------------------------------------------
    @operation(triton="tl.sqrt({0})", triton_single="tl.sqrt_rn({0})", cheap=True)
    def sqrt(self) -> Self:
        """The square root."""

    @operation()
    def exp(self) -> Self:
        """The exponential."""

    @operation()
    def expm1(self) -> Self:
        """The exponential minus one."""

    @operation()
    def log(self) -> Self:
        """The natural logarithm."""

    @operation()
    def log1p(self) -> Self:
        """The natural logarithm of one more."""

    @operation()
    def log2(self) -> Self:
        """The logarithm of base 2."""

    @operation()
    def log10(self) -> Self:
        """The logarithm of base 10."""

    @operation()
    def sin(self) -> Self:
        """The sine."""

    @operation()
    def cos(self) -> Self:
        """The cosine."""

    @operation()
    def tan(self) -> Self:
        """The tangent."""

    @operation(numpy="np.arcsin({0})")
    def asin(self) -> Self:
        """The angle with this sine."""

    @operation(numpy="np.arccos({0})")
    def acos(self) -> Self:
        """The angle with this cosine."""

    @operation(numpy="np.arctan({0})")
    def atan(self) -> Self:
        """The angle with this tangent."""

    @operation(foreach=None, torch="both(torch.atan2, {0}, {1})", numpy="np.arctan2({0}, {1})")
    def atan2(self, other: Any) -> Self:
        """The angle of the point (other, self)."""

    @operation()
    def cosh(self) -> Self:
        """The hyperbolic cosine."""

    @operation()
    def tanh(self) -> Self:
        """The hyperbolic tangent."""

    @operation(numpy="np.floor({0})", python="math.floor({0})")
    def floor(self) -> Self:
        """The largest whole number that is not larger."""

    @operation(python="math.ceil({0})")
    def ceil(self) -> Self:
        """The smallest whole number that is not smaller."""

    @operation(python="round({0})", c="rint{f}({0})", triton="libdevice.rint({0})")
    def round(self) -> Self:
        """The nearest whole number, the even one of two."""

    @operation()
    def trunc(self) -> Self:
        """The whole part."""

    # -- what is made of these ---------------------------------------------------------------------------------------
    def square(self) -> Self:
        """The square."""
        return self.mul(self)

    def clamp(self, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Self:
        """Limited to [low, high]; a bound of None is no bound. They may be called min and max too, as in torch."""
        low, high = min if low is None else low, max if high is None else high
        out = self if low is None else self.maximum(low)
        return out if high is None else out.minimum(high)

    def isnan(self) -> Self:
        """NaN."""
        return self.ne(self)

    def lerp(self, end: Any, weight: Any) -> Self:
        """``self + weight·(end − self)``, computed from the nearer end, so that weights 0 and 1 are exact."""
        nearer_end = not (isinstance(weight, Symbol) and weight.known is None) and weight >= 0.5
        return self.lerp_end(end, weight) if nearer_end else self.lerp_start(end, weight)

    @property
    def known(self) -> Any:
        """The number that it is now, where the host knows it before the step; else None."""
        return None

    def __add__(self, other: Any) -> Any:
        return self.add(other)

    def __radd__(self, other: Any) -> Any:
        return self.build(OPERATIONS["add"], other, self)

    def __sub__(self, other: Any) -> Any:
        return self.sub(other)

    def __rsub__(self, other: Any) -> Any:
        return self.build(OPERATIONS["sub"], other, self)

    def __mul__(self, other: Any) -> Any:
        return self.mul(other)

    def __rmul__(self, other: Any) -> Any:
        return self.build(OPERATIONS["mul"], other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.div(other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.build(OPERATIONS["div"], other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.div(other).floor()

    def __rfloordiv__(self, other: Any) -> Any:
        return self.build(OPERATIONS["div"], other, self).floor()

    def __xor__(self, other: Any) -> Any:
        raise TypeError("^ is no power; write u**2. Of masks, one of the two is a != b.")

    __rxor__ = __xor__

    def __mod__(self, other: Any) -> Any:
        return self.remainder(other)

    def __rmod__(self, other: Any) -> Any:
        return self.build(OPERATIONS["remainder"], other, self)

    def __pow__(self, other: Any) -> Any:
        return self.pow(other)

    def __rpow__(self, other: Any) -> Any:
        return self.build(OPERATIONS["pow"], other, self)

    def __lt__(self, other: Any) -> Any:
        return self.lt(other)

    def __le__(self, other: Any) -> Any:
        return self.le(other)

    def __gt__(self, other: Any) -> Any:
        return self.gt(other)

    def __ge__(self, other: Any) -> Any:
        return self.ge(other)

    def __and__(self, other: Any) -> Any:
        return self.logical_and(other)

    def __or__(self, other: Any) -> Any:
        return self.logical_or(other)

    def __invert__(self) -> Any:
        return self.logical_not()

    def __neg__(self) -> Self:
        return self.neg()

    def __pos__(self) -> Self:
        return self

    def __round__(self) -> Self:
        return self.round()

    def __floor__(self) -> Self:
        return self.floor()

    def __ceil__(self) -> Self:
        return self.ceil()

    def __trunc__(self) -> Self:
        return self.trunc()

    def __abs__(self) -> Self:
        return self.abs()
