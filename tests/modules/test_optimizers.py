"""What the parity table leaves out: orthogonal updates, choices of momentum and averages, warnings."""

import math

import pytest
import torch

import torchzero_core as tz
from tests.modules.test_ops import G, update_of
from tests.parity import compared

m = tz.m
X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 4.0]], dtype=torch.float64)


def factor(x):
    u, _, vh = torch.linalg.svd(x.reshape(len(x), -1), full_matrices=False)
    return (u @ vh).view_as(x)


@pytest.mark.parametrize("x", [X, X.T.contiguous(), torch.stack([X, 2 - X], 1)], ids=["wide", "tall", "3-d"])
@compared("Orthogonalize(method='svd')", "factor of the SVD")
def test_exact_orthogonal_factor(x):
    expected = factor(x)
    torch.testing.assert_close(update_of([m.Orthogonalize(method="svd")], x), expected)
    scale = 0.2 * math.sqrt(max(len(x), x[0].numel()))
    torch.testing.assert_close(update_of([m.Orthogonalize(method="svd", adjust_lr=True)], x), expected * scale)
    dual = m.Orthogonalize(method="svd", dual_norm_correction=True)
    nuclear = torch.linalg.svdvals(x.reshape(len(x), -1)).sum()
    torch.testing.assert_close(update_of([dual], x), expected * nuclear)


def test_newton_schulz_comes_near_the_exact_factor():
    update = update_of([m.Orthogonalize(ns_dtype="float64")], X)
    singular = torch.linalg.svdvals(update)
    assert singular.min() > 0.65 and singular.max() < 1.25
    u, _, vh = torch.linalg.svd(X, full_matrices=False)
    mixed = u.T @ update @ vh.T
    assert (mixed - mixed.diag().diag()).abs().max() < 1e-12  # the singular vectors are exactly those of X


def test_vectors_and_groups_pass_through():
    a, b, c = (torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3), (2, 3), (3,)))
    a.grad, b.grad, c.grad = X.clone(), X.clone(), X[0].clone()
    tz.Modular([{"params": [a, c]}, {"params": [b], "orthogonalize": False}], m.Orthogonalize(method="svd")).step()
    torch.testing.assert_close(-a.detach(), factor(X))
    assert torch.equal(-b.detach(), X)
    assert torch.equal(-c.detach(), X[0])


