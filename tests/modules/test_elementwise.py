"""Elementwise modules beside their formulas in plain torch, by hand for one tensor: float64, eager and compiled."""

import importlib
import math
import re

import pytest
import torch

import torchzero_core as tz
from tests.parity import compared
from tests.problems import backward, closure_of, make_params, quadratic, run, segments
from torchzero_core.core.declare import fields_of

m = tz.m
SHAPES = [(3, 4), (2, 2, 3), (5,)]
STEPS = 14
compiled = pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])


def gradients():
    """Gradients of some steps, with signs that change and stay."""
    generator = torch.Generator().manual_seed(3)
    steps = []
    for i in range(STEPS):
        noise = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        steps.append([0.5 * math.cos(i / 3) + n for n in noise])
    return steps


def check(chain, formula, compile=False):
    """A chain moves each tensor as the formula says.

    Args:
        chain: the modules.
        formula: makes a function of the gradient and the parameter that gives the update; it remembers one tensor.
        compile: how to run the chain.
    """
    params = make_params(SHAPES)
    others = [p.detach().clone() for p in params]
    optimizer = tz.Modular(params, *chain, compile=compile)
    updates = [formula() for _ in params]
    for grads in gradients():
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        for q, g, update in zip(others, grads, updates, strict=True):
            q -= update(g, q)
        for p, q in zip(params, others, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-12, atol=1e-12)


class Memory(dict):
    """What a formula remembers; names that it has not set yet are zero."""

    def __missing__(self, key):
        return 0.0


# -- formulas ----------------------------------------------------------------------------------------------------------
def clip_value_by_ema(init, factor):
    def make():
        s = Memory(t=0)

        def update(g, p):
            first = s["t"] == 0 and init == "update"
            s["t"] += 1
            s["e"] = g.abs() if first else 0.8 * s["e"] + 0.2 * g.abs()
            return torch.maximum(torch.minimum(g, factor * s["e"]), -factor * s["e"])

        return update

    return make


def variance(pow, amsgrad, *, root=False, debiased=False):
    def make():
        s = Memory(t=0)

        def update(g, p):
            s["t"] += 1
            s["m"] = 0.8 * s["m"] + 0.2 * g
            s["v"] = 0.8 * s["v"] + 0.2 * g.abs() ** pow
            v = (s["v"] - s["m"].abs() ** pow).clamp(min=0)
            if amsgrad:
                s["max"] = v = torch.maximum(v, torch.as_tensor(s["max"], dtype=v.dtype))
            if debiased:
                v = v / (1 - 0.8 ** s["t"])
            return v ** (1 / pow) if root else v

        return update

    return make


def weighted(weights):
    def make():
        history = []

        def update(g, p):
            history.append(g)
            del history[: -len(weights)]
            w = weights[-len(history) :]
            return sum(a * h for a, h in zip(w, history, strict=True)) / sum(w) if sum(w) else g

        return update

    return make


def average(beta):
    def make():
        s = Memory()

        def update(g, p):
            s["m"] = beta * s["m"] + (1 - beta) * g
            return s["m"]

        return update

    return make


def lion(beta1=0.9, beta2=0.99):
    """The authors' code: google/automl, lion/lion_pytorch.py, without the learning rate."""

    def make():
        s = Memory()

        def update(g, p):
            out = torch.sign(s["m"] * beta1 + g * (1 - beta1))
            s["m"] = s["m"] * beta2 + g * (1 - beta2)
            return out

        return update

    return make


def cautious(inner, g_of=lambda g: g, mode="authors"):
    """The authors' code for "authors": mask = (u·g > 0); mask /= mask.mean().clamp(min=1e-3) in their release."""

    def make():
        update_of = inner()

        def update(g, p):
            u, other = update_of(g, p), g_of(g)
            mask = (u * other > 0).to(u.dtype)
            if mode == "authors":
                return u * mask / mask.mean().clamp(min=1e-3)
            return u * mask + (1 - mask) * {"zero": 0 * u, "grad": other, "backtrack": -u}[mode]

        return update

    return make


def consistent(inner, *, normalize):
    def make():
        update_of = inner()

        def update(g, p):
            mask = (update_of(g, p) * g > 0).double()
            return mask / mask.mean() if normalize else mask

        return update

    return make


