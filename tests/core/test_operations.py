"""Every operation that a rule may use, against torch, uncompiled and compiled."""

import math

import pytest
import torch

import torchzero_core as tz
from tests.problems import values
from torchzero_core.lang.ops import OPERATIONS

A = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.5, -3.25, 1e-30, -1e30, math.inf, -math.inf, math.nan, 7.0]
B = [1.0, -1.0, 0.5, 0.25, -0.0, 3.0, 2.5, math.inf, math.nan, 1e30, 2.0, -2.0, 1.0, 0.0]

#: what the rule writes and what torch does; a is the update, b a state, h a setting of 0.75
ELEMENTWISE = {
    "add": (lambda a, b, h: a + b, lambda a, b: a + b),
    "add number": (lambda a, b, h: 2 + a + h, lambda a, b: a + 2.75),
    "sub": (lambda a, b, h: a - b, lambda a, b: a - b),
    "sub from": (lambda a, b, h: h - a, lambda a, b: 0.75 - a),
    "mul": (lambda a, b, h: a * b, lambda a, b: a * b),
    "mul number": (lambda a, b, h: h * a * 2, lambda a, b: a * 1.5),
    "div": (lambda a, b, h: a / b, lambda a, b: a / b),
    "div number": (lambda a, b, h: h / a, lambda a, b: 0.75 / a),
    "div by number": (lambda a, b, h: a / h, lambda a, b: a / 0.75),
    "reciprocal": (lambda a, b, h: a.reciprocal(), lambda a, b: a.reciprocal()),
    "neg": (lambda a, b, h: -a, lambda a, b: -a),
    "neg()": (lambda a, b, h: a.neg(), lambda a, b: -a),
    "abs": (lambda a, b, h: a.abs(), lambda a, b: a.abs()),
    "abs()": (lambda a, b, h: abs(a), lambda a, b: a.abs()),
    "square": (lambda a, b, h: a.square(), lambda a, b: a * a),
    "power 2": (lambda a, b, h: a**2, lambda a, b: a * a),
    "power 1": (lambda a, b, h: a**1, lambda a, b: a),
    "root": (lambda a, b, h: a.abs() ** 0.5, lambda a, b: a.abs().sqrt()),
    "power 3": (lambda a, b, h: a**3, lambda a, b: a**3),
    "power of setting": (lambda a, b, h: a.abs() ** h, lambda a, b: a.abs() ** 0.75),
    "power of values": (lambda a, b, h: a.abs() ** b, lambda a, b: a.abs() ** b),
    "power of number": (lambda a, b, h: 2.0**a, lambda a, b: 2.0**a),
    "sqrt": (lambda a, b, h: a.sqrt(), lambda a, b: a.sqrt()),
    "exp": (lambda a, b, h: a.exp(), lambda a, b: a.exp()),
    "log": (lambda a, b, h: a.log(), lambda a, b: a.log()),
    "sign": (lambda a, b, h: a.sign(), lambda a, b: a.sign()),
    "copysign": (lambda a, b, h: a.copysign(b), lambda a, b: a.copysign(b)),
    "copysign number": (lambda a, b, h: a.copysign(-1.0), lambda a, b: -a.abs()),
    "lerp": (lambda a, b, h: a.lerp(b, 0.25), lambda a, b: a + 0.25 * (b - a)),
    "lerp far": (lambda a, b, h: a.lerp(b, h), lambda a, b: b - 0.25 * (b - a)),
    "maximum": (lambda a, b, h: a.maximum(b), lambda a, b: a.maximum(b)),
    "maximum number": (lambda a, b, h: a.maximum(h), lambda a, b: a.maximum(torch.full_like(a, 0.75))),
    "minimum": (lambda a, b, h: a.minimum(b), lambda a, b: a.minimum(b)),
    "clamp": (lambda a, b, h: a.clamp(-h, 2.0), lambda a, b: a.clamp(-0.75, 2.0)),
    "clamp below": (lambda a, b, h: a.clamp(low=h), lambda a, b: a.clamp(min=0.75)),
    "lt": (lambda a, b, h: a < b, lambda a, b: a < b),
    "le": (lambda a, b, h: a <= b, lambda a, b: a <= b),
    "gt": (lambda a, b, h: a > b, lambda a, b: a > b),
    "ge": (lambda a, b, h: a >= b, lambda a, b: a >= b),
    "eq": (lambda a, b, h: a.eq(b), lambda a, b: a == b),
    "ne": (lambda a, b, h: a.ne(b), lambda a, b: a != b),
    "compare number": (lambda a, b, h: a >= h, lambda a, b: a >= 0.75),
    "and": (lambda a, b, h: (a > 0) & (b > 0), lambda a, b: (a > 0) & (b > 0)),
    "or": (lambda a, b, h: (a > 0) | (b > 0), lambda a, b: (a > 0) | (b > 0)),
    "not": (lambda a, b, h: ~(a > 0), lambda a, b: ~(a > 0)),
    "isfinite": (lambda a, b, h: a.isfinite(), lambda a, b: a.isfinite()),
    "isnan": (lambda a, b, h: a.isnan(), lambda a, b: a.isnan()),
    "where": (lambda a, b, h: (a > b).where(a, b), lambda a, b: torch.where(a > b, a, b)),
    "where numbers": (lambda a, b, h: (a > b).where(h, -1.0), lambda a, b: torch.where(a > b, 0.75, -1.0)),
    "where inexact": (
        lambda a, b, h: (a > b).where(0.4, h - 0.05),
        lambda a, b: torch.where(a > b, 0.4, torch.full_like(b, 0.7)),
    ),
    "where truth": (
        lambda a, b, h: (a != 0).where(b, 5.0),
        lambda a, b: torch.where(a != 0, b, torch.full_like(b, 5.0)),
    ),
    "float": (lambda a, b, h: (a > 0).float() + a.float() * 0, lambda a, b: (a > 0).to(a.dtype) + a * 0),
}