def test_equal_shapes_give_what_each_gives_alone():
    params = [torch.zeros(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for i, p in enumerate(params):
        p.grad = X + i
    tz.Modular(params, m.Orthogonalize(ns_dtype="float64")).step()
    for i, p in enumerate(params):
        torch.testing.assert_close(-p.detach(), update_of([m.Orthogonalize(ns_dtype="float64")], X + i))


def test_muon_names_what_it_does_not_take():
    bias = torch.zeros(3, requires_grad=True)
    bias.grad = torch.ones(3)
    optimizer = tz.Modular([bias], m.Muon(0.5, nesterov=False))
    with pytest.warns(UserWarning, match=r"Muon is for weights of two or more dimensions .* \(3,\)"):
        optimizer.step()
    optimizer.step()  # says it once
    assert bias.tolist() == [-1.25] * 3
    assert m.Muon.takes(torch.zeros(2, 2)) and not m.Muon.takes(bias)


@pytest.mark.parametrize("name", ["Orthogonalize", "Muon"])
def test_wrong_dtype_and_method_are_refused(name):
    with pytest.raises(ValueError, match="ns_dtype='int8' is not the name of a floating point dtype"):
        getattr(m, name)(ns_dtype="int8")
    with pytest.raises(ValueError, match=r"method='qr'\) must be one of 'newton-schulz', 'svd'"):
        getattr(m, name)(method="qr")


# -- momentum and averages ---------------------------------------------------------------------------------------------
A, B = G, torch.tensor([1.0, 1.0, -2.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda: m.HeavyBall(0.5, lerp=True), 0.5 * A + 0.5 * B),
        (lambda: m.HeavyBall(0.5, lerp=True, ema_init="zeros"), 0.25 * A + 0.5 * B),
        (lambda: m.HeavyBall(0.5, ema_init="zeros", dampening=0.2), 0.8 * (0.5 * A + B)),
        (lambda: m.HeavyBall(0.5, debiased=True), (0.5 * A + B) / 0.75),
        (lambda: m.EMA(0.5, dampening=0.2), 0.8 * (0.25 * A + 0.5 * B)),
        (lambda: m.EMA(0.5, lerp=False), 0.5 * A + B),
        (lambda: m.EMA(0.5, ema_init="update"), 0.5 * A + 0.5 * B),
        (lambda: m.NAG(0.25, lerp=True), 0.25 * (0.25 * 0.75 * A + 0.75 * B) + 0.75 * B),
        (lambda: m.NAG(0.5, dampening=0.5), B + 0.5 * (0.5 * A + 0.5 * B)),
        (lambda: m.EMASquared(0.5), 0.25 * A**2 + 0.5 * B**2),
        (lambda: m.EMASquared(0.5, amsgrad=True), torch.maximum(0.5 * A**2, 0.25 * A**2 + 0.5 * B**2)),
        (lambda: m.EMASquared(0.5, pow=3), 0.25 * A.abs() ** 3 + 0.5 * B.abs() ** 3),
        (lambda: m.SqrtEMASquared(0.5, debiased=True), ((0.25 * A**2 + 0.5 * B**2) / 0.75).sqrt()),
        (lambda: m.Debias(beta1=0.5, beta2=0.75, alpha=3, pow=1), 3 * (1 - 0.75**2) / (1 - 0.5**2) * B),
        (lambda: m.Debias(beta2=0.75), math.sqrt(1 - 0.75**2) * B),
        (lambda: m.Debias2(0.75, pow=3), B / (1 - 0.75**2) ** (1 / 3)),
        (lambda: m.Warmup(0.5, 2, steps=4), (0.5 + 1.5 / 4) * B),
        (lambda: m.Adagrad(use_sqrt=False, alpha=2), 2 * B / (A**2 + B**2)),
        (lambda: m.Adagrad(pow=3, inner=m.EMA(0.5)), (0.25 * A + 0.5 * B) / (A.abs() ** 3 + B.abs() ** 3) ** (1 / 3)),
        (lambda: m.RMSprop(0.5), B / ((A**2 + B**2) / 2).sqrt()),
        (lambda: m.RMSprop(0.5, pow=3), B / ((A.abs() ** 3 + B.abs() ** 3) / 2) ** (1 / 3)),
        (lambda: m.RMSprop(0.5, amsgrad=True), B / torch.maximum(A**2, (A**2 + B**2) / 2).sqrt()),
        (lambda: m.RMSprop(0.5, centered=True, debiased=True), B / ((A - B).abs() / 2) * math.sqrt(0.75)),
        (lambda: m.Lion(0.25, 0.5), (0.25 * 0.5 * A + 0.75 * B).sign()),
        # signs: kept, changed, changed, 0 before
        (lambda: m.Rprop(alpha=0.5), torch.tensor([0.6, 0.5, -0.5, 0.5], dtype=torch.float64)),
        (lambda: m.Rprop(alpha=0.5, backtrack=False, nplus=2), torch.tensor([1.0, 0.0, 0.0, 0.5], dtype=torch.float64)),
        (lambda: m.Rprop(alpha=0.5, nplus=2, ub=0.75), torch.tensor([0.75, 0.5, -0.5, 0.5], dtype=torch.float64)),
    ],
)
def test_second_update(module, expected, compile):
    torch.testing.assert_close(update_of([module()], A, B, compile=compile), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("zero", [0.0, 0.5, 0.0]), ("grad", [-1.0, 0.5, 4.0]), ("backtrack", [-2.0, 0.5, 2.0])],
)
def test_cautious_modes(mode, expected):
    class Set(tz.Transform):
        def rule(self, u, ctx):
            return ctx.params

    update = torch.tensor([2.0, 0.5, -2.0])
    grad = torch.tensor([-1.0, 3.0, 4.0])
    assert update_of([Set(), m.Cautious(mode=mode)], grad, params=update).tolist() == expected


def test_centered_starts_without_a_division_by_zero():
    """After one sample the variance is zero; the first step is that of the plain method."""
    torch.testing.assert_close(update_of([m.RMSprop(centered=True)], A), A.sign(), rtol=1e-6, atol=1e-9)


def test_weight_decay_orders():
    p = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    zero = torch.zeros_like(p)
    for ord, expected in ((2, 0.1 * p), (1, 0.1 * p.sign()), (3, 0.1 * p.sign() * p**2)):
        torch.testing.assert_close(update_of([m.WeightDecay(0.1, ord)], zero, params=p), expected)


def test_a_wrong_word_is_refused_with_the_right_ones():
    with pytest.raises(ValueError, match=r"EMA\(ema_init='ones'\) must be one of 'zeros', 'update'\."):
        m.EMA(ema_init="ones")
    with pytest.raises(ValueError, match="must be one of 'zero', 'grad', 'backtrack'"):
        tz.Modular([{"params": [torch.zeros(1, requires_grad=True)], "mode": "half"}], m.Cautious())