def by_sign_change(kind, source=None):
    def make():
        s = Memory()
        update_of = (source or (lambda: lambda g, p: g))()

        def update(g, p):
            u = update_of(g, p)
            c = g if kind.endswith("grad") else u
            product = c * s["prev"]
            s["prev"] = c
            if kind == "mask":
                return (product > 0).double()
            if kind.startswith("back"):
                back, s["u"] = -s["u"] * torch.ones_like(u), u
                return torch.where(product < 0, back if kind.startswith("backtrack") else 0 * u, u)
            lrs = s["lrs"] if "lrs" in s else torch.full_like(u, 0.3)
            factor = 1 + 0.3 * (product > 0).double() - 0.6 * (product < 0).double()
            s["lrs"] = lrs = (lrs * factor).clamp(0.05, 0.9)
            return lrs if kind == "lrs" else lrs * u

        return update

    return make


SIZES = dict(nplus=1.3, nminus=0.4, lb=0.05, ub=0.9, alpha=0.3)
EMA = average(0.8)
FORMULAS = {
    "ClipValueByEMA": (lambda: [m.ClipValueByEMA(0.8)], clip_value_by_ema("zeros", 1)),
    "ClipValueByEMA, update": (
        lambda: [m.ClipValueByEMA(0.8, "update", m.Mul(2))],
        clip_value_by_ema("update", 2),
    ),
    "CenteredEMASquared": (lambda: [m.CenteredEMASquared(0.8)], variance(2, False)),
    "CenteredEMASquared, amsgrad, pow 3": (lambda: [m.CenteredEMASquared(0.8, True, 3)], variance(3, True)),
    "CenteredSqrtEMASquared": (lambda: [m.CenteredSqrtEMASquared(0.8)], variance(2, False, root=True)),
    "CenteredSqrtEMASquared, all": (
        lambda: [m.CenteredSqrtEMASquared(0.8, True, True, 3)],
        variance(3, True, root=True, debiased=True),
    ),
    "WeightedAveraging": (lambda: [m.WeightedAveraging([0.5, 1.0, 3.0])], weighted([0.5, 1.0, 3.0])),
    "WeightedAveraging, oldest": (lambda: [m.WeightedAveraging((2, -1, 0))], weighted([2, -1, 0])),
    "WeightedAveraging, many": (lambda: [m.WeightedAveraging(list(range(1, 31)))], weighted(list(range(1, 31)))),
    "Lion": (lambda: [m.Lion()], lion()),
    "Lion, betas": (lambda: [m.Lion(0.5, 0.7)], lion(0.5, 0.7)),
    "Cautious of the authors": (lambda: [m.EMA(0.8), m.Cautious(normalize=True, eps=1e-3)], cautious(EMA)),
    "Cautious Lion": (lambda: [m.Lion(0.5, 0.7), m.Cautious(normalize=True, eps=1e-3)], cautious(lion(0.5, 0.7))),
    **{
        f"Cautious, {mode}": (lambda mode=mode: [m.EMA(0.8), m.Cautious(mode=mode)], cautious(EMA, mode=mode))
        for mode in ("zero", "grad", "backtrack")
    },
    **{
        f"IntermoduleCautious, {mode}": (
            lambda mode=mode: [m.IntermoduleCautious(m.EMA(0.8), m.Sign(), mode=mode)],
            cautious(EMA, torch.sign, mode),
        )
        for mode in ("zero", "grad", "backtrack")
    },
    "IntermoduleCautious, normalize": (
        lambda: [m.IntermoduleCautious(m.EMA(0.8), [m.Sign(), m.Mul(3)], normalize=True, eps=1e-3)],
        cautious(EMA, torch.sign),
    ),
    "UpdateGradientSignConsistency": (
        lambda: [m.EMA(0.8), m.UpdateGradientSignConsistency()],
        consistent(EMA, normalize=False),
    ),
    "UpdateGradientSignConsistency, normalize": (
        lambda: [m.EMA(0.8), m.UpdateGradientSignConsistency(normalize=True)],
        consistent(EMA, normalize=True),
    ),
    "SignConsistencyMask": (lambda: [m.SignConsistencyMask()], by_sign_change("mask")),
    "SignConsistencyLRs": (lambda: [m.SignConsistencyLRs(**SIZES)], by_sign_change("lrs")),
    "ScaleLRBySignChange": (lambda: [m.ScaleLRBySignChange(**SIZES)], by_sign_change("scale")),
    "ScaleLRBySignChange, grad": (
        lambda: [m.EMA(0.8), m.ScaleLRBySignChange(**SIZES, use_grad=True)],
        by_sign_change("scale grad", EMA),
    ),
    "BacktrackOnSignChange": (lambda: [m.BacktrackOnSignChange()], by_sign_change("backtrack")),
    "BacktrackOnSignChange, stay": (lambda: [m.BacktrackOnSignChange(backtrack=False)], by_sign_change("back")),
    "BacktrackOnSignChange, grad": (
        lambda: [m.EMA(0.8), m.BacktrackOnSignChange(use_grad=True)],
        by_sign_change("backtrack grad", EMA),
    ),
    "BacktrackOnSignChange, grad, stay": (
        lambda: [m.EMA(0.8), m.BacktrackOnSignChange(use_grad=True, backtrack=False)],
        by_sign_change("back grad", EMA),
    ),
    "DirectWeightDecay": (lambda: [m.DirectWeightDecay(0.1), m.LR(0.3)], lambda: lambda g, p: 0.03 * p + 0.3 * g),
    "DirectWeightDecay, l1": (
        lambda: [m.DirectWeightDecay(0.1, 1), m.Mul(0.3)],
        lambda: lambda g, p: 0.1 * p.sign() + 0.3 * g,
    ),
    "DirectWeightDecay, l3": (
        lambda: [m.Mul(2), m.DirectWeightDecay(0.1, ord=3), m.LR(0.3)],
        lambda: lambda g, p: 0.03 * p * p.abs() + 0.6 * g,
    ),
}


