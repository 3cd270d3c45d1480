"""Derivatives of higher order: right, and computed once."""

import pytest
import torch

import torchzero_core as tz
from tests.problems import bits, same


def cubic(p):
    return (p.sum() ** 3 + (p[0] * p[1] * p[2]) ** 2 + (p**4).sum()) / 10


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("vectorize", [True, False])
def test_the_polynomial_is_that_of_the_loss(order, vectorize):
    """Its derivatives, seen through what the step minimises: m(s) of Taylor's formula, by autograd along a line."""
    p = torch.tensor([0.3, -0.5, 0.7], dtype=torch.float64, requires_grad=True)
    seen = []

    class Looks(tz.m.HigherOrderNewton):
        def apply(self, unit, x):
            seen.append(unit.given)
            return super().apply(unit, x)

    optimizer = tz.Modular([p], Looks(order=order, vectorize=vectorize))
    start, s = p.detach().clone(), torch.tensor([0.2, 0.1, -0.4], dtype=torch.float64)
    optimizer.step(lambda backward=True: cubic(p))
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    expected, slope, factorial, d = 0.0, 0.0, 1.0, cubic(start + t * s)
    for j in range(1, order + 1):
        (d,) = torch.autograd.grad(d, t, create_graph=True)
        factorial *= j
        expected += d.item() / factorial
        slope += d.item() * j / factorial
    value, gradient = seen[0](s)
    assert value == pytest.approx(expected, rel=1e-12)
    assert float(gradient @ s) == pytest.approx(slope, rel=1e-12)


def test_entries_that_are_equal_are_computed_once(monkeypatch):
    rows = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (rows.append(1), grad(*a, **k))[1])
    p = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    tz.Modular([p], tz.m.HigherOrderNewton(order=4, vectorize=False)).step(lambda backward=True: cubic(p))
    assert len(rows) == 1 + 4 + 10 + 20  # all entries would be 1 + 4 + 16 + 64


def test_one_number():
    p = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    tz.Modular([p], tz.m.HigherOrderNewton(trust_method="none")).step(lambda backward=True: (p - 1) ** 2 / 2)
    assert p.item() == pytest.approx(1.0, abs=1e-9)


# -- least squares where residuals are not to be had, and of other parameters ------------------------------------------
@pytest.mark.parametrize("method", [lambda: tz.m.GaussNewton(), lambda: tz.m.LevenbergMarquardt()])
@pytest.mark.parametrize(
    "around",
    [
        lambda inner: tz.m.TensorNormsProjection(inner, project_params=True),
        lambda inner: tz.m.BlockPartition([inner, tz.m.ClipValue(1.0)], 4, project_params=True),
        lambda inner: tz.m.VectorProjection([inner, tz.m.Clip(-1, 1)], project_params=True),
    ],
)
def test_residuals_are_not_to_be_had_in_a_projection(around, method):
    p = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], around(method()), tz.m.LR(0.1))
    before = bits([p])
    with pytest.raises(RuntimeError, match=r"GaussNewton needs the residuals themselves.*outside of projections"):
        optimizer.step(lambda backward=True: p**2 - 1)
    assert same(bits([p]), before) and not any(optimizer.state.values())


@pytest.mark.parametrize("method", [lambda: tz.m.GaussNewton(), lambda: tz.m.LevenbergMarquardt()])
def test_residuals_are_not_to_be_had_behind_an_approximation(method):
    p = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.FDM(), method())
    with pytest.raises(RuntimeError, match=r"needs the residuals themselves.*a gradient approximation"):
        optimizer.step(lambda backward=True: (p**2).sum())
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", [lambda: tz.m.GaussNewton(), lambda: tz.m.LevenbergMarquardt()])
def test_residuals_of_something_else_move_nothing(method):
    p, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = tz.Modular([p], method(), tz.m.LR(0.5))
    assert optimizer.step(lambda backward=True: other * 2).item() == 8.0
    assert p.tolist() == [1.0, 1.0]


def residuals(params):
    return torch.cat([(p**2 - 2 - i).reshape(-1) for i, p in enumerate(params)])


def test_a_group_that_is_added_starts_the_scale_anew():
    params = [torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)]
    optimizer = tz.Modular(params, tz.m.LevenbergMarquardt())
    for _ in range(3):
        optimizer.step(lambda backward=True: residuals(params))
    params.append(torch.tensor([0.5], dtype=torch.float64, requires_grad=True))
    optimizer.add_param_group(dict(params=params[1:]))
    for _ in range(20):
        loss = optimizer.step(lambda backward=True: residuals(params))
    assert loss < 1e-16
    scale = optimizer.state[params[0]]["LevenbergMarquardt.global.scale"]
    assert scale.shape == (3,)


def test_the_scale_of_the_same_parameters_is_kept():
    params = [torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)]
    optimizer = tz.Modular(params, tz.m.LevenbergMarquardt())
    optimizer.step(lambda backward=True: residuals(params))
    first = optimizer.state[params[0]]["LevenbergMarquardt.global.scale"].clone()
    for _ in range(3):
        optimizer.step(lambda backward=True: residuals(params))
    assert optimizer.state[params[0]]["LevenbergMarquardt.global.scale"][1] == first[1]  # the largest was the first
    params[0].data = params[0].data[:1].clone()
    before = bits(params)
    with pytest.raises(ValueError, match=r"keeps 'scale' for 2 elements.*forget it with the module's reset\(\)"):
        optimizer.step(lambda backward=True: residuals(params))
    assert same(bits(params), before)


# -- a module without an update, in a walk -----------------------------------------------------------------------------
@pytest.mark.parametrize("walk", [lambda c: tz.m.Multistep(c, 2), lambda c: tz.m.Sequential([c, c], 2)])
def test_a_walk_where_the_update_is_dropped_and_a_gradient_is_missing(walk):
    params = [torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def closure(backward=True):
        loss = (params[0] ** 2).sum() / 2
        if backward:
            params[1].grad = None
            params[0].grad = None
            loss.backward()
        return loss

    if walk(tz.m.Identity()).__class__ is tz.m.Multistep:
        module = tz.m.Multistep(tz.m.GradToNone(), 2)
    else:
        module = tz.m.Sequential([tz.m.Identity(), tz.m.GradToNone()], 1)
    optimizer = tz.Modular(params, module, tz.m.LR(0.5))
    optimizer.step(closure)
    assert params[1].tolist() == [1.0, 1.0]
    assert bool((params[0] < 1.0).all())


def test_a_trust_region_of_any_size():
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], tz.m.HigherOrderNewton(trust_init=1e14))

    def closure(backward=True):
        loss = (p * torch.tensor([3.0, -1e-3], dtype=torch.float64)).sum()
        if backward:
            p.grad = None
            loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(p.detach(), torch.tensor([1.0 - 1e14, 1e14 - 2.0], dtype=torch.float64), rtol=1e-12)
