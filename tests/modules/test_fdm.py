"""Differences along coordinates, and forward gradients, against closed forms."""

import math

import pytest
import torch

import torchzero_core as tz
from torchzero_core.modules.grad_approximation.directions import draw_
from torchzero_core.modules.grad_approximation.formulas import FORMULAS

F64 = torch.float64


def made():
    x = torch.tensor([[0.3, -1.2, 0.7], [2.0, -0.4, 0.9]], dtype=F64)
    return [x.t().requires_grad_(), torch.tensor(0.5, dtype=F64, requires_grad=True)]  # one is not contiguous


def f(params):
    x, y = params
    return (x**3).sum() * 0.1 + (x[0] * x[1]).sum() + y * x.sum() + y**2


class Look(tz.Module):
    """Keeps the gradients that it sees, and makes no step."""

    def step(self, var):
        self.seen = [g.clone() for g in var.get_grad()]
        var.update = [torch.zeros_like(p) for p in var.params]
        return var


def looked(params, module, closure=None):
    look = Look()
    optimizer = tz.Modular(params, module, look)
    optimizer.step(closure or (lambda backward=True: f(params)))
    return look.seen, optimizer


@pytest.mark.parametrize("formula", FORMULAS)
def test_each_formula_against_the_derivative(formula):
    params = made()
    exact = torch.autograd.grad(f(params), params)
    seen, optimizer = looked(params, tz.m.FDM(h=1e-3, formula=formula))
    tolerance = {"forward2": 3e-3, "backward2": 3e-3, "forward3": 1e-6, "backward3": 1e-6, "central2": 1e-6}
    for a, b in zip(seen, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance.get(formula, 1e-10))
    points = [offset for offset, _ in FORMULAS[formula]]
    away = sum(offset != 0 for offset in points)
    assert optimizer.last_step.evaluations == 1 + 7 * away  # the loss of the step, and what is away from it


def test_each_group_has_its_own_length():
    params = made()
    groups = [dict(params=[params[0]], h=0.5), dict(params=[params[1]])]
    look = Look()
    tz.Modular(groups, tz.m.FDM(h=1e-3, formula="forward2"), look).step(lambda backward=True: f(params))
    for p, seen, h in zip(params, look.seen, (0.5, 1e-3), strict=True):
        expected = torch.zeros_like(p)
        with torch.no_grad():
            base = f(params)
            for i in range(p.numel()):
                at = tuple(torch.unravel_index(torch.tensor(i), p.shape))
                old = p[at].clone()
                p[at] = old + h
                expected[at] = (f(params) - base) / h
                p[at] = old
        torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("module", [tz.m.FDM, lambda: tz.m.ForwardGradient(jvp_method="central")], ids=["FDM", "jvp"])
def test_the_parameters_come_back_after_an_exception(module):
    params, calls = made(), []
    before = [p.detach().clone() for p in params]

    def closure(backward=True):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return f(params)

    optimizer = tz.Modular(params, module(), tz.m.LR(0.1))
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_a_difference_that_is_not_finite_counts_as_zero():
    p = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    (seen,), _ = looked([p], tz.m.FDM(h=0.1), lambda backward=True: (p**2).sum() if p[0] <= 1.05 else p[0] * math.inf)
    torch.testing.assert_close(seen, torch.tensor([0.0, 4.0], dtype=F64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["autograd", "forward", "central"])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "sphere"])
def test_forward_gradient(method, distribution):
    params = made()
    exact = torch.autograd.grad(f(params), params)

    def closure(backward=True):
        loss = f(params)
        if backward:
            for p in params:
                p.grad = None
            loss.backward()
        return loss

    module = tz.m.ForwardGradient(3, distribution, jvp_method=method, h=1e-5, seed=7)
    seen, _ = looked(params, module, closure)
    generator = torch.Generator().manual_seed(7)
    drawn = [[draw_(torch.empty_like(p), distribution, generator) for p in params] for _ in range(3)]
    expected = [torch.zeros_like(p) for p in params]
    for us in drawn:
        slope = sum((g * u).sum() for g, u in zip(exact, us, strict=True))
        for e, u in zip(expected, us, strict=True):
            e += slope * u / 3
    for a, b in zip(seen, expected, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-3 if method == "forward" else 1e-7, atol=1e-3)


def test_one_backward_pass_serves_all_directions():
    p = torch.ones(3, requires_grad=True)
    calls = []

    def closure(backward=True):
        calls.append(backward)
        loss = (p**2).sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    tz.Modular([p], tz.m.ForwardGradient(10, target="grad"), tz.m.LR(0.1)).step(closure)
    assert calls == [True]


@pytest.mark.parametrize(("dtype", "h"), [(torch.float64, 6e-6), (torch.float32, 5e-3)])
def test_lengths_relative_to_large_elements(dtype, h):
    size = 1e12 if dtype == torch.float64 else 1e6
    p = torch.tensor([size, -3 * size, 0.5], dtype=dtype, requires_grad=True)
    scale = torch.tensor([size, size, 1.0], dtype=dtype)

    def closure(backward=True):
        return ((p / scale - 2) ** 2 * scale).sum()

    exact = 2 * (p.detach() / scale - 2)
    (lost,), _ = looked([p], tz.m.FDM(h=h), closure)
    (seen,), _ = looked([p], tz.m.FDM(h=h, relative=True), closure)
    assert (lost - exact).abs().max() > 1  # the elements do not even change
    torch.testing.assert_close(seen[:2], exact[:2], rtol=1e-2, atol=0)
    small = torch.tensor([0.5, -1.0, 0.0], dtype=dtype, requires_grad=True)
    square = lambda backward=True: (small**3).sum()  # noqa: E731
    assert torch.equal(*(looked([small], tz.m.FDM(h=h, relative=r), square)[0][0] for r in (False, True)))