@compiled
@pytest.mark.parametrize("name", FORMULAS)
def test_follows_its_formula(name, compile):
    chain, formula = FORMULAS[name]
    check(chain(), formula, compile)


@compiled
def test_cosines_are_those_of_all_parameters(compile):
    for chain, main, other in (
        (lambda: [m.Sign(), m.ScaleByGradCosineSimilarity()], torch.sign, lambda g: g),
        (
            lambda: [m.ScaleModulesByCosineSimilarity(m.Sign(), [m.Pow(3), m.Mul(-1)])],
            torch.sign,
            lambda g: -(g**3),
        ),
    ):
        params = make_params(SHAPES)
        start = torch.cat([p.detach().flatten() for p in params])
        optimizer = tz.Modular(params, *chain(), compile=compile)
        for grads in gradients():
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            optimizer.step()
            g = torch.cat([g.flatten() for g in grads])
            start -= main(g) * torch.cosine_similarity(main(g), other(g), dim=0)
        torch.testing.assert_close(torch.cat([p.detach().flatten() for p in params]), start, rtol=1e-12, atol=1e-12)


def test_zero_has_no_direction():
    for module in (m.ScaleByGradCosineSimilarity(), m.ScaleModulesByCosineSimilarity(m.Identity(), m.Sign())):
        p = torch.ones(3, requires_grad=True)
        p.grad = torch.zeros(3)
        tz.Modular([p], module).step()
        assert torch.equal(p, torch.ones(3))


def test_direct_decay_takes_the_lr_of_the_groups():
    """Of an LR module, of groups without one, and under a scheduler; without any it is 1."""
    for modules, group_lr, expected in (
        ([m.DirectWeightDecay(0.1), m.LR(0.5)], {}, 0.95),
        ([m.DirectWeightDecay(0.1), m.LR(0.5)], {"lr": 0.2}, 0.98),
        ([m.DirectWeightDecay(0.1)], {"lr": 0.2}, 0.98),
        ([m.DirectWeightDecay(0.1)], {}, 0.9),
    ):
        p = torch.ones(2, dtype=torch.float64, requires_grad=True)
        optimizer = tz.Modular([{"params": [p], **group_lr}], *modules)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected), rtol=1e-14, atol=0)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.full_like(p, expected), rtol=1e-14, atol=0)


def test_modules_behind_direct_decay_see_the_decayed_parameters():
    p = torch.full((2,), 2.0, dtype=torch.float64, requires_grad=True)
    p.grad = torch.zeros_like(p)
    tz.Modular([p], m.DirectWeightDecay(0.5), m.WeightDecay(0.5)).step()
    assert p.tolist() == [0.5, 0.5]  # 2 → 1 → 1 - 0.5·1


