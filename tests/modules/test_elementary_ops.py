"""Operations on the update and between modules: each value against torch, in float64, eager and compiled."""

import math
import statistics
import warnings

import pytest
import torch
from torch.nn import functional as F

import torchzero_core as tz
from tests.problems import backward, bits, make_params, run

m = tz.m
NAN, INF = math.nan, math.inf
G = torch.tensor([3.0, -1.0, 0.5, 0.0, -0.0, 1.0, -7.25, 1e-3], dtype=torch.float64)
ODD = torch.tensor([NAN, INF, -INF, 2.0, -0.5], dtype=torch.float64)
both = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def updates_of(modules, *steps, compile=False, dtype=None):
    """The updates that a chain makes of the gradients of each step, a list of tensors."""
    steps = [[step] if isinstance(step, torch.Tensor) else list(step) for step in steps]
    params = [torch.zeros_like(g, dtype=dtype).requires_grad_() for g in steps[0]]
    optimizer = tz.Modular(params, *(modules if isinstance(modules, list) else [modules]), compile=compile)
    for grads in steps:
        with torch.no_grad():
            torch._foreach_zero_(params)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.to(p.dtype, copy=True)
        optimizer.step()
    return [-p.detach() for p in params]


def same(got, wanted, **tolerance):
    tolerance = {"rtol": 1e-14, "atol": 1e-15, **tolerance}
    torch.testing.assert_close(got, wanted + 0.0, equal_nan=True, **tolerance)


def folded(u, low, high):
    """Reflected at the bounds as often as needed, one element after the other."""
    out = []
    for x in u.tolist():
        while not low <= x <= high:
            x = 2 * high - x if x > high else 2 * low - x
        out.append(x)
    return torch.tensor(out, dtype=u.dtype)