def test_step_size_is_not_a_learning_rate():
    p = torch.zeros(1, requires_grad=True)
    optimizer = tz.Modular([p], m.StepSize(0.5))
    optimizer.param_groups[0]["lr"] = 0.1  # scales the update, as there is no LR
    p.grad = torch.ones(1)
    optimizer.step()
    assert p.item() == pytest.approx(-0.05)


@pytest.mark.parametrize("compile", [False, True])
def test_rprop_does_not_change_a_step_size_right_after_a_change_of_sign(compile):
    signs = [torch.tensor([s], dtype=torch.float64) for s in (1.0, -1.0, -1.0, -1.0)]
    wanted = [1.0, -1.0, -0.5, -0.6]  # taken back at the second step
    for t in range(1, 5):
        assert update_of([m.Rprop()], *signs[:t], compile=compile).item() == pytest.approx(wanted[t - 1])


# -- Polyak's step size ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    ("module", "factors"),
    [  # the loss is 1·9 + 2·16 = 41 and ⟨u, g⟩ is 3·36 and 3·256
        (lambda: m.PolyakStepSize(), [41 / 876] * 2),
        (lambda: m.PolyakStepSize(min_obj_value=1, alpha=2), [80 / 876] * 2),
        (lambda: m.PolyakStepSize(max=0.01), [0.01] * 2),
        (lambda: m.PolyakStepSize(use_grad=False), [41 / 2628] * 2),
        (lambda: m.PolyakStepSize(parameterwise=True), [41 / 108, 41 / 768]),
        (lambda: m.PolyakStepSize(parameterwise=True, use_grad=False, max=0.1), [0.1, 41 / 2304]),
    ],
)
def test_polyak(module, factors, compile):
    params = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (3.0, 4.0)]
    optimizer = tz.Modular(params, m.Mul(3), module(), compile=compile)

    def closure(backward=True):
        loss = (params[0] ** 2 + 2 * params[1] ** 2).sum()
        if backward:
            optimizer.zero_grad()
            loss.backward()
        return loss

    optimizer.step(closure)
    assert [p.item() for p in params] == pytest.approx([3 - 18 * factors[0], 4 - 48 * factors[1]])


@pytest.mark.parametrize("parameterwise", [False, True])
def test_polyak_stays_where_the_gradient_is_zero(parameterwise):
    p = torch.zeros(2, requires_grad=True)
    optimizer = tz.Modular([p], m.PolyakStepSize(parameterwise=parameterwise))

    def closure(backward=True):
        if backward:
            p.grad = torch.zeros(2)
        return p.sum() + 1

    optimizer.step(closure)
    assert p.tolist() == [0, 0]


# -- smoothing ---------------------------------------------------------------------------------------------------------
def laplacian_solved(u, sigma):
    """By the matrix."""
    n = u.numel()
    eye = torch.eye(n, dtype=torch.float64)
    matrix = (1 + 2 * sigma) * eye - sigma * (eye.roll(1, 0) + eye.roll(-1, 0))
    return torch.linalg.solve(matrix, u.flatten()).view(u.shape)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("layerwise", [True, False])
@compared("LaplacianSmoothing", "dense circulant solve")
def test_laplacian_smoothing(layerwise, compile):
    grads = [
        torch.arange(n, dtype=torch.float64).square().sin().view(s) for n, s in ((6, (2, 3)), (4, (4,)), (5, (5,)))
    ]
    params = [torch.zeros_like(g).requires_grad_() for g in grads]
    optimizer = tz.Modular(params, m.LaplacianSmoothing(0.7, layerwise), m.LR(1), compile=compile and layerwise)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    optimizer.step()
    if layerwise:
        wanted = [laplacian_solved(grads[0], 0.7), grads[1], laplacian_solved(grads[2], 0.7)]
    else:
        wanted = laplacian_solved(torch.cat([g.flatten() for g in grads]), 0.7).split([6, 4, 5])
    for p, w in zip(params, wanted, strict=True):
        torch.testing.assert_close(-p.detach(), w.view_as(p))


@pytest.mark.parametrize("layerwise", [True, False])
def test_laplacian_smoothing_keeps_to_its_constructor_about_what_it_smooths(layerwise):
    p = torch.zeros(6, requires_grad=True)
    p.grad = torch.ones(6)
    optimizer = tz.Modular([{"params": [p], "layerwise": not layerwise}], m.LaplacianSmoothing(layerwise=layerwise))
    with pytest.raises(ValueError, match=r"LaplacianSmoothing: layerwise.* pass it to the constructor"):
        optimizer.step()
