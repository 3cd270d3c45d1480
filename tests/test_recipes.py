"""The recipes and code blocks that the reference library's documentation gives, as a reader would paste them.

What they promise is compared with the formula of the paper; a block that needs a module which is not there is skipped.
"""

import re

import pytest
import torch
from torch import nn

import torchzero_core as tz
from tests.parity import apart, compared, found
from tests.problems import closure_of, make_params, quadratic, run

m = tz.m
LR = 0.05


def there(*names):
    """Skips where a module is missing."""
    missing = [n for n in names if not hasattr(m, n)]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} yet")


def gradient_of(params):
    for p in params:
        p.grad = None
    quadratic(params).backward()
    return [p.grad.clone() for p in params]


def follow(modules, formula, steps=30, compile=False):
    """A chain with a learning rate makes the steps of a formula, which remembers one tensor."""
    ours = make_params()
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    optimizer = tz.Modular(ours, *modules, m.LR(LR), compile=compile)
    formulas = [formula() for _ in theirs]
    for _ in range(steps):
        gradient_of(ours)
        optimizer.step()
        grads = gradient_of(theirs)
        with torch.no_grad():
            for p, g, update in zip(theirs, grads, formulas, strict=True):
                p -= LR * update(g)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


def adam(beta1=0.9, beta2=0.999, eps=1e-8):
    def make():
        s = {"m": 0.0, "v": 0.0, "t": 0}

        def update(g):
            s["t"] += 1
            s["m"] = beta1 * s["m"] + (1 - beta1) * g
            s["v"] = beta2 * s["v"] + (1 - beta2) * g * g
            return s["m"] / (1 - beta1 ** s["t"]) / ((s["v"] / (1 - beta2 ** s["t"])).sqrt() + eps)

        return update

    return make


def then(inner, outer):
    """A formula of the gradient and what another formula makes of it."""

    def make():
        update = inner()
        return lambda g: outer(update(g), g)

    return make


def laprop(beta=0.99):
    """Average of normalised gradients (Ziyin et al. 2020), with v₀ = g² as RMSprop has it here."""

    def make():
        s = {"m": 0.0, "v": None}

        def update(g):
            s["v"] = g * g if s["v"] is None else beta * s["v"] + (1 - beta) * g * g
            s["m"] = 0.9 * s["m"] + 0.1 * g / (s["v"].sqrt() + 1e-8)
            return s["m"]

        return update

    return make


def signum():
    s = {"v": None}

    def update(g):
        s["v"] = g if s["v"] is None else 0.9 * s["v"] + g
        return s["v"].sign()

    return update


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
class TestRecipes:
    @there("GradSign")
    @compared("Grams: Adam, GradSign", "formula of the paper")
    def test_grams(self, compile):
        """Gradient descent with the magnitudes of Adam (Cao et al. 2024)."""
        follow([tz.m.Adam(), tz.m.GradSign()], then(adam(), lambda u, g: u.abs() * g.sign()), compile=compile)

    @compared("LaProp: RMSprop, EMA", "formula of the paper")
    def test_laprop(self, compile):
        follow([tz.m.RMSprop(), tz.m.EMA(0.9)], laprop(), compile=compile)

    @compared("Signum: HeavyBall, Sign", "formula of the paper")
    def test_signum(self, compile):
        follow([tz.m.HeavyBall(), tz.m.Sign()], lambda: signum(), compile=compile)

    @compared("Adam, Cautious", "formula of the paper")
    def test_cautious_adam(self, compile):
        follow([tz.m.Adam(), tz.m.Cautious()], then(adam(), lambda u, g: u * (u * g > 0)), compile=compile)


@compared("FullMatrixAdagrad with EMA, of every shape", "full-matrix Adam in closed form")
def test_full_matrix_adam():
    """Adam with the whole matrix of products of gradients in the place of their squares, in closed form."""
    beta1, beta2 = 0.9, 0.999

    def make():
        s = {"m": 0.0, "GG": None}

        def update(g):
            flat = g.flatten()
            s["GG"] = torch.eye(len(flat), dtype=g.dtype) if s["GG"] is None else s["GG"]
            s["GG"] = beta2 * s["GG"] + (1 - beta2) * flat.outer(flat)
            s["m"] = beta1 * s["m"] + (1 - beta1) * flat
            values, vectors = torch.linalg.eigh(s["GG"])
            return (vectors @ ((vectors.T @ s["m"]) / values.sqrt())).view_as(g)

        return update

    follow([tz.m.FullMatrixAdagrad(beta=0.999, inner=tz.m.EMA(0.9))], make, steps=15)