ELEMENTWISE = {
    "Abs": (lambda: m.Abs(), G.abs()),
    "Negate": (lambda: m.Negate(), -G),
    "Exp": (lambda: m.Exp(), G.exp()),
    "Reciprocal": (lambda: [m.Add(9), m.Reciprocal()], 1 / (G + 9)),
    "Reciprocal of zero": (lambda: [m.Abs(), m.Reciprocal()], 1 / G.abs()),
    "Reciprocal with eps": (lambda: m.Reciprocal(0.25), 1 / (G + 0.25)),
    "a function of the language": (lambda: m.CustomUnaryOperation("tanh"), G.tanh()),
    "a method": (lambda: m.CustomUnaryOperation("sigmoid"), G.sigmoid()),
    "a method that works in place": (lambda: [m.Clone(), m.CustomUnaryOperation("neg_"), m.Add(m.Grad())], 0 * G),
    "a function of torch alone": (lambda: m.CustomUnaryOperation("selu"), torch.selu(G)),
    "UnaryLambda": (lambda: m.UnaryLambda(lambda us: [u.sinh() for u in us]), G.sinh()),
    "UnaryParameterwiseLambda": (lambda: m.UnaryParameterwiseLambda(lambda u: u.cumsum(0)), G.cumsum(0)),
    "RSub": (lambda: m.RSub(2), 2 - G),
    "RSub of a module": (lambda: m.RSub([m.Sign(), m.Mul(3)]), 3 * G.sign() - G),
    "RDiv": (lambda: [m.Add(9), m.RDiv(2)], 2 / (G + 9)),
    "RDiv of a module": (lambda: [m.Add(9), m.RDiv(m.Sqrt())], (G + 9).sqrt() / (G + 9)),
    "RPow": (lambda: m.RPow(2), 2**G),
    "RPow of a module": (lambda: m.RPow([m.Abs(), m.Add(1)]), (G.abs() + 1) ** G),
    "Maximum": (lambda: m.Maximum(0.25), G.clamp(min=0.25)),
    "Maximum of a module": (lambda: m.Maximum([m.Mul(2), m.Add(1)]), torch.maximum(G, 2 * G + 1)),
    "Minimum": (lambda: m.Minimum(0.25), G.clamp(max=0.25)),
    "Minimum of a module": (lambda: m.Minimum([m.Mul(2), m.Add(1)]), torch.minimum(G, 2 * G + 1)),
    "Clip": (lambda: m.Clip(-0.5, 2), G.clamp(-0.5, 2)),
    "Clip below": (lambda: m.Clip(-0.5), G.clamp(min=-0.5)),
    "Clip above": (lambda: m.Clip(max=0.75), G.clamp(max=0.75)),
    "Clip without bounds": (lambda: m.Clip(), G),
    "Clip with bounds that cross": (lambda: m.Clip(2, -0.5), G.clamp(2, -0.5)),
    "Clip by modules": (lambda: m.Clip(m.Sign(), [m.Sign(), m.Add(0.5)]), G.clamp(G.sign(), G.sign() + 0.5)),
    "MirroredClip": (lambda: m.MirroredClip(-0.75, 0.5), folded(G, -0.75, 0.5)),
    "MirroredClip above": (lambda: m.MirroredClip(max=0.75), torch.where(G > 0.75, 1.5 - G, G)),
    "MirroredClip below": (lambda: m.MirroredClip(-0.5), torch.where(G < -0.5, -1.0 - G, G)),
    "MirroredClip with an infinite bound": (lambda: m.MirroredClip(-INF, 0.75), torch.where(G > 0.75, 1.5 - G, G)),
    "MirroredClip with another one": (lambda: m.MirroredClip(-0.5, INF), torch.where(G < -0.5, -1.0 - G, G)),
    "MirroredClip without bounds": (lambda: m.MirroredClip(), G),
    "MirroredClip to a point": (lambda: m.MirroredClip(0.3, 0.3), torch.full_like(G, 0.3)),
    "MirroredClip with bounds that cross": (lambda: m.MirroredClip(2, -0.5), torch.full_like(G, -0.5)),
    "MirroredClip by a module": (lambda: m.MirroredClip(0, [m.Abs(), m.Add(1)]), folded(G, 0, INF)),
    "Lerp": (lambda: m.Lerp(2, 0.25), G.lerp(torch.full_like(G, 2), 0.25)),
    "Lerp to a module": (lambda: m.Lerp(m.Sign(), 0.75), G.lerp(G.sign(), 0.75)),
    "Lerp with a module as weight": (
        lambda: m.Lerp(m.Sign(), [m.Abs(), m.Clip(max=1)]),
        G.lerp(G.sign(), G.abs().clamp(max=1)),
    ),
    "CopySign": (lambda: m.CopySign(-2), -G.abs()),
    "CopySign of nothing": (lambda: m.CopySign(0), 0 * G),
    "CopySign of a module": (lambda: m.CopySign([m.Add(0.75), m.Negate()]), -G.abs() * (G + 0.75).sign()),
    "RCopySign": (lambda: m.RCopySign(-2), 2 * G.sign()),
    "RCopySign of a module": (lambda: m.CopyMagnitude(m.Sub(4)), (G - 4).abs() * G.sign()),
    "Threshold": (lambda: m.Threshold(0.5, -3, True), F.threshold(G, 0.5, -3)),
    "Threshold below": (lambda: m.Threshold(0.5, -3, update_above=False), torch.where(G < 0.5, G, -3.0)),
    "Threshold of modules": (
        lambda: m.Threshold(m.Negate(), [m.Mul(0.5)], True),
        torch.where(-G < G, G, 0.5 * G),
    ),
    "Where": (lambda: m.Where(m.Add(1), other=5), torch.where(G != -1, G, 5.0)),
    "Where of modules": (
        lambda: m.Where([m.Maximum(0)], m.Mul(2), [m.Abs(), m.Add(1)]),
        torch.where(G > 0, 2 * G, G.abs() + 1),
    ),
    "Where of numbers": (lambda: m.Where(0, 3, m.Sign()), G.sign()),
    "Rescale": (lambda: m.Rescale(-1, 3), -1 + 4 * (G + 7.25) / 10.25),
    "Rescale the other way round": (lambda: m.Rescale(3, -1), 3 - 4 * (G + 7.25) / 10.25),
    "Rescale of what has no spread": (lambda: [m.Ones(), m.Rescale(-1, 3)], torch.full_like(G, -1)),
    "Graft": (lambda: m.Graft(m.Sign()), G * (G.sign().norm() / G.norm())),
    "Graft of order 1": (lambda: m.Graft([m.Sign(), m.Mul(2)], ord=1), G * (2 * G.sign().norm(1) / G.norm(1))),
    "Graft of order inf": (lambda: m.Graft(m.Sign(), ord=INF), G / 7.25),
    "Graft of nothing": (lambda: [m.Mul(1e-12), m.Graft(m.Ones(), eps=0.5)], 1e-12 * G * (math.sqrt(8) / 0.5)),
    "RGraft": (lambda: m.RGraft(m.Sign()), G.sign() * (G.norm() / G.sign().norm())),
    "GraftToUpdate": (lambda: m.GraftToUpdate(m.Sign(), ord=3), G.sign() * (G.norm(3) / G.sign().norm(3))),
    "GramSchmidt": (lambda: m.GramSchmidt(m.Exp()), G - G.exp() * (G @ G.exp()) / (G.exp() @ G.exp())),
    "GramSchmidt of a number": (lambda: m.GramSchimdt(-2, tensorwise=True), G - G.mean()),
    "GramSchmidt of nothing": (lambda: m.GramSchmidt(m.Zeros()), G),
    "Fill": (lambda: m.Fill(-2.5), torch.full_like(G, -2.5)),
    "Zeros": (lambda: m.Zeros(), 0 * G),
    "Ones": (lambda: m.Ones(), 0 * G + 1),
    "Params": (lambda: [m.Params(), m.Add(1)], 0 * G + 1),
    "Update": (lambda: [m.Sign(), m.Update()], G.sign()),
    "UpdateToNone": (lambda: [m.Sign(), m.UpdateToNone()], G),
    "UpdateToNone in a child": (lambda: [m.Sign(), m.Add([m.Mul(7), m.UpdateToNone()])], G.sign() + G),
    "GradToNone": (lambda: [m.Clone(), m.Mul(2), m.GradToNone(), m.Sub(m.Grad())], G),
    "ClipModules": (lambda: m.ClipModules(m.Mul(2), max=m.Sign()), torch.minimum(2 * G, G.sign())),
    "ClipModules between numbers": (lambda: m.ClipModules(m.Mul(2), -0.5, 1), (2 * G).clamp(-0.5, 1)),
    "LerpModules": (lambda: m.LerpModules(m.Exp(), m.Sign(), 0.3), G.exp().lerp(G.sign(), 0.3)),
    "LerpModules of numbers": (lambda: m.LerpModules(1, 3, m.Sign()), 1 + 2 * G.sign()),
    "PowModules": (lambda: m.PowModules(m.Exp(), m.Sign()), G.exp() ** G.sign()),
    "PowModules of a number": (lambda: m.PowModules(2.5, m.Identity()), 2.5**G),
    "SubModules": (lambda: m.SubModules(m.Exp(), m.Sign(), alpha=0.5), G.exp() - 0.5 * G.sign()),
    "SubModules of a number": (lambda: m.SubModules(1, m.Sign()), 1 - G.sign()),
    "MaximumModules": (
        lambda: m.MaximumModules(m.Exp(), 1.5, m.Abs()),
        torch.stack([G.exp(), 0 * G + 1.5, G.abs()]).amax(0),
    ),
    "MinimumModules": (
        lambda: m.MinimumModules(m.Exp(), 1.5, m.Abs()),
        torch.stack([G.exp(), 0 * G + 1.5, G.abs()]).amin(0),
    ),
    "MaximumModules of numbers": (lambda: m.MaximumModules(1, 2.5, 2), torch.full_like(G, 2.5)),
    "Mean": (lambda: m.Mean(m.Exp(), 1.5, [m.Abs(), m.Mul(2)]), (G.exp() + 1.5 + 2 * G.abs()) / 3),
    "Prod": (lambda: m.Prod(m.Exp(), 1.5, [m.Abs(), m.Mul(2)]), G.exp() * 1.5 * 2 * G.abs()),
    "MedianModules": (
        lambda: m.MedianModules(m.Exp(), 0.25, m.Identity()),
        torch.stack([G.exp(), 0 * G + 0.25, G]).median(0).values,
    ),
    "MedianModules of four": (
        lambda: m.MedianModules(m.Exp(), 0.25, m.Identity(), m.Abs()),
        torch.stack([G.exp(), 0 * G + 0.25, G, G.abs()]).quantile(0.5, dim=0),
    ),
    "MedianModules of one": (lambda: m.MedianModules(m.Exp()), G.exp()),
    "WeightedSum": (
        lambda: m.WeightedSum(m.Exp(), 1.5, m.Abs(), weights=[2, -1, 0.5]),
        2 * G.exp() - 1.5 + 0.5 * G.abs(),
    ),
    "WeightedMean": (
        lambda: m.WeightedMean(m.Exp(), 1.5, m.Abs(), weights=[2, -1, 0.5]),
        (2 * G.exp() - 1.5 + 0.5 * G.abs()) / 1.5,
    ),
}