def test_random_step_sizes_are_even_between_the_bounds():
    for parameterwise in (False, True):
        params = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        optimizer = tz.Modular(params, m.RandomStepSize(0.5, 2.0, parameterwise=parameterwise, seed=1))
        sizes = []
        for _ in range(400):
            before = [p.detach().clone() for p in params]
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            step = torch.stack([b - p.detach() for b, p in zip(before, params, strict=True)])
            torch.testing.assert_close(step[:, 0], step[:, 1])
            assert torch.allclose(step[0], step[1]) != parameterwise
            sizes += step[:, 0].tolist()[: 3 if parameterwise else 1]
        assert 0.5 <= min(sizes) < 0.52 and 1.98 < max(sizes) <= 2.0
        assert abs(sum(sizes) / len(sizes) - 1.25) < 0.06
    with pytest.raises(ValueError, match=r"low=2 is above high=1"):
        m.RandomStepSize(2, 1)


def test_weights_are_looked_at():
    for weights in ([], 3, "12", [1, math.nan], [1, -1], [math.inf]):
        with pytest.raises(ValueError, match=r"weights=.* must be"):
            m.WeightedAveraging(weights)
    with pytest.raises(ValueError, match=r"weights=\[0\] must be"):
        p = torch.zeros(1, requires_grad=True)
        tz.Modular([{"params": [p], "weights": [0]}], m.WeightedAveraging([1]))


def test_weighted_averages_make_no_program_a_step():
    params = make_params(SHAPES)
    optimizer = tz.Modular(params, m.WeightedAveraging([1, 2, 3]))
    run(optimizer, params, 30)
    assert len(segments(optimizer)[0].programs) <= 2


# -- with a closure ----------------------------------------------------------------------------------------------------
def dense(loss, params):
    """The Hessian of a loss as one matrix."""
    sizes = [p.numel() for p in params]
    flat = torch.cat([p.detach().flatten() for p in params])

    def value(x):
        return loss([part.view_as(p) for part, p in zip(x.split(sizes), params, strict=True)])

    return torch.autograd.functional.hessian(value, flat)


