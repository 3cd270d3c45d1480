"""Operations with gradients, losses and past updates, against their formulas."""

import math
from contextlib import nullcontext

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, same
from torchzero_core.core import Module

m = tz.m
COMPILE = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


class Given(Module):
    """The update is what it was given for the step, whatever the gradient is."""

    def __init__(self, *updates):
        super().__init__()
        self.updates = list(updates)

    def step(self, var):
        var.get_grad()
        var.update = [u.clone() for u in self.updates.pop(0)]
        return var


def values(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SHAPES = [(3, 4), (5,), ()]
G = [values(*s, seed=i) for i, s in enumerate(SHAPES)]
U = [values(*s, seed=i + 10) for i, s in enumerate(SHAPES)]
P = [values(*s, seed=i + 20) for i, s in enumerate(SHAPES)]


def result(module, updates, grads=None, compile=False, loss=None):
    """The updates that a module makes of given ones, step by step."""
    params = [p.clone().requires_grad_() for p in P]
    optimizer = tz.Modular(params, Given(*updates), module, compile=compile)
    out = []
    for step in range(len(updates)):
        with torch.no_grad():
            for p, start in zip(params, P, strict=True):
                p.copy_(start)
                p.grad = None
        for p, g in zip(params, grads[step] if grads else G, strict=True):
            p.grad = g.clone()
        optimizer.step(None if loss is None else lambda backward=True: torch.tensor(loss, dtype=torch.float64))
        out.append([start - p.detach() for p, start in zip(params, P, strict=True)])
    return out


def close(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-13)


def norm(tensors, ord=2.0):
    return torch.linalg.vector_norm(torch.cat([t.reshape(-1) for t in tensors]), ord)


def each(tensors, others, ord):
    return [(norm([x], ord), norm([y], ord)) for x, y in zip(tensors, others, strict=True)]


def whole(tensors, others, ord):
    return [(norm(tensors, ord), norm(others, ord))] * len(tensors)


ONE_STEP = {
    "GradSign": (lambda: m.GradSign(), lambda: [u.abs() * g.sign() for u, g in zip(U, G, strict=True)]),
    "UpdateSign": (lambda: m.UpdateSign(), lambda: [g.abs() * u.sign() for u, g in zip(U, G, strict=True)]),
    "GraftToGrad": (
        lambda: m.GraftToGrad(),
        lambda: [u * (b / a) for u, (a, b) in zip(U, whole(U, G, 2), strict=True)],
    ),
    "GraftToGrad-tensorwise": (
        lambda: m.GraftToGrad(tensorwise=True, ord=1, eps=10),
        lambda: [u * (b / max(a, 10)) for u, (a, b) in zip(U, each(U, G, 1), strict=True)],
    ),
    "GraftGradToUpdate": (
        lambda: m.GraftGradToUpdate(ord=3),
        lambda: [g * (b / a) for g, (a, b) in zip(G, whole(G, U, 3), strict=True)],
    ),
    "GraftGradToUpdate-tensorwise": (
        lambda: m.GraftGradToUpdate(tensorwise=True, ord=math.inf),
        lambda: [g * (b / a) for g, (a, b) in zip(G, each(G, U, math.inf), strict=True)],
    ),
    "GraftToParams": (
        lambda: m.GraftToParams(eps=100),
        lambda: [u * (100 / a) for u, (a, _) in zip(U, whole(U, P, 2), strict=True)],
    ),
    "GraftToParams-tensorwise": (
        lambda: m.GraftToParams(tensorwise=True),
        lambda: [u * (b / a) for u, (a, b) in zip(U, each(U, P, 2), strict=True)],
    ),
    "Relative": (
        lambda: m.Relative(min_value=0.5),
        lambda: [u * p.abs().clamp(min=0.5) for u, p in zip(U, P, strict=True)],
    ),
    "NoiseSign": (lambda: m.NoiseSign("rademacher", alpha=2), lambda: [2 * u.sign() for u in U]),
}


@COMPILE
@pytest.mark.parametrize("name", ONE_STEP)
def test_one_step(name, compile):
    make, expected = ONE_STEP[name]
    with pytest.warns(UserWarning, match="no effect on Given") if compile else nullcontext():
        (out,) = result(make(), [U], compile=compile)
    close(out, expected())


def test_zeros_stay_when_they_are_grafted():
    zeros = [torch.zeros_like(u) for u in U]
    for module in (m.GraftToGrad(), m.GraftToParams(), m.GraftToParams(tensorwise=True)):
        (out,) = result(module, [zeros])
        assert same(out, zeros)
    (out,) = result(m.GraftGradToUpdate(), [U], [zeros])
    assert same(out, zeros)


def test_grams_is_adam_with_the_signs_of_the_gradient():
    """Cao et al. 2024, algorithm 1, without weight decay."""
    p = P[0].clone().requires_grad_()
    optimizer = tz.Modular([p], m.Adam(0.9, 0.999, 1e-8), m.GradSign(), m.LR(0.1))
    q, first, second = P[0].clone(), torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    for t in range(1, 8):
        g = values(3, 4, seed=t)
        p.grad = g.clone()
        optimizer.step()
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        adam = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        q = q - 0.1 * g.sign() * adam.abs()
    close([p.detach()], [q])


# -- past updates ------------------------------------------------------------------------------------------------------
STEPS = [[values(*s, seed=100 * t + i) for i, s in enumerate(SHAPES)] for t in range(6)]


def pairs(fn, before):
    """What a function makes of each update and the one before it."""
    last = [torch.full_like(u, before) for u in STEPS[0]]
    out = []
    for updates in STEPS:
        out.append([fn(u, v) for u, v in zip(updates, last, strict=True)])
        last = updates
    return out


PAIRS = {
    "LastDifference": (lambda: m.LastDifference(), lambda: pairs(lambda u, v: u - v, 0.0)),
    "LastProduct": (lambda: m.LastProduct(), lambda: pairs(lambda u, v: u * v, 1.0)),
    "LastRatio": (lambda: m.LastRatio(), lambda: pairs(lambda u, v: u / v, 1.0)),
    "LastRatio-prev": (lambda: m.LastRatio("prev"), lambda: pairs(lambda u, v: v / u, 1.0)),
    "LastAbsoluteRatio": (
        lambda: m.LastAbsoluteRatio(eps=0.5),
        lambda: pairs(lambda u, v: u.abs() / v.abs().clamp(min=0.5), 1.0),
    ),
    "LastAbsoluteRatio-prev": (
        lambda: m.LastAbsoluteRatio("prev", eps=0.5),
        lambda: pairs(lambda u, v: v.abs() / u.abs().clamp(min=0.5), 1.0),
    ),
    "Previous": (lambda: m.Previous(), lambda: [STEPS[max(t - 1, 0)] for t in range(6)]),
    "Previous-3": (lambda: m.Previous(3), lambda: [STEPS[max(t - 3, 0)] for t in range(6)]),
    "Previous-9": (lambda: m.Previous(9), lambda: [STEPS[0]] * 6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_past_updates(name):
    make, expected = PAIRS[name]
    for out, right in zip(result(make(), list(STEPS)), expected(), strict=True):
        close(out, right)


def test_last_gradient_difference_sees_gradients_and_not_updates():
    out = result(m.LastGradDifference(), [U] * 6, STEPS)
    for got, right in zip(out, pairs(lambda u, v: u - v, 0.0), strict=True):
        close(got, right)


def test_gradients_that_are_written_over_are_remembered():
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    p.grad = torch.zeros(3, dtype=torch.float64)
    for module in (m.LastGradDifference(), m.LastDifference()):
        optimizer = tz.Modular([p], module)
        for t in range(4):
            before = p.detach().clone()
            p.grad.copy_(STEPS[t][1][:3])
            optimizer.step()
            last = STEPS[t - 1][1][:3] if t else torch.zeros(3)
            close([before - p.detach()], [STEPS[t][1][:3] - last])


# -- the loss ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", [3.0, -2.0, 0.0])
def test_the_loss_as_a_factor(loss):
    clipped = max(0.5 * loss, 1e-3)
    for module, expected in (
        (m.MulByLoss(0.5, 1e-3), [u * clipped for u in U]),
        (m.DivByLoss(0.5, 1e-3), [u / clipped for u in U]),
        (m.FillLoss(0.5), [torch.full_like(u, 0.5 * loss) for u in U]),
    ):
        (out,) = result(module, [U], loss=loss)
        close(out, expected)


class Estimated(Module):
    """An update that is known without a gradient."""

    needs_gradient = False

    def step(self, var):
        var.update = [torch.ones_like(p) for p in var.params]
        return var


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("compile", [False, True])
def test_how_the_loss_is_evaluated(backward, compile):
    """Once; with gradients if it is not known yet and they are wanted."""
    p = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    calls = []

    def closure(backward=True):
        calls.append(backward)
        loss = p.square().sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular([p], Estimated(), m.MulByLoss(backward=backward), compile=False)
    assert optimizer.step(closure).item() == 9
    assert calls == [backward]
    assert p.item() == -6
    calls.clear()
    optimizer = tz.Modular([p], m.MulByLoss(backward=backward), compile=compile)  # the gradient is needed in any case
    optimizer.step(closure)
    assert calls == [True]


def losses(values):
    """A closure whose losses are given."""
    rest = iter(values)

    def closure(backward=True):
        return next(rest)

    return closure


@pytest.mark.parametrize(
    ("before", "after", "backtrack", "factor"),
    [
        (1.0, 0.5, True, 1.0),
        (1.0, 1.0, True, 1.0),
        (1.0, 1.5, True, -1.0),
        (1.0, 1.5, False, 0.0),
        (1.0, math.nan, True, -1.0),
        (1.0, math.inf, False, 0.0),
        (math.nan, 1.0, True, 1.0),
        (1.0 + 2**-40, 1.0 + 2**-39, False, 0.0),  # as Python floats, which a float32 would not tell apart
    ],
)
def test_negate_on_loss_increase(before, after, backtrack, factor):
    p = P[0].clone().requires_grad_()
    p.grad = G[0].clone()
    seen = []
    numbers = iter([before, after])

    def closure(backward=True):
        seen.append((backward, p.detach().clone()))
        return torch.tensor(next(numbers), dtype=torch.float64)

    optimizer = tz.Modular([p], m.LR(0.5), m.NegateOnLossIncrease(backtrack))
    optimizer.step(closure)
    assert [b for b, _ in seen] == [True, False]
    close([seen[1][1]], [P[0] - 0.5 * G[0]])
    close([p.detach()], [P[0] - factor * 0.5 * G[0]])


def test_an_error_after_the_step_leaves_the_parameters():
    p = P[0].clone().requires_grad_()
    optimizer = tz.Modular([p], m.LR(0.5), m.NegateOnLossIncrease())
    p.grad = G[0].clone()
    with pytest.raises(StopIteration):
        optimizer.step(losses([torch.tensor(1.0)]))
    assert same([p.detach()], [P[0]])


# -- random numbers ----------------------------------------------------------------------------------------------------
def test_dropout_keeps_the_mean_and_drops_its_share():
    p = torch.zeros(200_000, dtype=torch.float64, requires_grad=True)
    p.grad = torch.full_like(p, 2.0)
    tz.Modular([p], m.Dropout(0.3, seed=0)).step()
    kept = p.detach() != 0
    assert abs(float((~kept).double().mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 200_000)
    close([p.detach()[kept]], [torch.full_like(p.detach()[kept], -2.0 / 0.7)])


def test_what_dropout_is_applied_to_is_its_third_argument():
    p = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    p.grad = values(50)
    tz.Modular([p], m.Fill(1), m.Dropout(0.5, False, "grad"), m.Grad()).step()
    moved = -p.detach()
    assert 5 < int((moved == 0).sum()) < 45
    close([moved[moved != 0]], [2 * p.grad[moved != 0]])


def test_dropout_that_grafts_keeps_norms():
    params = [torch.zeros(50, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    for i, p in enumerate(params):
        p.grad = values(50, seed=i)
    tz.Modular(params, m.Dropout(0.5, graft=True, seed=0)).step()
    for p in params:
        assert 5 < int((p == 0).sum()) < 45
        close([p.detach().norm()], [p.grad.norm()])


def test_dropout_of_everything_is_no_update():
    p = torch.zeros(1, requires_grad=True)
    seen = set()
    optimizer = tz.Modular([p], m.Dropout(0.5, graft=True, seed=0))
    for _ in range(20):
        before = p.item()
        p.grad = torch.ones(1)
        optimizer.step()
        seen.add(before - p.item())
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [("normal", math.sqrt(2 / math.pi)), ("uniform", 3**0.5 / 2), ("sphere", math.sqrt(2 / math.pi))],
)
def test_noise_has_the_signs_of_the_update(distribution, mean):
    p = torch.zeros(100_000, dtype=torch.float64, requires_grad=True)
    p.grad = values(100_000)
    tz.Modular([p], m.NoiseSign(distribution, alpha=3, seed=0)).step()
    noise = -p.detach()
    assert torch.equal(noise.sign(), p.grad.sign())
    assert abs(float(noise.abs().mean()) - 3 * mean) < 0.03
    assert abs(float(noise.square().mean()) - 9) < (1e-9 if distribution == "sphere" else 0.2)


def test_weights_are_dropped_for_the_closure_only():
    p = values(40).requires_grad_()
    start, seen = p.detach().clone(), []

    def closure(backward=True):
        seen.append(p.detach().clone())
        loss = (p**2).sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular([p], m.WeightDropout(0.5, graft=False, seed=0), m.NegateOnLossIncrease(), m.LR(0.25))
    optimizer.step(closure)
    point, after = seen
    dropped = point == 0
    assert 8 < int(dropped.sum()) < 32
    assert torch.equal(point[~dropped], start[~dropped])
    assert torch.equal(after == 0, dropped)  # the same ones in the whole step
    close([start - p.detach()], [0.25 * 2 * point])  # the gradient there
    seen.clear()
    optimizer.step(closure)
    assert not torch.equal(seen[0] == 0, dropped)  # others in the next


def test_weights_that_are_left_may_have_the_norm_of_all():
    p = values(40).requires_grad_()
    start, seen = p.detach().clone(), []

    def closure(backward=True):
        seen.append(p.detach().clone())
        p.grad = torch.zeros_like(p)
        return torch.tensor(1.0)

    tz.Modular([p], m.WeightDropout(0.5, seed=0)).step(closure)
    close([seen[0].norm()], [start.norm()])
    assert same([p.detach()], [start])


# -- printing ----------------------------------------------------------------------------------------------------------
def test_what_is_printed():
    lines = []
    params = [torch.zeros(2, 1, requires_grad=True), torch.zeros((), requires_grad=True)]
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    optimizer = tz.Modular(
        params, m.Sign(), m.PrintShape("a ", lines.append), m.PrintUpdate("b ", lines.append), m.LR(0.5)
    )
    optimizer.step()
    assert lines == ["a [(2, 1), ()]", "b [tensor([[1.],\n        [1.]]), tensor(1.)]"]
    assert bits(params)[1].item() == -0.5