@both
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values(name, compile):
    module, wanted = ELEMENTWISE[name]
    modules = module()
    with warnings.catch_warnings():
        if "ToNone" in name:
            warnings.filterwarnings("ignore", r"compile=True has no effect on \w+ToNone: only rules")
        (got,) = updates_of(modules, G, compile=compile)
    same(got, wanted)


@pytest.mark.parametrize(
    ("dtype", "compile"),
    [(torch.float64, True), (torch.float32, True)]
    + [(d, False) for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)],
    ids=str,
)
def test_nan_to_num(dtype, compile):
    finite = torch.finfo(dtype)
    for module, values in (
        (lambda: m.NanToNum(), (None, None, None)),
        (lambda: m.NanToNum(1, 2, -3), (1, 2, -3)),
        (lambda: m.NanToNum(neginf=finite.min / 2), (None, None, finite.min / 2)),
    ):
        u = ODD.to(dtype)
        (got,) = updates_of(module(), u, compile=compile)
        assert torch.equal(got, torch.nan_to_num(u, *values) + 0.0)


@both
def test_what_is_no_number_stays_none(compile):
    for module, wanted in (
        (m.Maximum(0), torch.maximum(ODD, torch.zeros_like(ODD))),
        (m.Clip(-1, 1), ODD.clamp(-1, 1)),
        (m.Threshold(0, 7, True), F.threshold(ODD, 0, 7)),
        (m.MaximumModules(m.Mul(2), 0), torch.maximum(2 * ODD, torch.zeros_like(ODD))),
    ):
        same(updates_of(module, ODD, compile=compile)[0], wanted)
    got = updates_of(m.MedianModules(m.Identity(), 0, 1), ODD, compile=compile)[0]
    same(got, torch.tensor([NAN, 1, 0, 1, 0], dtype=torch.float64))