def coupled(params):
    """Curved, and with a Hessian that is not diagonal."""
    x = torch.cat([p.flatten() for p in params])
    return quadratic(params) + 0.1 * (x[1:] * x[:-1]).sum() + 0.05 * (x**4).sum()


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("method", ["autograd", "central", "forward"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_matrix_momentum_follows_its_formula(adaptive, method):
    params, lr, beta = make_params(), 0.05, 0.9
    tolerance = {"autograd": 1e-12, "central": 1e-6, "forward": 1e-3}[method]
    cls = m.AdaptiveMatrixMomentum if adaptive else m.MatrixMomentum
    module = cls(0.7 if adaptive else 0.3, beta, hvp_method=method, h=1e-4, hvp_tfm=m.Mul(0.9))
    optimizer = tz.Modular(params, module, m.LR(lr))
    x = flat(params)
    prev, before = None, None
    for _ in range(8):
        twins = [p.detach().clone().requires_grad_() for p in params]
        coupled(twins).backward()
        g, H = torch.cat([p.grad.flatten() for p in twins]), dense(coupled, twins)
        mu = 0.3
        if adaptive and before is not None:
            mu = 0.7 * (x - before[0]).norm() / ((g - before[1]).norm() + 1e-4)
        u = g if prev is None else g + prev - mu * 0.9 * (H @ prev)
        prev, before = beta * u, (x, g)
        x = x - lr * u
        optimizer.step(closure_of(params, coupled))
        torch.testing.assert_close(flat(params), x, rtol=tolerance, atol=tolerance)
        x = flat(params)


def test_matrix_momentum_counts_its_evaluations():
    for method, extra in (("forward", 1), ("central", 2), ("autograd", 1)):
        params = make_params()
        optimizer = tz.Modular(params, m.MatrixMomentum(hvp_method=method), m.LR(0.01))
        calls = []
        closure = closure_of(params)

        def counted(backward=True, closure=closure, calls=calls):
            calls.append(backward)
            return closure(backward)

        optimizer.step(counted)
        assert calls == [True]
        optimizer.step(counted)
        assert len(calls) == 2 + extra
        assert all(p.grad is not None for p in params)


@compared("SophiaH", "formula of the paper, diagonal Hessian")
def test_sophia_is_clipped_newton_where_the_hessian_is_diagonal():
    """Random signs find a diagonal Hessian exactly; the rule is the authors', with their names for its numbers."""
    params, lr, beta1, beta2, rho, gamma, freq = make_params(), 0.1, 0.9, 0.7, 0.8, 1.5, 3
    optimizer = tz.Modular(params, m.SophiaH(beta1, beta2, freq, gamma, rho), m.LR(lr))
    x, exp_avg, h = flat(params), 0.0, 0.0

    def loss(ps):
        return quadratic(ps) + 0.05 * sum((p**4).sum() for p in ps)

    for t in range(1, 11):
        twins = [p.detach().clone().requires_grad_() for p in params]
        loss(twins).backward()
        g = torch.cat([p.grad.flatten() for p in twins])
        exp_avg = beta1 * exp_avg + (1 - beta1) * g
        if t % freq == 1:
            h = beta2 * h + (1 - beta2) * dense(loss, twins).diagonal()
        x = x - lr * (exp_avg / (gamma * h).clamp(min=1e-12)).clamp(-rho, rho)
        optimizer.step(closure_of(params, loss))
        torch.testing.assert_close(flat(params), x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["autograd", "central", "forward"])
def test_sophia_estimates_the_diagonal(method):
    params = make_params()
    module = m.SophiaH(beta2=0, n_samples=400, hvp_method=method, fd_h=1e-4, seed=0)
    optimizer = tz.Modular(params, module, m.LR(0))
    optimizer.step(closure_of(params, coupled))
    found = flat([optimizer.state[p]["SophiaH.h_exp_avg"] for p in params])
    diagonal = dense(coupled, params).diagonal()
    assert (found - diagonal).abs().max() < 0.03
    assert not torch.equal(found, diagonal)


def test_sophia_estimates_only_when_due():
    params = make_params()
    optimizer = tz.Modular(params, m.SophiaH(update_freq=4, n_samples=3), m.LR(0.1))
    graphs = []
    closure = closure_of(params)

    def counted(backward=True):
        graphs.append(not backward)
        return closure(backward)

    for _ in range(9):
        optimizer.step(counted)
    assert len(graphs) == 9 + 3 and sum(graphs) == 3  # one graph an estimate, whatever its samples


def test_a_loss_without_a_graph_is_refused():
    p = torch.ones(2, requires_grad=True)

    def closure(backward=True):
        p.grad = torch.ones_like(p)
        return torch.tensor(1.0)

    for module in (m.SophiaH(), m.MatrixMomentum(hvp_method="autograd")):
        optimizer = tz.Modular([p], module)
        with pytest.raises(RuntimeError, match=rf"{type(module).__name__} needs a loss that can be differentiated"):
            for _ in range(2):
                optimizer.step(closure)


# -- numbers that overflow ---------------------------------------------------------------------------------------------
POWERS = {
    "Adam": lambda: [m.Adam(eps=1e-4, alpha=2.0)],
    "Adam, amsgrad, pow 3": lambda: [m.Adam(eps=1e-4, amsgrad=True, pow=3)],
    "Adam, kernel": lambda: [m.Adam(eps=1e-4)],
    "RMSprop": lambda: [m.RMSprop(eps=1e-4, init="zeros")],
    "RMSprop, update": lambda: [m.RMSprop(eps=1e-4, debiased=True, amsgrad=True)],
    "Adagrad": lambda: [m.Adagrad()],
    "EMASquared": lambda: [m.DivModules(m.Identity(), [m.EMASquared(0.9), m.Sqrt(), m.Add(1e-3)])],
    "SqrtEMASquared": lambda: [m.DivModules(m.Identity(), [m.SqrtEMASquared(0.9, debiased=True), m.Add(1e-3)])],
    "SqrtEMASquared, amsgrad": lambda: [m.DivModules(m.Identity(), [m.SqrtEMASquared(amsgrad=True), m.Add(1e-3)])],
    "NAdam": lambda: [m.NAdam(eps=1e-4)],
    "RAdam": lambda: [m.RAdam(0.9, 0.7, eps=1e-4)],
    "Adadelta": lambda: [m.Adadelta(eps=1e-4)],
    "Adamax": lambda: [m.Adamax(eps=1e-4)],
}


@pytest.mark.parametrize(
    ("dtype", "size", "compile"),
    [
        (torch.float16, 300.0, False),
        (torch.bfloat16, 1e20, False),
        (torch.float32, 1e20, False),
        (torch.float32, 1e20, True),
    ],
)
@pytest.mark.parametrize("name", POWERS)
def test_a_square_that_overflows_makes_no_nan(name, dtype, size, compile):
    p = torch.ones(3, dtype=dtype, requires_grad=True)
    optimizer = tz.Modular([p], *POWERS[name](), m.LR(0.01), compile=compile)
    for g in (1.0, size, 1.0, 1.0, size, 1.0):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    assert p.isfinite().all()
    for g in (1e30, 1.0, -1.0):
        p.grad = torch.full_like(p, g) if dtype is not torch.float16 else torch.full_like(p, min(g, 6e4))
        optimizer.step()
    assert p.isfinite().all()


@compiled
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("size", [3, 20_000])  # by one sum and by another
def test_a_norm_that_overflows_makes_no_nan(size, at, compile):
    for make in (
        m.NormalizeByEMA,
        lambda: m.NormalizeByEMA(tensorwise=False),
        m.ClipNormByEMA,
        m.ClipNormGrowth,
        lambda: m.ClipNorm(1.0),
        m.Normalize,
        m.ScaleByGradCosineSimilarity,
        lambda: m.ScaleModulesByCosineSimilarity(m.Identity(), m.Sign()),
        m.Adafactor,
    ):
        p = torch.ones(size, requires_grad=True)
        optimizer = tz.Modular([p], make(), m.Mul(1e-3), compile=compile)
        for i in range(5):
            p.grad = torch.full_like(p, 1e20 if i == at else 1.0)
            optimizer.step()
        assert p.isfinite().all(), optimizer


# -- ranges ------------------------------------------------------------------------------------------------------------
FAMILIES = ("clipping", "momentum", "optimizers", "step_size", "weight_decay")
#: Settings that check themselves.
UNBOUNDED = {"dim", "weights", "coefficients"}


def numbers():
    """Every setting of the families that is a number."""
    for family in FAMILIES:
        for name in importlib.import_module(f"torchzero_core.modules.{family}").__all__:
            for field in fields_of(getattr(m, name)).values():
                if (
                    re.search(r"\b(float|int)\b", str(field.hint))
                    and field.role is None
                    and field.name not in UNBOUNDED
                ):
                    yield name, field


@pytest.mark.parametrize(("name", "field"), [pytest.param(n, f, id=f"{n}.{f.name}") for n, f in numbers()])
def test_every_number_has_a_range(name, field):
    """What it may be is declared; NaN never is, nor what is outside."""
    assert field.range is not None
    outside = [math.nan, math.nextafter(field.range.low, -math.inf), math.nextafter(field.range.high, math.inf)]
    if math.isinf(field.range.high) and field.range.brackets[1] == ")":
        outside.append(math.inf)
    required = {"ClipNorm": {"max_norm": 1}, "ClipValue": {"value": 1}, "LR": {"lr": 1}}
    required |= {"WeightDecay": {"weight_decay": 0}, "DirectWeightDecay": {"weight_decay": 0}}
    required |= {n: {"history_size": 2} for n in ("Averaging", "MedianAveraging", "Medianveraging")}
    for value in outside:
        if field.range.holds(value) or not field.in_signature:
            continue
        children = {"IntermoduleCautious", "ScaleModulesByCosineSimilarity"}
        operands = {"main": m.Identity(), "compare": m.Identity()} if name in children else {}
        with pytest.raises(ValueError, match=rf"{field.name}=.*(is out of range|must be)"):
            getattr(m, name)(**{**operands, **required.get(name, {}), field.name: value})


def test_numbers_of_hand_written_constructors_have_one_too():
    for make in (
        lambda: m.CoordinateMomentum(1.5),
        lambda: m.CoordinateMomentum(math.nan),
        lambda: m.StepSize(math.nan),
        lambda: m.StepSize(math.inf, key="scale"),
    ):
        with pytest.raises(ValueError, match="is out of range"):
            make()
    p = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="scale=nan is out of range"):
        tz.Modular([{"params": [p], "scale": math.nan}], m.StepSize(1.0, key="scale"))


# -- the average that is held to a growth ------------------------------------------------------------------------------
@compiled
def test_a_burst_is_forgotten(compile):
    """One gradient a thousand times as large: no later step is longer than the growth allows."""
    for cls in (m.NormalizeByEMA, m.ClipNormByEMA):
        for tensorwise in (True, False):
            p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            module = cls(max_ema_growth=1.1, ema_init="update", tensorwise=tensorwise)
            optimizer = tz.Modular([p], module, compile=compile)
            sizes = []
            for t in range(120):
                before = p.item()
                p.grad = torch.full((1,), 1000.0 if t == 50 else 1.0, dtype=torch.float64)
                optimizer.step()
                sizes.append(before - p.item())
            assert 1.0 < max(sizes) <= 1.1 + 1e-12


def test_the_average_starts_small_and_grows_by_the_factor():
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = tz.Modular([p], m.NormalizeByEMA())
    found = []
    for _ in range(5):
        before = p.item()
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        found.append(before - p.item())
    expected = [0.01, 0.015, 0.0225, 0.032275, 0.04195225]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-12, atol=0)