#: what a number per tensor, or for all, is: the values are finite and the result scales the update
REDUCED = {
    "sum": (lambda a, b, h: a.sum(), lambda a, b: a.sum()),
    "sum of a mask": (lambda a, b, h: (a > 0).sum(), lambda a, b: (a > 0).sum()),
    "dot": (lambda a, b, h: a.dot(b), lambda a, b: (a * b).sum()),
    "dot of a mask": (lambda a, b, h: a.dot(b > 0), lambda a, b: a[b > 0].sum()),
    "mean": (lambda a, b, h: a.mean(), lambda a, b: a.mean()),
    "amax": (lambda a, b, h: a.amax(), lambda a, b: a.amax()),
    "numel": (lambda a, b, h: a.numel(), lambda a, b: a.numel()),
    "norm": (lambda a, b, h: a.norm(), lambda a, b: torch.linalg.vector_norm(a)),
    "norm 1": (lambda a, b, h: a.norm(1), lambda a, b: torch.linalg.vector_norm(a, 1)),
    "norm 3": (lambda a, b, h: a.norm(3.0), lambda a, b: torch.linalg.vector_norm(a, 3)),
    "norm of a setting": (lambda a, b, h: a.norm(h), lambda a, b: torch.linalg.vector_norm(a, 0.75)),
    "norm inf": (lambda a, b, h: a.norm(math.inf), lambda a, b: torch.linalg.vector_norm(a, math.inf)),
    "of reductions": (lambda a, b, h: (a.norm() * 2 + h) / b.norm(), lambda a, b: (a.norm() * 2 + 0.75) / b.norm()),
    "after a reduction": (lambda a, b, h: (a - a.mean()).square().mean(), lambda a, b: a.var(correction=0)),
}
GLOBAL = {
    "global_sum": (lambda a, b, h: a.global_sum(), lambda a, b: a.sum()),
    "global_dot": (lambda a, b, h: a.global_dot(b), lambda a, b: a @ b),
    "global_norm": (lambda a, b, h: a.global_norm(), lambda a, b: torch.linalg.vector_norm(a)),
    "global_norm 1": (lambda a, b, h: a.global_norm(1), lambda a, b: torch.linalg.vector_norm(a, 1)),
    "global_norm 3": (lambda a, b, h: a.global_norm(3.0), lambda a, b: torch.linalg.vector_norm(a, 3)),
    "global_norm inf": (lambda a, b, h: a.global_norm(math.inf), lambda a, b: a.abs().max()),
    "global_numel": (lambda a, b, h: a.global_numel(), lambda a, b: a.numel()),
    "total": (lambda a, b, h: a.sum().square().total(), None),
    "global_max": (lambda a, b, h: a.amax().global_max(), lambda a, b: a.max()),
}