@both
def test_norms_and_products_over_all_tensors(compile):
    grads = [G, 2 * G[:3].exp(), torch.zeros(0, dtype=G.dtype), torch.tensor(-2.0, dtype=G.dtype)]
    flat = torch.cat([g.flatten() for g in grads])
    wanted = {
        m.Graft(m.Exp(), tensorwise=False): flat * flat.exp().norm() / flat.norm(),
        m.RGraft(m.Exp(), tensorwise=False, ord=1): flat.exp() * flat.norm(1) / flat.exp().norm(1),
        m.GramSchmidt(m.Exp()): flat - flat.exp() * (flat @ flat.exp()) / (flat.exp() @ flat.exp()),
        m.Rescale(2, 5, tensorwise=False): 2 + 3 * (flat - flat.min()) / (flat.max() - flat.min()),
    }
    for module, expected in wanted.items():
        got = torch.cat([u.flatten() for u in updates_of(module, grads, compile=compile)])
        same(got, expected, atol=1e-13)


@both
def test_each_tensor_by_itself(compile):
    grads = [G, 2 * G[:3].exp(), torch.tensor(-2.0, dtype=G.dtype)]
    for module, expected in (
        (m.GramSchmidt(m.Exp(), tensorwise=True), lambda g: g - g.exp() * (g * g.exp()).sum() / (g.exp() ** 2).sum()),
        (m.Rescale(2, 5), lambda g: 2 + 3 * (g - g.min()) / (g.max() - g.min()).clamp(min=1e-8)),
        (m.Graft(m.Exp()), lambda g: g * g.exp().norm() / g.norm()),
    ):
        for got, g in zip(updates_of(module, grads, compile=compile), grads, strict=True):
            same(got, expected(g), atol=1e-13)