def test_a_parameter_without_a_gradient_keeps_its_average():
    """The factor belongs to the averages of the step in which it was found."""
    a, b = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = tz.Modular([a, b], m.NormalizeByEMA(0.5, tensorwise=False, ema_init="update"))
    a.grad, b.grad = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    optimizer.step()
    a.grad, b.grad = torch.full((1,), 100.0, dtype=torch.float64), None
    optimizer.step()  # a's average is scaled down
    state = optimizer.state
    assert state[b]["NormalizeByEMA.ema"].item() * state[b]["NormalizeByEMA.ema_scale"].item() == 1.0
    assert state[a]["NormalizeByEMA.ema"].item() * state[a]["NormalizeByEMA.ema_scale"].item() < 3


# -- what the language has learned -------------------------------------------------------------------------------------
@compiled
def test_slices_along_different_dimensions_meet(compile):
    """A row and a mean of all, a row and a column: one number for each element, also where none of them has so many."""

    class Meet(tz.Transform):
        def rule(self, u, ctx):
            row, column, all_of_it = u.mean(-1), u.mean(-2), u.mean((-2, -1))
            return row / all_of_it * column + (row > all_of_it).where(row, column) - (all_of_it - row)

    p = make_params([(3, 4), (2, 2, 3), (5,), ()])
    start = [x.detach().clone() for x in p]
    backward(p)
    tz.Modular(p, Meet(), compile=compile).step()
    for x, x0 in zip(p, start, strict=True):
        g = x.grad
        row = g.mean(-1, keepdim=True) if g.ndim else g
        column = g.mean(-2, keepdim=True) if g.ndim > 1 else g
        whole = g.mean((-2, -1), keepdim=True) if g.ndim > 1 else row
        expected = row / whole * column + torch.where(row > whole, row, column) - (whole - row)
        torch.testing.assert_close(x.detach(), x0 - expected, rtol=1e-12, atol=1e-12)