#: numbers computed from settings and step counts before the step; n is the step, 3 below
HOST = {
    "arithmetic": (lambda h, n: (2 + h - 1) * 4 / (3 - h) - 1 / h, lambda h, n: (2 + h - 1) * 4 / (3 - h) - 1 / h),
    "powers": (lambda h, n: h**n + 2**h, lambda h, n: h**n + 2**h),
    "modulo": (lambda h, n: (n + 5) % 3 + h * 0, lambda h, n: (n + 5) % 3),
    "sign": (lambda h, n: -h + abs(h - 1), lambda h, n: -h + abs(h - 1)),
    "sqrt": (lambda h, n: h.sqrt(), lambda h, n: math.sqrt(h)),
    "bounds": (lambda h, n: h.maximum(0.9) + h.minimum(n), lambda h, n: max(h, 0.9) + min(h, n)),
    "compare": (
        lambda h, n: 1.0 * (h < 1) + 2.0 * (h <= 0.75) + 4.0 * (h > 1) + 8.0 * (n >= 3) + 16.0 * (n == 3) + (n != 3),
        lambda h, n: 1 + 2 + 8 + 16,
    ),
    "branch": (lambda h, n: 1.0 if h > 0.5 and n == 3 else 2.0, lambda h, n: 1.0),
    "whole": (lambda h, n: float([10, 20, 30, 40][n]) + int(n) + float(h), lambda h, n: 40 + 3 + h),
}

both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


class Rule(tz.Transform):
    """A function of update, gradient and a setting."""

    def __init__(self, fn, h: float = 0.75):
        super().__init__(dict(h=h))
        self.fn = fn

    def rule(self, u, ctx):
        return self.fn(u, ctx)


def result(fn, grads, *, compile, steps=1):
    """What the rule makes of the gradients."""
    params = [torch.zeros_like(g).requires_grad_() for g in grads]
    optimizer = tz.Modular(params, Rule(fn), compile=compile)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    for _ in range(steps):
        with torch.no_grad():
            torch._foreach_zero_(params)
        optimizer.step()
    return [-p.detach() for p in params]


class Two(Rule):
    """A function of update, state and a setting; truth values count as ones and zeros."""

    slots = {"b": tz.Slot()}

    def rule(self, u, ctx):
        out = self.fn(u, ctx.state.b, ctx.settings.h)
        return out.float() if hasattr(out, "mask") else out


def apply(fn, a, b, *, compile):
    """What the rule makes of the lists of tensors ``a`` and ``b``."""
    params = [torch.zeros_like(x).requires_grad_() for x in a]
    optimizer = tz.Modular(params, Two(fn), compile=compile)
    for p, x, y in zip(params, a, b, strict=True):
        p.grad = x.clone()
        optimizer.state[p]["Two.b"] = y.clone()
    optimizer.step()
    return [-p.detach() for p in params]


@both
@dtypes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name, dtype, compile):
    fn, expected = ELEMENTWISE[name]
    # all pairs, more than one vector register full of them
    a = torch.tensor(A, dtype=dtype).repeat_interleave(len(B))
    b = torch.tensor(B, dtype=dtype).repeat(len(A))
    (got,) = apply(fn, [a], [b], compile=compile)
    wanted = expected(a, b).to(dtype)
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(got, wanted + 0.0, rtol=rtol, atol=0, equal_nan=True)