STEPS = [torch.tensor(x, dtype=torch.float64) for x in ([-4.0, 2.0], [-5.0, 8.0], [-6.0, 1.0])]


@both
@pytest.mark.parametrize(
    ("module", "plain", "decayed"),
    [
        (m.AccumulateMinimum, [-6, 1], [-6, 1]),
        (m.AccumulateSum, [-15, 11], [-9.5, 5.5]),
        (m.AccumulateProduct, [-120, 16], [-15, 2]),
        (m.AccumulateMean, [-5, 11 / 3], [-3 - 7 / 18, 1.5 + 1 / 9]),
    ],
)
def test_accumulation(module, plain, decayed, compile):
    same(updates_of(module(), *STEPS, compile=compile)[0], torch.tensor(plain, dtype=torch.float64))
    # half of what is stored goes before each update
    values = {"AccumulateMean": lambda s, u, t: s / 2 + (u - s / 2) / t, "AccumulateSum": lambda s, u, t: s / 2 + u}
    values["AccumulateProduct"] = lambda s, u, t: s / 2 * u
    values["AccumulateMinimum"] = lambda s, u, t: u if t == 1 else torch.minimum(s / 2, u)
    stored = torch.full((2,), 1.0 if module is m.AccumulateProduct else 0.0, dtype=torch.float64)
    for t, u in enumerate(STEPS, 1):
        stored = values[module.__name__](stored, u, t)
    same(updates_of(module(decay=0.5), *STEPS, compile=compile)[0], stored)


def test_a_target_other_than_the_update():
    (p,) = make_params([(3,)])
    start = p.detach().clone()
    p.grad = torch.ones_like(p)
    tz.Modular([p], m.Abs(target="params_direct"), m.UnaryLambda(doubled, target="grad"), m.Grad()).step()
    same(p.detach(), start.abs() - 2)


def doubled(us):
    for u in us:
        u.mul_(2)
    return us


def test_a_function_of_all_tensors_gets_all_of_them():
    """Of each group and dtype, in the order of the parameters, and nobody else's memory."""
    params = [torch.zeros(2, dtype=d).requires_grad_() for d in (torch.float32, torch.float64, torch.float32)]
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, i + 1)
    groups = [{"params": params[2:], "lr": 2.0}, {"params": params[:2]}]
    seen = []
    optimizer = tz.Modular(groups, m.UnaryLambda(lambda us: seen.append(us) or doubled(us)), m.LR(1.0))
    optimizer.step()
    assert [u.dtype for u in seen[0]] == [torch.float32, torch.float32, torch.float64]
    assert [p.detach()[0].item() for p in params] == [-2, -4, -12]
    assert [p.grad[0].item() for p in params] == [1, 2, 3]


def test_functions_that_do_not_give_tensors_are_refused():
    for module, error, sentence in (
        (
            m.UnaryLambda(lambda us: us[:1]),
            ValueError,
            "UnaryLambda: fn must return a list with a tensor for each of 2",
        ),
        (m.UnaryLambda(lambda us: None), ValueError, "UnaryLambda: fn must return a list"),
        (m.UnaryParameterwiseLambda(lambda u: 3.0), TypeError, "UnaryParameterwiseLambda: the function"),
        (m.CustomUnaryOperation("ravel"), ValueError, r"CustomUnaryOperation: .* returned a tensor of shape \(4,\)"),
    ):
        params = make_params([(3,), (2, 2)])
        backward(params)
        before = bits(params)
        with pytest.raises(error, match=sentence):
            tz.Modular(params, module).step()
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    with pytest.raises(ValueError, match="torch has no function or method of this name"):
        m.CustomUnaryOperation("absolutely")


