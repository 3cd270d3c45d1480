"""Each recipe does what it claims: torch's own optimizers in float64, a formula, or the chain that it stands for."""

import inspect

import pytest
import torch
from torch import nn, optim

import torchzero_core as tz
from tests.problems import backward, closure_of, make_params, run
from torchzero_core import recipes as r

DECAY = {"weight_decay": 0.1}
#: What equals an optimizer of torch: arguments of the recipe, the optimizer, its arguments.
TORCH = {
    "sgd": ({"lr": 0.1}, optim.SGD, {"lr": 0.1}),
    "sgd, momentum": ({"lr": 0.05, "momentum": 0.9, **DECAY}, optim.SGD, {"lr": 0.05, "momentum": 0.9, **DECAY}),
    "sgd, nesterov": (
        {"lr": 0.05, "momentum": 0.9, "nesterov": True}, optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    ),
    "asgd": ({}, optim.ASGD, {}),
    "adam": ({}, optim.Adam, {}),
    "adam, decay, amsgrad": ({"amsgrad": True, **DECAY}, optim.Adam, {"amsgrad": True, **DECAY}),
    "adamw": ({}, optim.AdamW, {}),
    "adamw, betas": ({"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}, optim.AdamW, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "nadam": (DECAY, optim.NAdam, DECAY),
    "radam": (DECAY, optim.RAdam, DECAY),
    "adamax": (DECAY, optim.Adamax, DECAY),
    "adagrad": ({"lr_decay": 0.1, **DECAY}, optim.Adagrad, {"lr_decay": 0.1, **DECAY}),
    "adadelta": (DECAY, optim.Adadelta, DECAY),
    "rmsprop": (
        {"momentum": 0.5, "centered": True, "smoothing": 0.9, **DECAY},
        optim.RMSprop,
        {"momentum": 0.5, "centered": True, "alpha": 0.9, **DECAY},
    ),
    "rprop": ({}, optim.Rprop, {}),
    "adafactor": (DECAY, optim.Adafactor, {"eps": (2.0**-23, 1e-3), **DECAY}),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_it_equals_torch(name):
    ours, theirs = make_params(), make_params()
    mine, cls, others = TORCH[name]
    recipe = getattr(r, name.split(",")[0])
    pair = (ours, tz.Modular(ours, *recipe(**mine))), (theirs, cls(theirs, **others))
    for _ in range(30):
        for params, optimizer in pair:
            backward(params)
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):  # torch keeps some numbers of ASGD and NAdam in float32
        torch.testing.assert_close(p, q, rtol=1e-7 if name in ("asgd", "nadam") else 1e-12, atol=1e-9)


def test_without_arguments_a_recipe_has_the_defaults_of_torch():
    """Where both have a setting, it is the same number."""
    for name in ("asgd", "adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "rprop"):
        ours = {k: p.default for k, p in inspect.signature(getattr(r, name)).parameters.items()}
        cls = next(getattr(optim, n) for n in dir(optim) if n.lower() == name)
        theirs = {k: p.default for k, p in inspect.signature(cls).parameters.items()}
        shared = set(ours) & set(theirs)
        assert "lr" in shared
        assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}, name


def test_muon_equals_torch_in_its_precision():
    ours, theirs = make_params([(6, 10)]), make_params([(6, 10)])
    chain = r.muon(lr=0.01, momentum=0.9)
    chain[0] = tz.m.Muon(0.9, ns_dtype="bfloat16")
    mine = tz.Modular(ours, *chain)
    other = optim.Muon(theirs, lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    for _ in range(10):
        for params, optimizer in ((ours, mine), (theirs, other)):
            backward(params)
            optimizer.step()
    assert (ours[0] - theirs[0]).abs().max() < 0.01 * 10 * 0.01


def formula(step):
    """The parameters after 20 steps of p ← step(p, g, state, t)."""
    params = make_params()
    states = [{} for _ in params]
    for t in range(1, 21):
        backward(params)
        with torch.no_grad():
            for p, state in zip(params, states, strict=True):
                p.copy_(step(p, p.grad, state, t))
    return params


def average(state, name, value, beta):
    state[name] = beta * state.get(name, 0.0) + (1 - beta) * value
    return state[name]


def adam_step(g, state, t):
    m, v = average(state, "m", g, 0.9), average(state, "v", g * g, 0.999)
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def lion(p, g, s, t):
    m = s.get("m", torch.zeros_like(g))
    s["m"] = 0.99 * m + 0.01 * g
    return p - 0.1 * ((0.9 * m + 0.1 * g).sign() + 0.1 * p)


def signum(p, g, s, t):
    s["v"] = g if "v" not in s else 0.9 * s["v"] + g
    return p - 0.1 * s["v"].sign()


def sgdw(p, g, s, t):
    s["v"] = g if "v" not in s else 0.9 * s["v"] + g
    return p - 0.1 * (s["v"] + 0.01 * p)


def laprop(p, g, s, t):
    v = average(s, "v", g * g, 0.999) / (1 - 0.999**t)
    return p - 0.1 * average(s, "m", g / (v.sqrt() + 1e-15), 0.9) / (1 - 0.9**t)


def cautious(p, g, s, t):
    u = adam_step(g, s, t)
    return p - 0.1 * (u * (u * g > 0) + 0.01 * p)


def grams(p, g, s, t):
    return p - 0.1 * (adam_step(g, s, t).abs() * g.sign() + 0.01 * p)


FORMULAS = {"lion": lion, "signum": signum, "sgdw": sgdw, "laprop": laprop, "cautious_adamw": cautious, "grams": grams}


@pytest.mark.parametrize("name", FORMULAS)
def test_it_equals_its_formula(name):
    params = make_params()
    run(tz.Modular(params, *getattr(r, name)(lr=0.1)), params, 20)
    for p, q in zip(params, formula(FORMULAS[name]), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


def rosenbrock():
    p = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)

    def closure(backward=True):
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        if backward:
            p.grad = None
            loss.backward()
        return loss

    return p, closure


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [("bfgs", 40, 1e-15), ("lbfgs", 50, 1e-15), ("newton_cg", 40, 1e-12), ("trust_newton", 40, 1e-12), ("cg", 80, 1e-9),
     ("gradient_descent", 400, 1.0)],
)  # fmt: skip
def test_it_minimises(name, steps, least):
    p, closure = rosenbrock()
    optimizer = tz.Modular([p], *getattr(r, name)())
    for _ in range(steps):
        optimizer.step(closure)
    assert closure(False).item() < least


@pytest.mark.parametrize(("name", "options"), [("spsa", {"lr": 0.02}), ("mezo", {"lr": 0.02})])
def test_it_goes_down_without_gradients(name, options):
    params = make_params([(3,)])
    optimizer = tz.Modular(params, *getattr(r, name)(seed=0, **options))
    losses = [float(optimizer.step(closure_of(params))) for _ in range(300)]
    assert losses[-1] < 0.05 * losses[0]
    assert optimizer.last_step.backward_evaluations == 0


def test_matrix_methods_are_the_chains_they_say():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    for name in ("muon_adam", "soap", "shampoo"):
        net = nn.Sequential(*(type(layer)(*_sizes(layer)) for layer in model))
        net.load_state_dict(model.state_dict())
        optimizer = tz.Modular(net, *getattr(r, name)(lr=0.01))
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = (net(x) - x.sum(1, keepdim=True).sin()).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0], name
    optimizer = tz.Modular(model, *r.muon_adam())
    split = optimizer.modules[0]
    assert split.choice()["true"] == ["0.weight", "2.weight"]


def _sizes(layer):
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else ()


def test_adam_first_and_then_lbfgs():
    p, closure = rosenbrock()
    q, other = rosenbrock()
    optimizer, adam = tz.Modular([p], *r.adam_then_lbfgs(lr=0.05, steps=30)), tz.Modular([q], *r.adam(lr=0.05))
    for _ in range(30):
        optimizer.step(closure)
        adam.step(other)
    assert torch.equal(p, q)
    for _ in range(40):
        optimizer.step(closure)
    assert closure(False).item() < 1e-12


def test_every_recipe_is_tested_here():
    closures = {"gradient_descent", "cg", "bfgs", "lbfgs", "newton_cg", "trust_newton", "spsa", "mezo"}
    tested = {name.split(",")[0] for name in TORCH} | set(FORMULAS) | closures
    assert tested | {"muon", "muon_adam", "soap", "shampoo", "adam_then_lbfgs"} == set(r.RECIPES)


def test_a_recipe_says_whether_it_needs_a_closure():
    for name, recipe in r.RECIPES.items():
        needs = any(m.requires_closure for m in tz.Modular(nn.Linear(2, 2), *recipe(), advice=False).unrolled_modules)
        assert needs == ("needs a closure" in inspect.getdoc(recipe)), name


def test_each_call_makes_new_modules_that_print_and_can_be_changed():
    first, second = r.adamw(), r.adamw()
    assert not set(map(id, first)) & set(map(id, second))
    first.insert(0, tz.m.ClipNorm(1.0))
    del first[2]
    assert repr(first).startswith("[ClipNorm(max_norm=1.0") and repr(first).endswith("LR(lr=0.001)]")
    assert tz.Modular(nn.Linear(2, 2), *first)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: tz.recipes.AdamW, r"It is called tz\.recipes\.adamw"),
        (lambda: tz.recipes.adamm, r"Did you mean tz\.recipes\.adam"),
        (lambda: tz.m.AdamW, r"it is a chain here: .* The recipe tz\.recipes\.adamw\(\) has its modules in a list"),
        (lambda: tz.m.sgd, r"tz\.recipes\.sgd\(momentum=0\.9\)"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(ask, message):
    with pytest.raises(AttributeError, match=message):
        ask()


def test_get_goes_by_any_spelling():
    assert r.get("Muon-Adam") is r.muon_adam and r.names()[0] == "sgd"
    with pytest.raises(ValueError, match=r"no recipe is called 'admw'\. Did you mean adamw"):
        r.get("admw")