#: Every function of one value in the table, so that a new one is compared without a line here.
FUNCTIONS = sorted(n for n, op in OPERATIONS.items() if "{1}" not in op.torch and not op.logical and n != "where")


@both
@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_the_table(name, dtype, compile):
    """Of elements, of numbers per tensor and per slice, of numbers for all, and of numbers of the host."""
    a = torch.tensor(A, dtype=dtype)
    wanted = getattr(torch, name)(a).to(dtype)
    tolerance = dict(rtol=16 * torch.finfo(dtype).eps, atol=0, equal_nan=True)
    (got,) = apply(lambda a, b, h: getattr(a, name)(), [a], [a], compile=compile)
    torch.testing.assert_close(got, wanted + 0.0, **tolerance)
    each = [x.reshape(1) + 0.0 for x in a[a.isfinite()]]  # a sum has no negative zero
    wanted = [getattr(torch, name)(x).to(dtype) for x in each]
    got = apply(lambda a, b, h: getattr(a.sum(), name)().float() + 0 * b, each, each, compile=compile)
    torch.testing.assert_close(got, [x + 0.0 for x in wanted], **tolerance)
    got = apply(lambda a, b, h: getattr(a.sum(0), name)().float() + 0 * b, each, each, compile=compile)
    torch.testing.assert_close(got, [x + 0.0 for x in wanted], **tolerance)
    for x, y in zip(each, wanted, strict=True):
        (got,) = apply(lambda a, b, h: getattr(a.global_sum(), name)().float() + 0 * b, [x], [x], compile=compile)
        torch.testing.assert_close(got, y + 0.0, **tolerance)
        number = float(OPERATIONS[name].on_numbers(float(x)))
        torch.testing.assert_close(torch.tensor([number], dtype=dtype), y, **tolerance)


PAIRS = {
    "remainder": (lambda a, b, h: a % b, torch.remainder),
    "remainder number": (lambda a, b, h: a % h, lambda a, b: torch.remainder(a, 0.75)),
    "atan2": (lambda a, b, h: a.atan2(b), torch.atan2),
}


@both
@dtypes
@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_values(name, dtype, compile):
    fn, expected = PAIRS[name]
    finite = [x for x in A if math.isfinite(x) and abs(x) < 1e6]
    a = torch.tensor(finite, dtype=dtype).repeat_interleave(5)
    b = torch.tensor([2.0, -2.0, 0.3, -7.5, 1.0], dtype=dtype).repeat(len(finite))
    (got,) = apply(fn, [a], [b], compile=compile)
    torch.testing.assert_close(got, expected(a, b) + 0.0, rtol=16 * torch.finfo(dtype).eps, atol=1e-6)