def test_operands_that_are_none_are_refused():
    for make, sentence in (
        (lambda: m.Graft(2.0), r"Graft\.magnitude takes a module or a list of modules, not 2\.0"),
        (lambda: m.RGraft(None), r"RGraft\.direction takes a module"),
        (lambda: m.Maximum("x"), r"Maximum\.other takes a number, a module or a list of modules, not 'x'"),
        (lambda: m.Maximum(None), r"Maximum\.other takes a number"),
        (lambda: m.Lerp(m.Sign, 0.5), r"Lerp\.end takes a number.* Did you mean Sign\(\)\?"),
        (lambda: m.Mean(m.Sign(), "x"), "Mean.1 takes a number"),
    ):
        with pytest.raises(TypeError, match=sentence):
            make()
    (p,) = make_params([(3,)])
    for value in ("x", None):
        with pytest.raises(ValueError, match=rf"other={value!r} must be a number"):
            tz.Modular([{"params": [p], "Maximum.other": value}], m.Maximum(1))
    with pytest.raises(ValueError, match="2 inputs and weights="):
        m.WeightedSum(m.Sign(), m.Sqrt(), weights=[1.0])
    with pytest.raises(ValueError, match="the sum of the weights must not be 0"):
        m.WeightedMean(m.Sign(), m.Sqrt(), weights=[1.0, -1.0])
    with pytest.raises(ValueError, match="Mean needs at least one operand"):
        m.Mean()


@both
def test_numbers_differ_between_groups(compile):
    a, b, c = (torch.zeros(2, dtype=torch.float64).requires_grad_() for _ in range(3))
    for p in (a, b, c):
        p.grad = torch.tensor([3.0, -4.0], dtype=torch.float64)
    groups = [{"params": [a]}, {"params": [b], "Clip.max": 1.0}, {"params": [c], "Clip.min": -2.0, "1": 5.0}]
    tz.Modular(groups, m.Clip(None, 2), m.Sum(m.Identity(), 1.0), compile=compile).step()
    assert [p.tolist() for p in (a, b, c)] == [[-3, 3], [-2, 3], [-7, -3]]