def test_a_rule_can_evaluate_the_closure():
    """For all parameters that come to it together, in whatever buckets they are."""

    class Ahead(tz.Transform):
        """The gradient where a step would lead, as in extragradient methods."""

        requires_closure = True
        factor: float = 1.0

        def look(self, var):
            update, params = var.get_update(), var.params
            torch._foreach_sub_(list(params), update)
            try:
                var.closure(True)
                grads = [p.grad.clone() for p in params]
            finally:
                torch._foreach_add_(list(params), update)
            calls.append(len(params))
            return grads

        def rule(self, u, ctx):
            return ctx.settings.factor * ctx.evaluate(self.look, 0.1 * u)

    calls = []
    params = make_params()
    twins = [p.detach().clone().requires_grad_() for p in params]
    groups = [{"params": params[:1]}, {"params": params[1:], "factor": 2.0}]
    optimizer = tz.Modular(groups, Ahead(), m.LR(0.1))
    optimizer.step(closure_of(params))
    assert calls == [3]
    backward(twins)
    ahead = [(q.detach() - 0.1 * q.grad).requires_grad_() for q in twins]
    backward(ahead)
    for p, q, a, factor in zip(params, twins, ahead, (1, 2, 2), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 0.1 * factor * a.grad, rtol=1e-12, atol=1e-12)
