"""``tz.minimize`` within bounds, beside scipy's L-BFGS-B."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import torchzero_core as tz
from torchzero_core.optim.bounds import Bounds
from torchzero_core.optim.unknowns import Unknowns

F64 = torch.float64


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(n, condition):
    generator = torch.Generator().manual_seed(n)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))[0]
    hessian = basis @ (torch.logspace(0, math.log10(condition), n, dtype=F64)[:, None] * basis.T)
    linear = condition**0.5 * torch.randn(n, generator=generator, dtype=F64)
    return lambda x: 0.5 * x @ hessian @ x - linear @ x


def by_scipy(fun, x0, bounds):
    def with_gradient(x):
        x = torch.tensor(x, requires_grad=True)
        loss = fun(x)
        loss.backward()
        return loss.item(), x.grad.numpy()

    options = dict(ftol=0, gtol=1e-7, maxiter=10_000, maxfun=10**6)
    return optimize.minimize(with_gradient, np.array(x0), jac=True, method="L-BFGS-B", bounds=bounds, options=options)


CASES = {
    "upper": (rosenbrock, [-1.2, 1.0], [(-2, 0.5), (-2, 2)]),
    "upper second": (rosenbrock, [-1.2, 1.0], [(-2, 2), (-2, 0.5)]),
    "lower": (rosenbrock, [-1.2, 1.0], [(None, None), (1.5, None)]),
    "start outside": (rosenbrock, [-1.2, 1.0], [(1.2, 2), (None, None)]),
    "fixed": (rosenbrock, [-1.2, 1.0], [(0.5, 0.5), (None, None)]),
    "none": (rosenbrock, [-1.2, 1.0], [(None, None), (None, None)]),
    "a corner": (rosenbrock, [-1.2, 1.0], [(2, 3), (-5, 0)]),
    "box of 20": (rosenbrock, [-1.2, 1.0] * 10, [(-0.5, 0.7)] * 20),
    "some of 20": (rosenbrock, [-1.2, 1.0] * 10, [(1.05 if i % 3 == 0 else None, None) for i in range(20)]),
    "quadratic 10": (quadratic(10, 1e1), [0.5] * 10, [(0, 1)] * 10),
    "quadratic 50": (quadratic(50, 1e3), [0.5] * 50, [(0, 1)] * 50),
    "quadratic 200": (quadratic(200, 1e4), [0.5] * 200, [(0, 1)] * 200),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_minimum_and_active_set_as_scipy(name):
    fun, x0, bounds = CASES[name]
    low = np.array([-np.inf if a is None else a for a, _ in bounds])
    high = np.array([np.inf if b is None else b for _, b in bounds])
    seen = []

    def watched(x):
        seen.append(x.detach().clone())
        return fun(x)

    result, peer = tz.minimize(watched, torch.tensor(x0, dtype=F64), bounds=bounds), by_scipy(fun, x0, bounds)
    x = result.x.numpy()
    print(f"{name}: {result.nfev} evaluations, scipy {peer.nfev}")
    assert result.success and result.fun == pytest.approx(peer.fun, abs=1e-8)
    assert np.array_equal((x <= low) | (x >= high), (peer.x <= low) | (peer.x >= high))
    assert all(np.all((low <= p.numpy()) & (p.numpy() <= high)) for p in seen)
    assert len(seen) == result.nfev <= 2 * peer.nfev + 5
    open_way = result.x - (result.x - result.jac).clamp(torch.tensor(low), torch.tensor(high))
    assert result.grad_norm == open_way.abs().max().item() < 1e-4


def test_projected_gradient_descent():
    fun, x0, bounds = CASES["upper"]
    result = tz.minimize(fun, torch.tensor(x0, dtype=F64), "gd", bounds=bounds, maxiter=500)
    assert result.success and result.fun == pytest.approx(0.25, abs=1e-8) and result.x[0] == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_loss_never_rises(dtype):
    seen = []
    for name in ("upper", "box of 20", "quadratic 50"):
        fun, x0, bounds = CASES[name]
        if name.startswith("quadratic") and dtype is torch.float32:
            continue
        seen.clear()
        tz.minimize(fun, torch.tensor(x0, dtype=dtype), bounds=bounds, callback=lambda r: seen.append(r.fun))
        assert len(seen) > 5 and all(b <= a for a, b in itertools.pairwise(seen)), name


# -- how bounds are written --------------------------------------------------------------------------------------------
def read(x0, bounds):
    box = Bounds(Unknowns(x0), bounds)
    return [(low.tolist(), high.tolist()) for low, high in zip(box.lower, box.upper, strict=True)]


INF = math.inf


@pytest.mark.parametrize(
    ("x0", "bounds", "expected"),
    [
        (torch.zeros(2), (0, None), [([0, 0], [INF, INF])]),
        (torch.zeros(2), [(0, 1), (None, 2)], [([0, -INF], [1, 2])]),
        (torch.zeros(2), (torch.tensor([1.0, 2.0]), np.array([3, 4])), [([1, 2], [3, 4])]),
        (torch.zeros(2), optimize.Bounds([1, 2], 5), [([1, 2], [5, 5])]),
        (0.0, (0, 1), [(0, 1)]),
        (0.0, [(0, 1)], [(0, 1)]),
        ({"a": torch.zeros(2), "b": torch.zeros(())}, {"b": (0, 1)}, [([-INF, -INF], [INF, INF]), (0, 1)]),
        ({"a": torch.zeros(2), "b": [torch.zeros(())]}, (0, 1), [([0, 0], [1, 1]), (0, 1)]),
        ([torch.zeros(1), torch.zeros(1)], [(0, 1), (None, 2)], [([0], [1]), ([-INF], [2])]),
        ([torch.zeros(1), torch.zeros(1)], [None, (None, 2)], [([-INF], [INF]), ([-INF], [2])]),
    ],
)
def test_ways_to_write_bounds(x0, bounds, expected):
    assert read(x0, bounds) == expected


ENDS = {
    "whole numbers": (np.array([0, 1]), np.array([5, 6])),
    "float32": (np.array([0, 1], dtype=np.float32), np.array([5, 6], dtype=np.float32)),
    "tensors": (torch.tensor([0.0, 1.0]), torch.tensor([5.0, 6.0], dtype=F64)),
}


@pytest.mark.parametrize("name", ENDS)
def test_pairs_of_any_numbers_are_pairs(name):
    """``zip(lower, upper)``, and as many unknowns as a pair has ends."""
    low, high = ENDS[name]
    expected = [([0], [5]), ([1], [6])]
    assert read(torch.zeros(2), list(zip(low, high, strict=True))) == [([0, 1], [5, 6])]
    assert read([torch.zeros(1), torch.zeros(1)], list(zip(low, high, strict=True))) == expected
    assert read(torch.zeros(2), (low[0], high[0])) == [([0, 0], [5, 5])]
    stacked = torch.stack([torch.as_tensor(low).to(F64), torch.as_tensor(high).to(F64)], 1)
    assert read(torch.zeros(2), stacked) == read(torch.zeros(2), stacked.numpy()) == [([0, 1], [5, 6])]


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (3, "bounds=3 cannot be read. Write bounds="),
        ([(0, 1)] * 3, "3 pairs, and x has 2 elements"),
        ((0, 1, 2), "is no pair"),
        ((1, 0), "lower bound above the upper"),
        ((math.nan, 0), "NaN"),
        ((math.inf, None), "no finite number"),
        ((None, -math.inf), "no finite number"),
        (("a", 0), "'a', which is no bound"),
        ((torch.zeros(3), 1), "no bound of a tensor of shape"),
        ({"a": (0, 1)}, "cannot be read"),
    ],
)
def test_what_are_no_bounds(bounds, text):
    with pytest.raises(ValueError, match=text):
        tz.minimize(rosenbrock, torch.zeros(2), bounds=bounds)


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="bounds names 'rat', which x does not have; it has 'rate'"):
        tz.minimize(lambda x: x["rate"].square().sum(), {"rate": torch.zeros(2)}, bounds={"rat": (0, 1)})


@pytest.mark.parametrize("method", ["adam", "bfgs", [tz.m.LBFGS(), tz.m.StrongWolfe()]], ids=["adam", "bfgs", "chain"])
def test_methods_that_do_not_keep_to_bounds_name_those_that_do(method):
    with pytest.raises(ValueError, match="kept by the methods 'lbfgs' and 'gd' alone, not by"):
        tz.minimize(rosenbrock, torch.zeros(2), method, bounds=(0, 1))


def test_refusals_leave_a_model_where_it_was():
    model = nn.Linear(2, 1)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="does not depend on x differentiably"):
        tz.minimize(lambda net: 3.0, model, bounds=(5, 6))
    with pytest.raises(ValueError, match=r"lr=0\.1: the methods that keep to bounds"):
        tz.minimize(lambda net: 3.0, model, bounds=(5, 6), lr=0.1)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_model_within_bounds():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1).double(), torch.randn(20, 3, dtype=F64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=F64) + 0.3
    result = tz.minimize(lambda net: (net(x) - y).square().mean(), model, bounds={"weight": (0, None)})
    peer = by_scipy(lambda p: (x @ p[:3, None] + p[3] - y).square().mean(), [0.0] * 4, [(0, None)] * 3 + [(None, None)])
    assert result.success and result.fun == pytest.approx(peer.fun, abs=1e-8)
    assert model.weight[0, 1] == 0 and (model.weight >= 0).all()


# -- ends --------------------------------------------------------------------------------------------------------------
def test_ends_within_bounds():
    fun, x0, bounds = CASES["box of 20"]
    x0 = torch.tensor(x0, dtype=F64)
    few = tz.minimize(fun, x0, bounds=bounds, maxfev=17)
    assert (few.status, few.nfev, few.success) == (1, 17, False) and few.fun == fun(few.x).item()
    assert tz.minimize(fun, x0, bounds=bounds, maxiter=3).nit == 3
    assert tz.minimize(fun, x0, bounds=bounds, callback=lambda result: result.nit == 4).status == 99
    begin = time.monotonic()
    assert tz.minimize(lambda x: (time.sleep(0.01), fun(x))[1], x0, bounds=bounds, maxtime=0.1).status == 1
    assert time.monotonic() - begin < 2
    nan = tz.minimize(lambda x: (x - 2).log().sum(), x0, bounds=bounds)
    assert nan.status == 3 and not nan.success


def test_a_function_that_is_not_finite_everywhere():
    """The logarithmic barrier is infinite outside; steps that lead there are shortened."""
    result = tz.minimize(lambda x: x.sum() - x.log().sum(), torch.full((4,), 9.0, dtype=F64), bounds=(None, 20))
    torch.testing.assert_close(result.x, torch.ones(4, dtype=F64), atol=1e-5, rtol=0)
    assert result.success


def test_an_error_in_fun_leaves_the_start_of_the_step():
    model, calls = nn.Linear(2, 1), []

    def fun(net):
        calls.append([p.detach().clone() for p in net.parameters()])
        if len(calls) == 5:
            raise ArithmeticError("fifth")
        return (net(torch.ones(1, 2)) - 3).square().sum() + net.weight.pow(4).sum()

    with pytest.raises(ArithmeticError, match="fifth"):
        tz.minimize(fun, model, bounds=(-9, 9))
    assert any(all(map(torch.equal, model.parameters(), seen)) for seen in calls[:4])