class Spoil(tz.Module):
    """Overwrites what it gets, and counts."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def step(self, var):
        self.calls += 1
        for u in var.get_update():
            u.fill_(7.0)
        return var


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda s: m.RSub(s), 7 - G),
        (lambda s: m.Clip(s, m.Identity()), torch.minimum(G.clamp(min=7), G)),
        (lambda s: m.Where(m.Identity(), s, m.Identity()), torch.where(G != 0, 7.0, G)),
        (lambda s: m.MedianModules(m.Identity(), s, m.Identity()), G),
        (lambda s: m.Graft(s), G * (7 * math.sqrt(8) / G.norm())),
        (lambda s: m.Switch(s, steps=1), 0 * G + 7),
        (lambda s: m.Mean(m.Alternate(s, m.Sign(), steps=3), m.Identity()), (7 + G) / 2),
    ],
)
def test_a_child_runs_once_and_gets_a_copy(make, wanted):
    spoil = Spoil()
    same(updates_of(make(spoil), G)[0], wanted)
    assert spoil.calls == 1


# -- random numbers ----------------------------------------------------------------------------------------------------
@both
def test_moments_of_random_numbers(compile):
    n = 40000
    g = torch.zeros(n, dtype=torch.float64)
    root = 3**0.5
    for module, mean, deviation, low, high in (
        (m.Randn(seed=1), 0, 1, -6, 6),
        (m.RandomSample(2, seed=1), 0, 2, -12, 12),
        (m.RandomSample(0.5, "uniform", seed=1), 0, 0.5, -root / 2, root / 2),
        (m.RandomSample(3, "rademacher", seed=1), 0, 3, -3, 3),
        (m.RandomSample(3, "sphere", seed=1), 0, 3, -18, 18),
        (m.Uniform(-1, 3, seed=1), 1, 2 / root, -1, 3),
        (m.Uniform(3, -1, seed=1), 1, 2 / root, -1, 3),
    ):
        (u,) = updates_of(module, g, compile=compile)
        assert abs(u.mean().item() - mean) < 5 * deviation / n**0.5
        assert statistics.pstdev(u.tolist()) == pytest.approx(deviation, rel=0.02)
        assert low <= u.min() and u.max() <= high
    (u,) = updates_of(m.RandomSample(3, "sphere", seed=1), g, compile=compile)
    assert u.norm().item() == pytest.approx(3 * n**0.5, rel=1e-12)


def test_seeds_and_steps():
    g = torch.zeros(5, dtype=torch.float64)
    one, again = (updates_of(m.Randn(seed=3), g)[0] for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, updates_of(m.Randn(seed=4), g)[0])
    assert not torch.equal(one, updates_of(m.Randn(seed=3), g, g)[0])
    first, second = updates_of(m.Randn(seed=3), [g, g])
    assert not torch.equal(first, second)


def test_random_numbers_of_nothing():
    for distribution in ("normal", "uniform", "rademacher", "sphere"):
        empty, one = updates_of(m.RandomSample(2, distribution, seed=0), [torch.zeros(0), torch.zeros(())])
        assert empty.shape == (0,)
        assert one.isfinite()


# -- turns -------------------------------------------------------------------------------------------------------------
class Plus(tz.Module):
    """Adds a number; no rule."""

    amount: float

    def step(self, var):
        for u in var.get_update():
            u.add_(self.defaults["amount"])
        return var


@both
@pytest.mark.parametrize("rules", [True, False], ids=["rules", "others"])
@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda a: m.Alternate(*a), "012012012"),
        (lambda a: m.Alternate(*a, steps=2), "001122001"),
        (lambda a: m.Alternate(*a, steps=[1, 3, 2]), "011122011"),
        (lambda a: m.Alternate(a[1]), "111111111"),
        (lambda a: m.Switch(*a, steps=2), "001122222"),
        (lambda a: m.Switch(*a, steps=[1, 4, 2]), "011112222"),
        (lambda a: m.Switch(*a, steps=[3, 1]), "000122222"),
        (lambda a: m.Switch(a[2], steps=3), "222222222"),
    ],
)
def test_whose_turn_it_is(make, wanted, rules, compile):
    p = torch.zeros(1, requires_grad=True)
    optimizer = tz.Modular([p], make([(m.Fill if rules else Plus)(float(i)) for i in range(3)]), compile=compile)
    seen = ""
    for _ in wanted:
        p.grad = torch.zeros(1)
        before = p.item()
        optimizer.step()
        seen += f"{before - p.item():.0f}"
    assert seen == wanted


def test_a_module_whose_turn_it_is_not_makes_no_step():
    params, others = make_params(), make_params()
    run(tz.Modular(params, m.Alternate(m.Adam(), m.Zeros()), m.LR(0.1)), params, 7)
    run(tz.Modular(others, m.Adam(), m.LR(0.1)), others, 4)
    for p, q in zip(params, others, strict=True):
        same(p.detach(), q.detach())


def test_turns_of_modules_that_move_the_parameters_themselves():
    params, others = make_params(), make_params()
    run(tz.Modular(params, m.Switch([m.Adam(), m.LR(0.1)], [m.BFGS(), m.StrongWolfe()], steps=3)), params, 6)
    run(tz.Modular(others, m.Adam(), m.LR(0.1)), others, 3)
    run(tz.Modular(others, m.BFGS(), m.StrongWolfe()), others, 3)
    for p, q in zip(params, others, strict=True):
        same(p.detach(), q.detach(), rtol=1e-10)


def test_turns_of_closures():
    """What a module makes of the closure is there for the modules after it, and nothing is evaluated beforehand."""
    ends = []
    for module in (m.Switch(m.SPSA(seed=0), m.MeZO(seed=0), steps=1), m.SPSA(seed=0)):
        p = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
        calls = []

        def closure(backward=True, calls=calls, p=p):
            calls.append(backward)
            return (p**2).sum()

        tz.Modular([p], module, m.LR(0.25)).step(closure)
        assert len(calls) >= 2
        assert not any(calls)
        ends.append((p.tolist(), len(calls)))
    assert ends[0] == ends[1]


def test_a_step_that_fails_is_nobodys_turn():
    class Fail(tz.Module):
        """Raises the first time."""

        failed = False

        def step(self, var):
            if not self.failed:
                self.failed = True
                raise RuntimeError("not now")
            return var

    p = torch.zeros(1, requires_grad=True)
    p.grad = torch.zeros(1)
    optimizer = tz.Modular([p], m.Alternate(Fail(), Plus(1.0)))
    with pytest.raises(RuntimeError, match="not now"):
        optimizer.step()
    optimizer.step()
    assert p.item() == 0
    optimizer.step()
    assert p.item() == -1


def test_steps_that_are_none_are_refused():
    for steps in (0, -1, 1.5, [1, 0], [1, 2, 3], [1], "2", None):
        with pytest.raises(ValueError, match="steps="):
            m.Alternate(m.Sign(), m.Sqrt(), steps=steps)
    with pytest.raises(ValueError, match="steps="):
        m.Switch(m.Sign(), m.Sqrt(), steps=[1, 2, 3])
    with pytest.raises(ValueError, match="Switch needs at least one module"):
        m.Switch(steps=2)


# -- extremes ----------------------------------------------------------------------------------------------------------
ALL_OPS = {
    name: make
    for name, (make, _) in ELEMENTWISE.items()
    if name not in ("UnaryParameterwiseLambda", "Reciprocal of zero")
}


@pytest.mark.parametrize("name", ALL_OPS)
def test_empty_and_single_numbers(name):
    """Nothing is made of nothing, without a warning, and one number is a tensor like any other."""
    for dtype in (torch.float64, torch.bfloat16):
        grads = [torch.zeros(0, 3, dtype=dtype), torch.tensor(0.5, dtype=dtype), torch.full((1, 1), 0.5, dtype=dtype)]
        empty, scalar, single = updates_of(ALL_OPS[name](), grads)
        assert empty.shape == (0, 3)
        assert scalar.shape == ()
        assert scalar.isfinite()
        assert single.shape == (1, 1)
        assert scalar.item() == single.item()


# -- what the language has for them ------------------------------------------------------------------------------------
class Formula(tz.Transform):
    """A function of the update and the context."""

    seed: int | None = 0

    def __init__(self, fn):
        super().__init__(dict(seed=0))
        self.fn = fn

    def rule(self, u, ctx):
        return self.fn(u, ctx)


@both
@pytest.mark.parametrize("name", ["max", "eps", "tiny"])
def test_numbers_of_a_dtype(name, compile):
    """Also of two dtypes in one step."""
    grads = [torch.zeros(2, dtype=torch.float32), torch.zeros(2, dtype=torch.float64)]
    for u in updates_of(Formula(lambda u, ctx: u + ctx.finfo(name)), grads, compile=compile):
        assert u.tolist() == [getattr(torch.finfo(u.dtype), name)] * 2


@both
def test_a_number_as_one_of_each_element(compile):
    (u,) = updates_of(Formula(lambda u, ctx: ctx.full(2.0).dot(u) * ctx.full(u)), G, compile=compile)
    same(u, 2 * G.sum() * G)


@both
def test_medians_of_many_values(compile):
    for n in range(1, 12):
        values = torch.randn(n, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        inputs = [[m.Zeros(), m.Lerp(float(v[0]), 1.0)] for v in values]
        (u,) = updates_of(m.MedianModules(*inputs), G[:1], compile=compile)
        same(u, values[:, :1].quantile(0.5, dim=0))


class AddGradient(tz.Module):
    """Adds the gradient; no rule."""

    def step(self, var):
        grads = var.get_grad()
        for u, g in zip(var.get_update(), grads, strict=True):
            u.add_(g)
        return var


@pytest.mark.parametrize("compile", [False, True])
def test_a_gradient_that_only_some_parameters_have_is_asked_for_late(compile):
    """The update was made without it; the others take no part from then on."""
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))

    def closure(backward=True):
        loss = (a**2).sum()
        if backward:
            a.grad = None
            loss.backward()
        return loss

    optimizer = tz.Modular(
        [b, a], m.SPSA(target="update", seed=0), m.Mul(0.0), m.Add(m.Grad()), m.LR(0.25), compile=compile
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compile=True has no effect on SPSA")
        for _ in range(2):
            optimizer.step(closure)
    assert a.tolist() == [0.25, 0.25]
    assert b.tolist() == [1, 1]


@pytest.mark.parametrize("late", [m.Add(m.Grad()), AddGradient()], ids=["rule", "module"])
def test_a_gradient_that_is_gone_when_it_is_asked_for_again(late):
    """The update of its parameter goes with it."""
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    calls = []

    def closure(backward=True):
        calls.append(backward)
        a.grad, b.grad = torch.ones(1), (torch.ones(1) if len(calls) == 1 else None)
        return torch.zeros(())

    tz.Modular([b, a], m.Clone(), m.GradToNone(), late).step(closure)
    assert calls == [True, True]
    assert (a.item(), b.item()) == (-2, 0)