@there("SOAP")
@compared("SOAP, Cautious", "SOAP where the gradient agrees")
def test_cautious_soap():
    """Elements that the gradient contradicts stay where they are, the others do as with SOAP alone."""
    plain, cautious = make_params([(3, 4)]), make_params([(3, 4)])
    ours = [
        tz.Modular(plain, tz.m.SOAP(), tz.m.LR(0.1)),
        tz.Modular(cautious, tz.m.SOAP(), tz.m.Cautious(), tz.m.LR(0.1)),
    ]
    held = 0
    for i in range(12):
        before = [p[0].detach().clone() for p in (plain, cautious)]
        with torch.no_grad():
            cautious[0].copy_(plain[0])
        g = torch.sin(torch.arange(12.0, dtype=torch.float64) * (i + 1)).view(3, 4)
        for params, optimizer in zip((plain, cautious), ours, strict=True):
            params[0].grad = g.clone()
            optimizer.step()
        step, careful = before[0] - plain[0].detach(), before[0] - cautious[0].detach()
        torch.testing.assert_close(careful, step * (step * g > 0), rtol=1e-9, atol=1e-12)
        held += int((careful == 0).sum())
    assert held > 12 + 5  # the first step of SOAP only looks


def spellings(amsgrad):
    """The five ways to spell Adam, in order of their involvement; the first three know no amsgrad there."""
    last = tz.m.DivModules(
        [tz.m.EMA(0.9), tz.m.Debias(beta1=0.9)],
        [
            tz.m.Pow(2),
            tz.m.EMA(0.999),
            tz.m.AccumulateMaximum() if amsgrad else tz.m.Identity(),
            tz.m.Sqrt(),
            tz.m.Debias2(beta=0.999),
            tz.m.Add(1e-8),
        ],
    )
    if amsgrad:
        return {"Adam": tz.m.Adam(amsgrad=True), "pieces": last}
    return {
        "Adam": tz.m.Adam(),
        "RMSprop of EMA": [
            tz.m.RMSprop(0.999, debiased=True, init="zeros", inner=tz.m.EMA(0.9)),
            tz.m.Debias(beta1=0.9),
        ],
        "SqrtEMASquared": tz.m.DivModules(
            tz.m.EMA(0.9, debiased=True), [tz.m.SqrtEMASquared(0.999, debiased=True), tz.m.Add(1e-8)]
        ),
        "EMASquared": tz.m.DivModules(
            [tz.m.EMA(0.9), tz.m.Debias(beta1=0.9, beta2=0.999)],
            [tz.m.EMASquared(0.999), tz.m.Sqrt(), tz.m.Add(1e-8)],
        ),
        "pieces": last,
    }


@pytest.mark.parity
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_five_spellings_of_adam(amsgrad, compile):
    """As torch has it; in "EMASquared" ε stands inside the bias correction, RMSprop alone leaves that of m out."""
    theirs = make_params()
    reference = torch.optim.Adam(theirs, lr=LR, amsgrad=amsgrad)
    for _ in range(30):
        gradient_of(theirs)
        reference.step()
    for name, chain in spellings(amsgrad).items():
        ours = make_params()
        run(tz.Modular(ours, chain, tz.m.LR(LR), compile=compile), ours, 30)
        tolerance = 1e-6 if name == "EMASquared" else 1e-12
        for p, q in zip(ours, theirs, strict=True):
            found(apart(p, q), f"Adam spelled as {name}{', amsgrad' * amsgrad}", "torch.optim.Adam")
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=lambda t, name=name: f"{name}: {t}")


def test_rmsprop_of_an_average_as_it_is_written():
    chain = tz.m.RMSprop(0.999, debiased=True, init="zeros", inner=tz.m.EMA(0.9))
    ours = make_params()
    run(tz.Modular(ours, chain, tz.m.LR(LR)), ours, 200)
    assert all((p - (i + 1)).abs().max() < 0.05 for i, p in enumerate(ours))