@both
@dtypes
def test_a_remainder_is_exact_whatever_the_quotient(dtype, compile):
    """Where all quotients of a block are small it is worked out without a call, elsewhere with one."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, generator=generator, dtype=torch.float64).mul(100).to(dtype)
    b = torch.randn(20_000, generator=generator, dtype=torch.float64).to(dtype)
    a[:4] = b[:4] * torch.tensor([3, -3, 0, 1])
    a[5000:5004] = torch.tensor([1e30, -1e30, math.inf, math.nan])
    b[10_000:10_003] = torch.tensor([math.inf, 0.0, math.nan])
    b[15_000:15_002] = torch.tensor([-math.inf, 1e-20])
    (got,) = apply(lambda a, b, h: a % b, [a], [b], compile=compile)
    torch.testing.assert_close(got, torch.remainder(a, b) + 0.0, rtol=0, atol=0, equal_nan=True)


@both
@dtypes
@pytest.mark.parametrize("power", [1, 2, 3, 0.5, 1.5, 4])
def test_powers(power, dtype, compile):
    a = torch.linspace(0.0, 3.0, 50, dtype=dtype)
    tolerance = dict(rtol=16 * torch.finfo(dtype).eps, atol=0)
    for fn, sign in ((lambda a, b, h: a**power, 1), (lambda a, b, h: abs(a) ** power, -1)):
        (got,) = apply(fn, [sign * a], [a], compile=compile)
        torch.testing.assert_close(got, a**power, **tolerance)
    if power % 1 == 0:
        (got,) = apply(lambda a, b, h: a**power, [-a], [a], compile=compile)
        torch.testing.assert_close(got, (-a) ** power + 0.0, **tolerance)


@both
@dtypes
@pytest.mark.parametrize("name", REDUCED)
def test_a_number_per_tensor(name, dtype, compile):
    fn, expected = REDUCED[name]
    shapes = [(3, 4), (7,), (), (1,), (5000,)]
    a, b = ([values(s, k + i).to(dtype) for i, s in enumerate(shapes)] for k in (1, 20))
    got = apply(lambda x, y, h: (x * 0 + 1) * fn(x, y, h), a, b, compile=compile)
    for g, x, y in zip(got, a, b, strict=True):
        wanted = float(expected(x.double().flatten(), y.double().flatten()))
        scale = float(x.abs().sum() + y.abs().sum()) if name in {"sum", "dot", "mean"} else abs(wanted)
        assert g.flatten().tolist() == pytest.approx([wanted] * g.numel(), abs=100 * torch.finfo(dtype).eps * scale)


@both
@dtypes
@pytest.mark.parametrize("name", GLOBAL)
def test_a_number_for_all(name, dtype, compile):
    fn, expected = GLOBAL[name]
    shapes = [(3, 4), (7,), (), (0,), (5000,)]
    a, b = ([values(s, k + i).to(dtype) for i, s in enumerate(shapes)] for k in (1, 20))
    if name == "global_max":
        a, b = a[:3], b[:3]
    got = apply(lambda x, y, h: (x * 0 + 1) * fn(x, y, h), a, b, compile=compile)
    flat_a, flat_b = (torch.cat([x.double().flatten() for x in xs]) for xs in (a, b))
    wanted = float(expected(flat_a, flat_b)) if expected else sum(float(x.double().sum()) ** 2 for x in a)
    for g in got:
        assert g.flatten().tolist() == pytest.approx(
            [wanted] * g.numel(), abs=100 * torch.finfo(dtype).eps * max(abs(wanted), float(flat_a.abs().sum()))
        )


@both
@pytest.mark.parametrize("name", HOST)
def test_a_number_of_settings_and_steps(name, compile):
    fn, expected = HOST[name]
    (got,) = result(
        lambda u, ctx: u * fn(ctx.settings.h, ctx.step), [torch.ones(3, dtype=torch.float64)], compile=compile, steps=3
    )
    assert got.tolist() == pytest.approx([expected(0.75, 3)] * 3, rel=1e-15)


@both
def test_an_empty_tensor_has_a_mean_and_norms_of_zero(compile):
    """Nothing in it is NaN, so that it does not spoil what is taken over all tensors."""
    for fn in (lambda u: u.mean(), lambda u: u.norm(), lambda u: u.norm(1), lambda u: u.norm(math.inf)):
        got = result(lambda u, ctx, fn=fn: u + fn(u).total(), [torch.zeros(0), torch.tensor([3.0])], compile=compile)
        assert got[1].tolist() == [6.0]


def refused(fn, error, match):
    with pytest.raises(error, match=match):
        result(lambda u, ctx: fn(u), [torch.ones(3)], compile=False)


def test_what_makes_no_sense_says_so():
    refused(lambda u: u if u > 0 else -u, TypeError, "cannot branch on the value of a tensor")
    refused(lambda u: u * u.sum().sum(), TypeError, "already one number per tensor")
    refused(lambda u: u * u.total(), TypeError, "take .sum")
    refused(lambda u: u * u.norm(-1.0), ValueError, r"ord=-1.0 is not a norm")
    refused(lambda u: u + "text", TypeError, "unsupported operand")