QUICK_START = """
import torch
from torch import nn
import torchzero as tz

model = nn.Linear(10, 1)
criterion = nn.MSELoss()
inputs = torch.randn(5, 10)
targets = torch.randn(5, 1)

optimizer = tz.Modular(
    model.parameters(),
    tz.m.ClipValue(10),
    tz.m.Adam(),
    tz.m.NormalizeByEMA(max_ema_growth=1.1),
    tz.m.WeightDecay(1e-4),
    tz.m.LR(1e-1),
)

losses = []
for epoch in range(100):
    optimizer.zero_grad()
    output = model(inputs)
    loss = criterion(output, targets)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
"""
ROSENBROCK = """
import torch
import torchzero as tz

def rosen(x, y):
    return (1 - x) ** 2 + 100 * (y - x ** 2) ** 2

W = torch.tensor([-1.1, 2.5], requires_grad=True)

def closure(backward=True):
    loss = rosen(*W)
    if backward:
        W.grad = None # same as opt.zero_grad()
        loss.backward()
    return loss

opt = tz.Modular([W], tz.m.NewtonCG(), tz.m.StrongWolfe())
losses = []
for step in range(20):
    loss = opt.step(closure)
    losses.append(loss.item())
"""
HEAVY_BALL = """
import torch
from torchzero.core import Module, Var

class OwnHeavyBall(Module):
    def __init__(self, momentum: float = 0.9, dampening: float = 0):
        defaults = dict(momentum=momentum, dampening=dampening)
        super().__init__(defaults)

    def step(self, var: Var):
        params = var.params
        update = var.get_update() # list of tensors

        exp_avg_list = []
        for p, u in zip(params, update):
            state = self.state[p]
            settings = self.settings[p]
            momentum = settings['momentum']
            dampening = settings['dampening']

            if 'momentum_buffer' not in state:
                state['momentum_buffer'] = torch.zeros_like(p)

            buf = state['momentum_buffer']
            u *= 1 - dampening

            buf.mul_(momentum).add_(u)
            exp_avg_list.append(buf.clone())

        var.update = exp_avg_list
        return var
"""


def paste(text):
    """Runs a block with the name of this library in the place of the reference's; what it has defined."""
    namespace = {"__name__": "__main__"}
    exec(re.sub(r"\btorchzero\b", "torchzero_core", text), namespace)
    return namespace


def test_quick_start():
    torch.manual_seed(0)
    losses = paste(QUICK_START)["losses"]
    assert losses[-1] < 0.05 * losses[0]


def test_rosenbrock():
    losses = paste(ROSENBROCK)["losses"]
    assert losses[0] > 150 and losses[-1] < 1e-3 * losses[0]


def test_a_module_of_ones_own():
    ours, theirs = make_params(), make_params()
    run(tz.Modular(ours, paste(HEAVY_BALL)["OwnHeavyBall"](0.8), tz.m.LR(LR)), ours, 20)
    reference = torch.optim.SGD(theirs, LR, momentum=0.8)
    for _ in range(20):
        gradient_of(theirs)
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_training_loop_with_a_closure():
    torch.manual_seed(0)
    criterion = nn.MSELoss()
    data = torch.randn(16, 4)
    dataloader = [(data[i : i + 8], data[i : i + 8].sum(1, keepdim=True).tanh()) for i in (0, 8)] * 20
    for modules in ([tz.m.BFGS(), tz.m.Backtracking()], [tz.m.Adam(), tz.m.LR(0.05)]):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = tz.Modular(model.parameters(), *modules)
        seen = []
        for inputs, targets in dataloader:

            def closure(backward=True, inputs=inputs, targets=targets, model=model, optimizer=optimizer):
                loss = criterion(model(inputs), targets)
                if backward:
                    optimizer.zero_grad()
                    loss.backward()
                return loss

            seen.append(float(optimizer.step(closure)))
        assert seen[-1] < 0.5 * seen[0]


@there("GaussianSmoothing", "AdaptiveBacktracking")
def test_a_method_on_a_smoothed_gradient():
    torch.manual_seed(0)
    params = make_params()
    optimizer = tz.Modular(
        params,
        tz.m.GaussianSmoothing(h=0.01, n_samples=10),
        tz.m.NewtonCG(hvp_method="forward"),
        tz.m.AdaptiveBacktracking(),
    )
    losses = [float(optimizer.step(closure_of(params))) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


@there("GaLore", "Shampoo")
def test_galore_of_a_graft():
    params = make_params([(8, 6), (5,)])
    chain = tz.m.GaLore([tz.m.GraftModules(tz.m.Shampoo(), tz.m.RMSprop()), tz.m.LR(1e-2)])
    losses = run(tz.Modular(params, chain), params, 150)
    assert losses[-1] < 0.8 * losses[0]


@there("Shampoo")
@compared("GraftModules(Shampoo, RMSprop)", "direction of one, norm of the other")
def test_a_graft_has_the_norm_of_one_and_the_direction_of_the_other():
    runs = {}
    for name, modules in {
        "graft": [tz.m.GraftModules(tz.m.Shampoo(), tz.m.RMSprop())],
        "direction": [tz.m.Shampoo()],
        "magnitude": [tz.m.RMSprop()],
    }.items():
        params = make_params([(8, 6)])
        before = params[0].detach().clone()
        run(tz.Modular(params, *modules), params, 1)
        runs[name] = before - params[0].detach()
    torch.testing.assert_close(runs["graft"].norm(), runs["magnitude"].norm(), rtol=1e-5, atol=0)
    cosine = torch.cosine_similarity(runs["graft"].flatten(), runs["direction"].flatten(), dim=0)
    assert abs(float(cosine) - 1) < 1e-12
